"""More nodes for a local cluster: raylets of their own on this machine, to be lost in the middle of work."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray

from nightrank.cluster.local import LocalCluster, applied_env

# What `ray start --address` does; that refuses a second node on loopback (Ray would take the LAN address for it).
NODE = """
import sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams
address, num_cpus = sys.argv[1:]
Node(
    RayParams(
        gcs_address=address, num_cpus=int(num_cpus), num_gpus=0, object_store_memory=100 * 2**20,
        node_ip_address="127.0.0.1", node_manager_port=0, min_worker_port=0, max_worker_port=0,
        include_log_monitor=False, dashboard_agent_listen_port=None,
    ),
    head=False, shutdown_at_exit=True, spawn_reaper=True,
)
while True:
    time.sleep(60)
"""


class Raylet:
    """One more node of a cluster."""

    def __init__(self, cluster: LocalCluster, *, num_cpus: int, log: Path) -> None:
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", NODE, cluster.address, str(num_cpus)],
                env={**os.environ, **cluster.env},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> set[int]:
        """The processes of this node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        return set()

    def kill(self) -> None:
        """SIGKILL of the raylet and all of its workers, as when a machine is lost."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=20)
        self.process.wait()


@contextlib.contextmanager
def more_nodes(cluster: LocalCluster, n: int, *, num_cpus: int, logs: Path) -> Iterator[list[Raylet]]:
    """n more nodes, once the cluster has them all; what is left of them at the end is killed."""
    raylets: list[Raylet] = []
    try:
        with applied_env(cluster):
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            try:
                for number in range(n):  # one after the other: they name their sockets by number
                    log = logs / f"raylet-{number}.log"
                    raylets.append(Raylet(cluster, num_cpus=num_cpus, log=log))
                    deadline = time.monotonic() + 60
                    while sum(node["Alive"] for node in ray.nodes()) < number + 2:
                        assert time.monotonic() < deadline, log.read_text()[-2000:]
                        time.sleep(0.2)
            finally:
                ray.shutdown()
        yield raylets
    finally:
        for raylet in raylets:
            raylet.kill()
