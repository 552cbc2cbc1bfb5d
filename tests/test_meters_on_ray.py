"""The metrics on the page that Prometheus reads."""

from __future__ import annotations

import re
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.cluster.session import joined
from nightrank.service.places import places
from nightrank.service.serve_config import load_serve_config
from pages import ROOT

pytestmark = pytest.mark.ray


def test_what_is_counted_appears_for_prometheus(cluster: LocalCluster) -> None:
    """Each number reaches Ray's page under its documented name, and pushing again adds nothing twice."""
    with applied_env(cluster), joined():
        import ray

        @ray.remote(num_cpus=0.1)
        class Replica:
            def __init__(self) -> None:
                from nightrank.service.meters import Meters
                from nightrank.service.prometheus import Prometheus

                self.meters = Meters()
                self.prometheus = Prometheus(self.meters)
                self.meters.holds("one", created=datetime(2020, 1, 1, tzinfo=UTC))
                self.meters.swapped("refused")
                self.meters.activated("refused")

            def answer(self, source: str, seconds: float) -> None:
                self.meters.answered(route="/v1/test", source=source, status=200, seconds=seconds)
                self.prometheus.push()
                self.prometheus.push()

        replica = Replica.remote()
        for seconds in (0.002, 0.02, 20.0):
            ray.get(replica.answer.remote("popular", seconds))
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        found = values(url)
        by = {"route": "/v1/test", "source": "popular"}
        assert found["ray_nightrank_requests_total", label(**by, status="200")] == 3
        assert found["ray_nightrank_recommendations_total", label(source="popular")] == 3
        counts = {"0.001": None, "0.00316": 1, "0.0316": 2, "10": 2, "+Inf": 3}
        for le, count in counts.items():
            assert found.get(("ray_nightrank_request_seconds_bucket_total", label(**by, le=le))) == count
        assert found["ray_nightrank_request_seconds_sum_total", label(**by)] == pytest.approx(20.022)
        assert found["ray_nightrank_swaps_total", label(outcome="refused")] == 1
        assert found["ray_nightrank_activations_total", label(outcome="refused")] == 1
        assert found["ray_nightrank_release_held", label()] == 1
        assert found["ray_nightrank_release_age_seconds", label()] > 6 * 365 * 86400
        assert_is_told_where(cluster, url)


def assert_is_told_where(cluster: LocalCluster, url: str) -> None:
    """`nightrank serve` prints that page, and a folder of logs on this machine."""
    block = places(
        load_serve_config(ROOT / "serve_config.yaml"),
        base="http://127.0.0.1:1",
        ingress=cluster.ingress,
        dashboard_url=cluster.dashboard_url,
        store="/store",
    )
    (logs,) = re.findall(r"^logs +(\S+)/serve ", block, re.M)
    assert Path(logs).is_dir()
    assert re.search(rf"^metrics +{re.escape(url)}$", block, re.M)


OURS = ("route", "source", "status", "le", "outcome")


def label(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def values(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Our metrics with our labels, once all three requests are there: Ray's processes report every ten seconds."""
    for _ in range(120):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("ray_nightrank_") and not re.search('replica="[^"]', line):  # no other test's
                name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
                pairs = {one: text for one, text in re.findall(r'(\w+)="([^"]+)"', labels) if one in OURS}
                found[name, frozenset(pairs.items())] = float(value)
        if 3 in (value for (name, _), value in found.items() if name == "ray_nightrank_requests_total"):
            return found
        time.sleep(0.5)
    raise AssertionError(f"not reported in time: {found}")
