"""Deploying beside a Serve that is just being taken down: what it accepts and forgets is handed over again."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import ClusterError
from nightrank.service import deploy as deploying
from nightrank.service.serve_config import load_serve_config

STORE = "/nowhere"
CONFIG = Path(__file__).resolve().parent.parent / "serve_config.yaml"


class Dying:
    """Stands where a dashboard would. A deployment is accepted each time, forgotten `times` times, then refused once
    as by a controller that has died, and kept from then on."""

    def __init__(self, *, times: int, status: str = "RUNNING") -> None:
        self.left, self.status, self.n_puts = times, status, 0
        self.applications: dict[str, Any] = {}

    def put(self, config: dict[str, Any]) -> tuple[int, str]:
        self.n_puts += 1
        if self.n_puts == 2:
            return 500, "ActorDiedError: the controller is gone"
        if self.left:
            self.left -= 1
        else:
            details = {"status": self.status, "message": "as told", "deployments": {}}
            self.applications = {one["name"]: details for one in config["applications"]}
        return 200, ""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def dashboard(serve: Dying) -> Iterator[str]:
    """The address of one, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about = (
                {"applications": serve.applications} if "serve" in self.path else {"ray_version": "2.60.0"}
            )
            self._answer(200, json.dumps(about))

        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            self._answer(*serve.put(json.loads(self.rfile.read(length))))

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_a_dying_serve_forgets_is_deployed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a redeployment right after a withdrawal: forgotten, then refused by a dead controller, then kept."""
    monkeypatch.setattr(deploying, "_answers", lambda url: True)
    serve = Dying(times=1)
    with dashboard(serve) as url:
        port = free_port()
        found = deploying.deploy(load_serve_config(CONFIG), dashboard_url=url, port=port, store=STORE)
    assert found == f"http://127.0.0.1:{port}"
    assert serve.n_puts == 3


def test_what_never_comes_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects from waiting for ever, and from an error that does not say what Serve said."""
    monkeypatch.setattr(deploying, "READY_TIMEOUT_S", 1.0)
    with (
        dashboard(Dying(times=0, status="DEPLOYING")) as url,
        pytest.raises(ClusterError, match=r"within 1 s: .*as told"),
    ):
        deploying.deploy(load_serve_config(CONFIG), dashboard_url=url, port=free_port(), store=STORE)
