"""One Ray head node on loopback, as a child of its supervisor: start it, wait until it answers, end it.

A start that lost a port to somebody else is tried once more with others; any other failure is a ClusterError
that ends with Ray's own words. Refuses to join a cluster and to call `ray stop`, which ends every Ray process
of the host. After a failure the logs are kept in NIGHTRANK_HOME/logs.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, cast

from nightrank.cluster import supervisor
from nightrank.cluster.node_env import client_env, find_haproxy, loopback_haproxy, node_env, serve_env
from nightrank.cluster.ports import LOOPBACK, Ports, reserve
from nightrank.errors import ClusterError

_READY_S = 90.0
_STOP_S = 40.0  # longer than everything the supervisor may wait for
_N_TAIL_LINES = 25


@dataclass(frozen=True)
class Node:
    """A started node; `env` is what its clients need, not what it runs with itself."""

    ports: Ports
    ingress: Literal["haproxy", "proxy"]
    env: dict[str, str]
    directory: Path
    home: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def exit_code(self, *, timeout_s: float) -> int | None:
        """Wait for Ray to end by itself: its exit code, -1 if the supervisor went too, None if it runs."""
        pipe = cast(IO[bytes], self.process.stdout)
        readable, _, _ = select.select([pipe], [], [], timeout_s)
        if not readable:
            return None
        line = os.read(pipe.fileno(), 32).split()
        return int(line[0]) if line else -1

    def await_ready(self) -> None:
        """Return once head and agent are healthy and `ray start` is through: from then on jobs are accepted.

        Earlier than its last step, where it writes the address down, it would notice no death for 30 s.
        """
        address_file = self.directory / "ray" / "ray_current_cluster"
        waiting = [
            (self.ports.dashboard, "/api/gcs_healthz"),
            (self.ports.agent_http, "/api/local_raylet_healthz"),
        ]
        deadline = time.monotonic() + _READY_S
        while waiting or not address_file.exists():
            if (code := self.exit_code(timeout_s=0.1)) is not None:
                raise self.failure(f"`ray start` ended with exit code {code}, expected a running cluster")
            if time.monotonic() > deadline:
                missing = [f"http://{LOOPBACK}:{port}{path}" for port, path in waiting] or [address_file.name]
                raise self.failure(f"no {' and no '.join(missing)} within {_READY_S:g} s")
            waiting = [(port, path) for port, path in waiting if not _is_healthy(port, path)]

    def failure(self, found: str) -> ClusterError:
        """The error for a dead cluster; keeps its logs in `home`, since the folder goes with the cluster."""
        kept = self.home / "logs" / f"ray-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{self.directory.name}"
        kept.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copy(self.directory / supervisor.NODE_LOG, kept)
            shutil.copytree(
                self.directory / "ray" / "session_latest" / "logs", kept / "session", dirs_exist_ok=True
            )
        tail = "\n".join(f"  {line}" for line in _tail(kept / supervisor.NODE_LOG))
        return ClusterError(
            f"{found}. Read the logs in {kept}; usual causes are too little memory, a full /tmp and a port "
            f"that somebody else took. The end of `ray start`'s own output:\n{tail}"
        )

    def stop(self) -> None:
        """End every process of the cluster and remove its folder; the second call finds nothing to do."""
        pipe = cast(IO[bytes], self.process.stdin)
        with contextlib.suppress(OSError):
            pipe.write(b"stop\n")  # closing alone is not enough where a forked child holds the pipe
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)
        left = supervisor.end(self.directory.name)  # only if the supervisor itself was killed
        self.process.wait(_STOP_S)
        cast(IO[bytes], self.process.stdout).close()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.ports.release()
        if left:
            raise ClusterError(
                f"processes {left} of the local cluster survived SIGKILL, expected none: look at them"
            )


def start(
    home: Path, *, http_port: int, dashboard_port: int, num_cpus: int | None, object_store_bytes: int
) -> Node:
    """Launch and wait until ready; once more with other ports if somebody took one of them in between."""
    home = home.resolve()
    for is_last in (False, True):
        ports = reserve(http_port=http_port, dashboard_port=dashboard_port)
        # Ray's sockets need a path under 107 bytes: /tmp, not TMPDIR. 0700, since Ray makes its folder 0777.
        directory = Path(tempfile.mkdtemp(prefix="nr-", dir="/tmp"))
        try:
            node = _launch(
                directory, ports, home=home, num_cpus=num_cpus, object_store_bytes=object_store_bytes
            )
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            ports.release()
            raise
        try:
            node.await_ready()
        except BaseException as error:
            node.stop()
            if isinstance(error, ClusterError) and ports.taken() and not is_last:
                continue
            raise
        return node
    raise AssertionError("unreachable: the last attempt returns or raises")


def _launch(
    directory: Path, ports: Ports, *, home: Path, num_cpus: int | None, object_store_bytes: int
) -> Node:
    _write_token(directory / "auth_token")
    binary = find_haproxy()
    ingress: Literal["haproxy", "proxy"] = "proxy" if binary is None else "haproxy"
    client = client_env(directory, ports, home=home, serve=serve_env(directory, ports, ingress=ingress))
    node_only = {} if binary is None else loopback_haproxy()
    env = node_env(
        {**client, **node_only}, ports, cluster_id=directory.name, id_variable=supervisor.ID_VARIABLE
    )
    command = _ray_start(directory, ports, num_cpus=num_cpus, object_store_bytes=object_store_bytes)
    process = subprocess.Popen(
        [sys.executable, "-P", supervisor.__file__, str(directory), directory.name, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        cwd=directory,  # `python -m ray...` must not find the caller's modules first
        bufsize=0,
        start_new_session=True,  # Ctrl-C in a terminal reaches us, and we decide what stops when
    )
    return Node(ports, ingress, client, directory, home, process)


def _ray_start(directory: Path, ports: Ports, *, num_cpus: int | None, object_store_bytes: int) -> list[str]:
    options = {
        "node-ip-address": LOOPBACK,
        "dashboard-host": LOOPBACK,
        "port": ports.gcs,
        "dashboard-port": ports.dashboard,
        "ray-client-server-port": ports.ray_client,  # Ray has no way to leave it out
        "dashboard-agent-listen-port": ports.agent_http,
        "dashboard-agent-grpc-port": ports.agent_grpc,
        "runtime-env-agent-port": ports.runtime_env_agent,
        "metrics-export-port": ports.metrics_export,
        "object-manager-port": ports.object_manager,
        "node-manager-port": ports.node_manager,
        "object-store-memory": object_store_bytes,
        "temp-dir": directory / "ray",
        "log-color": "false",
    }
    if num_cpus is not None:
        options["num-cpus"] = num_cpus
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
    fixed = ["start", "--head", "--block", "--disable-usage-stats"]
    return [*ray, *fixed, *(f"--{name}={value}" for name, value in options.items())]


def _write_token(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def _is_healthy(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)  # urllib would obey http_proxy
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-_N_TAIL_LINES:]
    except OSError as error:
        return [f"(unreadable: {error})"]
