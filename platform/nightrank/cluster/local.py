"""A single-node Ray cluster on this machine, started as production starts one, that leaves nothing behind.

Tokens on, HAProxy ingress on Linux, loopback where Ray lets one choose, all files in one private folder under
/tmp, ports that no other cluster uses. A supervisor process ends all of it, even when this one is killed.
Refuses to join a cluster and to write in the user's home folder.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from nightrank.cluster.node import Node, start
from nightrank.cluster.node_env import FOREIGN

# Ray's own default is 30 % of memory, far more than a job on one laptop holds.
DEFAULT_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster; `env` is all that a client needs, for `applied_env` or a shell's `export`."""

    address: str
    dashboard_url: str
    http_port: int
    ingress: Literal["haproxy", "proxy"]
    env: dict[str, str]
    node: Node | None = field(default=None, repr=False)

    def wait(self, *, timeout_s: float) -> None:
        """Return after `timeout_s`; raises ClusterError, which names the logs, once Ray has ended by itself."""
        if self.node is not None and (code := self.node.exit_code(timeout_s=timeout_s)) is not None:
            raise self.node.failure(
                f"Ray ended by itself with exit code {code}, expected it to run until Ctrl-C"
            )


@contextlib.contextmanager
def local_cluster(
    *,
    home: Path,
    num_cpus: int | None = None,
    http_port: int = 8000,
    dashboard_port: int = 8265,
    object_store_memory: int | None = None,
) -> Iterator[LocalCluster]:
    """Start a cluster, yield it when jobs and `ray.init` will be answered, and end all of it on exit.

    `home` becomes NIGHTRANK_HOME of every job and replica. The two ports are preferences: a free one is
    taken where they are in use. `num_cpus` None is all of the machine's; `object_store_memory` is in bytes.
    os.environ stays as it is. When this process is killed outright, the supervisor cleans up seconds later.
    Raises ClusterError when Ray does not start.
    """
    node = start(
        home,
        http_port=http_port,
        dashboard_port=dashboard_port,
        num_cpus=num_cpus,
        object_store_bytes=_store_bytes(object_store_memory),
    )
    try:
        yield _describe(node)
    finally:
        node.stop()


@contextlib.contextmanager
def applied_env(cluster: LocalCluster) -> Iterator[None]:
    """Make this process a client: set `cluster.env`, hide what names another cluster, restore on exit."""
    before = dict(os.environ)
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(cluster.env)
    _reread_env()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        _reread_env()


def run_foreground(
    *,
    home: Path,
    num_cpus: int | None = None,
    http_port: int = 8000,
    dashboard_port: int = 8265,
    object_store_memory: int | None = None,
    out: TextIO | None = None,
) -> None:
    """Start a cluster, print the lines a client's shell needs, and stay until Ctrl-C or SIGTERM ends it.

    Returns after a signal, also one during the start. Call it from the main thread. Raises ClusterError when
    Ray does not start, or ends by itself.
    """
    out = sys.stdout if out is None else out
    with contextlib.suppress(KeyboardInterrupt), signals_interrupt():
        node = start(
            home,
            http_port=http_port,
            dashboard_port=dashboard_port,
            num_cpus=num_cpus,
            object_store_bytes=_store_bytes(object_store_memory),
        )
        try:
            cluster = _describe(node)
            out.write(_instructions(cluster))
            out.flush()
            while True:
                cluster.wait(timeout_s=60.0)
        finally:
            node.stop()


def _describe(node: Node) -> LocalCluster:
    return LocalCluster(
        address=node.env["RAY_ADDRESS"],
        dashboard_url=node.env["RAY_DASHBOARD_ADDRESS"],
        http_port=node.ports.http,
        ingress=node.ingress,
        env=dict(node.env),
        node=node,
    )


def _store_bytes(asked: int | None) -> int:
    return DEFAULT_OBJECT_STORE_BYTES if asked is None else asked


def _instructions(cluster: LocalCluster) -> str:
    """Shell lines: comments, and what `eval` in a client's shell should run."""
    hidden = [f"unset {name}" for name in FOREIGN if name in os.environ and name not in cluster.env]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items()]
    lines = [
        f"# Ray is ready at {cluster.address}; dashboard and jobs API: {cluster.dashboard_url}",
        f"# Serve's HTTP port: {cluster.http_port} ({cluster.ingress}). Ctrl-C here stops all of it.",
        "# A client's shell needs these lines:",
        *hidden,
        *exports,
    ]
    return "\n".join(lines) + "\n"


def _reread_env() -> None:
    """Ray keeps what it read at import: the next cluster would say 401, or 127.0.0.1 become a LAN address.

    Serve's constants stay as they were: import `ray.serve` only inside `applied_env`.
    """
    if "ray" not in sys.modules:
        return
    raylet = importlib.import_module("ray._raylet")  # its stub leaves both out
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    constants = importlib.import_module("ray._private.ray_constants")
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    setattr(constants, "ENABLE_RAY_CLUSTER", constants.env_bool(name, sys.platform == "linux"))  # noqa: B010


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does; so does a SIGINT that the shell had set to be ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
