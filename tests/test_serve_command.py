"""`nightrank serve`: what it refuses to start on, and when it ends."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from nightrank.cli.app import app
from nightrank.cluster import ports, watch
from nightrank.cluster.local import applied_env, local_cluster
from nightrank.cluster.node_env import FOREIGN
from nightrank.errors import ClusterError
from nightrank.service.serve_config import load_serve_config
from pages import ROOT


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)  # type: ignore[attr-defined]
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def head(*statuses: int) -> Iterator[http.server.HTTPServer]:
    """A dashboard that answers with these, then with 200."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    server.statuses = list(statuses)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_an_asked_port_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever named a port looks for the service there; nothing is started."""
    for name in (*FOREIGN, "NIGHTRANK_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        shown = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert isinstance(shown.exception, ClusterError)
    assert f"port {port} is taken" in str(shown.exception)
    assert CliRunner().invoke(app, ["serve", "--port", "0"]).exit_code == 2


def test_a_port_that_another_cluster_holds_is_not_available() -> None:
    """It takes the port minutes after its start: until then nobody listens there."""
    with socket.socket() as probe:  # a port that no connection of a cluster beside these tests has
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", port))
        assert ports.is_free(port)
        assert not ports.is_available(port)
    assert ports.is_available(port)


def test_a_joined_cluster_that_is_gone_is_noticed() -> None:
    """Otherwise the command stays for ever, and says that Ctrl-C stops what has long stopped."""
    with head() as server:
        url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(ClusterError, match=f"{url} does not answer any more"):
        watch.watch(url, period_s=0.01)


def test_one_silence_is_no_death() -> None:
    """A head that is busy, or a proxy in front that lets nobody in, is there."""
    with head(503, 503, 200, 401, 503, 503, 200, 503, 503, 503) as server:
        with pytest.raises(ClusterError):
            watch.watch(f"http://127.0.0.1:{server.server_port}", period_s=0.01)
        assert server.statuses == []  # type: ignore[attr-defined]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.parametrize("how", ["interrupt", "Ray dies"])
def test_it_ends_when_told_and_when_ray_does(how: str, tmp_path: Path) -> None:
    """Started in the background by a script, which has it ignore SIGINT; nothing of it stays."""
    names = [name for name in os.environ if name.startswith("RAY_") or name == "NIGHTRANK_HTTP_PORT"]
    env = {name: value for name, value in os.environ.items() if name not in names}
    env["NIGHTRANK_HOME"] = str(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "nightrank", "serve"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "Ctrl-C stops it\n":
                break
        folder = re.search(r"^token +(/tmp/nr-\w+)/", "".join(lines), re.MULTILINE)
        assert folder is not None, lines
        if how == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            (gcs,) = [
                one for one in psutil.Process(process.pid).children(recursive=True) if "gcs" in one.name()
            ]
            gcs.kill()
        rest = process.stdout.read()
        assert process.wait(60) == (0 if how == "interrupt" else 1)
    assert rest.startswith("stopping\n")
    assert ("Ray ended by itself" in rest) == (how == "Ray dies")
    assert not Path(folder[1]).exists()


@pytest.mark.soak
@pytest.mark.ray
def test_a_port_that_serve_cannot_have_is_refused(tmp_path: Path) -> None:
    """On a cluster that was joined: somebody else may listen there, and Serve never moves to another port."""
    served = load_serve_config(ROOT / "serve_config.yaml")
    with local_cluster(home=tmp_path, num_cpus=2) as cluster, applied_env(cluster):
        from nightrank.service.deploy import deploy

        where = {"dashboard_url": cluster.dashboard_url, "store": str(tmp_path / "store")}
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = server.getsockname()[1]
            with pytest.raises(ClusterError, match=f"port {taken} is taken"):
                deploy(served, port=taken, **where)
        deploy(served, port=cluster.http_port, **where)
        with pytest.raises(ClusterError, match=f"listens on port {cluster.http_port} until"):
            deploy(served, port=cluster.http_port + 1, **where)
        deploy(served, port=cluster.http_port, **where)
