"""What a local cluster listens on beyond loopback, and what such a port says to somebody without a token."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil

from nightrank.cluster import supervisor
from nightrank.cluster.local import LocalCluster
from pages import HTTP, rows_of

# Any of these would make the process behind the port unpickle the request.
_CALLS = ("HandleRequest", "HandleRequestWithRejection", "HandleRequestStreaming")


def assert_only_documented_ports_are_open(cluster: LocalCluster) -> None:
    """Exactly the processes of the table in docs/http.md listen beyond loopback, and none obeys without a token."""
    open_to_others = set(beyond_loopback(cluster))
    documented = {
        name
        for row in rows_of(HTTP, "what listens", "address")
        if "all interfaces" in row["address"]
        for name in re.findall(r"`(ray::\w+)`", row["what listens"])
    }
    assert {name for name, _ in open_to_others} == documented
    for _, port in open_to_others:
        for call in _CALLS:
            assert refusal(port, f"/ray.serve.ASGIService/{call}") == grpc.StatusCode.UNAUTHENTICATED


def beyond_loopback(cluster: LocalCluster) -> Iterator[tuple[str, int]]:
    """(what the process calls itself, port) of every TCP port that other machines could reach."""
    for process in supervisor.members(Path(cluster.env["RAY_TMPDIR"]).name):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = re.match(r"ray::\w+|\S*", " ".join(process.cmdline()) or process.name())
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip):
                    yield name[0] if name else "", one.laddr.port


def is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (found if mapped is None else mapped).is_loopback


def refusal(port: int, method: str) -> grpc.StatusCode:
    """How an empty call without a token ends."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
