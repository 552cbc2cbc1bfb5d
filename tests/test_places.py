"""What `nightrank serve` prints about where everything is."""

from __future__ import annotations

from typing import Any

import pytest

from nightrank.service import places
from nightrank.service.serve_config import load_serve_config
from pages import ROOT


def node(number: int, *, state: str = "ALIVE") -> dict[str, Any]:
    """What Ray's dashboard says of a node, less what is not looked at."""
    return {
        "state": state,
        "nodeManagerAddress": f"10.0.0.{number}",
        "metricsExportPort": 8080,
        "sessionDir": "/tmp/ray/session_1",
    }


def block(**keys: str) -> dict[str, str]:
    config = load_serve_config(ROOT / "serve_config.yaml")
    args = config.args.model_copy(update=keys)
    told = places.places(
        config.model_copy(update={"args": args}),
        base="http://127.0.0.1:8000",
        ingress="haproxy",
        dashboard_url="http://127.0.0.1:1",
        store="s3://bucket/store",
    )
    assert len({len(line) - len(line[11:].lstrip()) for line in told.splitlines()}) == 1  # aligned
    return {line[:11].strip(): line[11:] for line in told.splitlines()}


def test_a_cluster_that_does_not_answer_costs_its_own_lines_alone() -> None:
    """The service runs already: what cannot be found out is no reason to end it."""
    told = block()
    assert told["counts"] == "http://127.0.0.1:8000/v1/stats"
    assert told["store"] == "s3://bucket/store"
    assert {"metrics", "logs"}.isdisjoint(told)


def test_who_may_ask_is_said() -> None:
    """Open reads are in plain sight; with keys it is said where they are."""
    assert block()["keys"] == "none: reads are open, admin calls are refused"
    assert block(keys="/etc/nightrank/keys.json")["keys"] == "/etc/nightrank/keys.json"


def test_another_shell_finds_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one's own has addresses and a token that nobody knows; `serve status` and Prometheus need them."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:20003")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/tmp/nr-1 2/auth_token")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    told = block()
    assert told["token"].endswith("/auth_token")
    assert told["clients"] == "export RAY_ADDRESS=127.0.0.1:20003"
    assert told[""] == "export RAY_AUTH_TOKEN_PATH='/tmp/nr-1 2/auth_token'"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "token" not in block()
    assert "secret" not in str(block())


def test_haproxys_page_is_told_where_there_is_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HAProxy refuses is counted there alone."""
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "20012")
    page = "http://127.0.0.1:20012/metrics  (HAProxy's, on its own node)"
    assert page in [text for _, text in places._of_nodes([node(1)], "http://dashboard")]
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert page not in [text for _, text in places._of_nodes([node(1)], "http://dashboard")]


def test_nodes_that_are_gone_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus is pointed at nodes that answer; a large cluster does not fill the terminal."""
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    nodes = [node(1, state="DEAD"), *(node(number) for number in range(2, 8))]
    lines = [text for _, text in places._of_nodes(nodes, "http://dashboard")]
    assert lines[:4] == [
        "http://10.0.0.2:8080/metrics",
        "http://10.0.0.3:8080/metrics",
        "http://10.0.0.4:8080/metrics",
        "and 3 more nodes",
    ]
    assert lines[-1] == "/tmp/ray/session_1/logs/serve  (on each node)"
    assert list(places._of_nodes([node(1, state="DEAD")], "http://dashboard")) == []
