"""Ports for a local cluster: one block of numbers that no other local cluster on this host will use.

A number is held by a bound UDP socket on the same port. It keeps other nightrank processes away, leaves the
TCP port for Ray to bind (Serve binds its own minutes later), knows no TIME_WAIT, and dies with its process.
Refuses to hand out ports from the kernel's ephemeral range, where any outgoing connection may sit on one.
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

from nightrank.errors import ClusterError

LOOPBACK = "127.0.0.1"
# Below 32768, where Linux's ephemeral range begins (macOS: 49152), and below Ray's default 30000-31000.
_BLOCKS = range(20_000, 30_000, 500)
_N_SINGLE = 20
_N_REPLICAS = 240  # a released replica port rests for 150 s, so a block needs many more ports than replicas


@dataclass(frozen=True)
class Ports:
    """Every port of one cluster; `release` lets go of the numbers, not of whatever listens on them."""

    http: int
    dashboard: int
    gcs: int
    ray_client: int
    agent_http: int
    agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    object_manager: int
    node_manager: int
    haproxy_stats: int
    haproxy_metrics: int
    fallback_http: int
    fallback_grpc: int
    autoscaler_metrics: int
    dashboard_metrics: int
    replicas_http: range
    replicas_grpc: range
    held: tuple[socket.socket, ...]

    def singles(self) -> list[int]:
        """Every single port, without the two ranges for replicas."""
        return [value for value in vars(self).values() if isinstance(value, int)]

    def taken(self) -> list[int]:
        """The single ports somebody listens on now; empty before Ray starts and after it is gone."""
        return [port for port in self.singles() if not is_free(port)]

    def release(self) -> None:
        for holder in self.held:
            holder.close()


def is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of the loopback interface; TIME_WAIT is no obstacle."""
    with socket.socket() as probe:
        # BSD and macOS let a loopback bind succeed beside a wildcard listener, so ask the listener first.
        if probe.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def is_available(port: int) -> bool:
    """Whether a local cluster would get this port: nobody listens there, and no other cluster holds it."""
    holder = _hold(port) if is_free(port) else None
    if holder is not None:
        holder.close()
    return holder is not None


def reserve(*, http_port: int, dashboard_port: int) -> Ports:
    """Hold a whole block, and the two preferred ports where they are free and no cluster holds them.

    Raises ClusterError when every block is taken: by 20 clusters, or something that fills 20000-29999.
    """
    for first in random.sample(_BLOCKS, len(_BLOCKS)):  # shuffled, so two starts at once rarely meet
        block = list(range(first, first + _N_SINGLE))
        holder = _hold(first)
        if holder is None:
            continue
        if not all(is_free(port) for port in block[1:]):
            holder.close()
            continue
        return _layout(block, holder, http_port=http_port, dashboard_port=dashboard_port)
    raise ClusterError(
        f"found no free block of {_BLOCKS.step} ports in {_BLOCKS.start}-{_BLOCKS.stop - 1}, expected one "
        "for each local cluster: stop a local cluster or whatever listens there (ss -ltnp)"
    )


def _layout(block: list[int], holder: socket.socket, *, http_port: int, dashboard_port: int) -> Ports:
    held = [holder]

    def prefer(port: int, spare: int) -> int:
        own = _hold(port) if is_free(port) else None
        if own is None:
            return spare
        held.append(own)
        return port

    replicas = block[-1] + 1
    return Ports(
        http=prefer(http_port, block[1]),
        dashboard=prefer(dashboard_port, block[2]),
        gcs=block[3],
        ray_client=block[4],
        agent_http=block[5],
        agent_grpc=block[6],
        runtime_env_agent=block[7],
        metrics_export=block[8],
        object_manager=block[9],
        node_manager=block[10],
        haproxy_stats=block[11],
        haproxy_metrics=block[12],
        fallback_http=block[13],
        fallback_grpc=block[14],
        autoscaler_metrics=block[15],
        dashboard_metrics=block[16],
        replicas_http=range(replicas, replicas + _N_REPLICAS),
        replicas_grpc=range(replicas + _N_REPLICAS, replicas + 2 * _N_REPLICAS),
        held=tuple(held),
    )


def _hold(port: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.bind((LOOPBACK, port))
    except OSError:
        holder.close()
        return None
    return holder
