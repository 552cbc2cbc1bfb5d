"""The service under the benchmarks' load: a made store, a cluster of its own, replicas to find and to kill."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from http_client import Records, Request
from made_releases import made_release

from nightrank.cluster.local import LocalCluster, applied_env, local_cluster

REPO = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
N_CPUS = 2
N_PATHS = 512  # users who are asked about


@dataclass
class Served:
    """A deployed service. raw: its serve_config.yaml as a mapping, to be changed and deployed again."""

    cluster: LocalCluster
    store: Path
    address: tuple[str, int]
    config: Any
    raw: dict[str, Any] = field(repr=False)

    @property
    def deployment(self) -> dict[str, Any]:
        """The settings of the deployment `Service`."""
        found: dict[str, Any] = self.raw["applications"][0]["deployments"][0]
        return found

    def deploy(self) -> None:
        """Bring the cluster to `raw`, and wait until as many replicas run as are wanted."""
        from nightrank.service.deploy import deploy

        deploy(
            self.config,
            dashboard_url=self.cluster.dashboard_url,
            port=self.cluster.http_port,
            store=str(self.store),
        )
        until(lambda: len(self.replicas()) == self.deployment["num_replicas"], "the number of replicas")

    def replicas(self, application: str = "nightrank", deployment: str = "Service") -> list[int]:
        """Process ids of a deployment's replicas that run."""
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        details = ServeSubmissionClient(self.cluster.dashboard_url).get_serve_details()
        found = details["applications"][application]["deployments"][deployment]["replicas"]
        return sorted(one["pid"] for one in found if one["state"] == "RUNNING")

    def ask(self, path: str, *, method: str = "GET", body: str | None = None) -> tuple[int, Any, bytes]:
        """Status, headers and body of one request on a connection of its own; 0 where there is no answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def held(self) -> str | None:
        """The release that a replica answers from."""
        status, _, body = self.ask("/readyz")
        return json.loads(body)["release"] if status == 200 else None


@contextlib.contextmanager
def service(folder: Path, store: Path, *, replicas: int = 1) -> Iterator[Served]:
    """A cluster of this machine with the repository's serve_config.yaml on it, all of it ended on exit.

    The benchmarks are importable there, for the peer.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), before)))
    try:
        with local_cluster(home=folder / "home", num_cpus=N_CPUS) as cluster, applied_env(cluster):
            from nightrank.service.serve_config import load_serve_config

            config = load_serve_config(REPO / "serve_config.yaml")
            address = (config.raw["http_options"]["host"], cluster.http_port)
            served = Served(cluster, store, address, config, config.raw)
            served.deployment.pop("autoscaling_config", None)  # which replica is killed when must be known
            served.deployment["num_replicas"] = replicas
            served.deploy()
            yield served
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def made_store(folder: Path, *, users: int, items: int, factors: int, releases: int = 1) -> list[str]:
    """`folder`/store with some releases of the same users and items; the first is in service. Their ids."""
    from nightrank.release.publish import activate
    from nightrank.release.store import open_store

    shape = {"users": users, "items": items, "factors": factors}
    store = folder / "store"
    made = [
        made_release(folder / f"seed-{seed}", store=store, seed=seed, **shape) for seed in range(releases)
    ]
    activate(open_store(str(store)), made[0])
    return made


def live_requests(users: int, items: int, *, fold_in: bool = False) -> list[Request]:
    """As many as the plain ones, ranked when they are asked: one item excluded; or three events and no user."""
    plain = list_requests(users)
    drawn = np.random.default_rng(1).integers(1, items + 1, (len(plain), 3)).tolist()
    if not fold_in:
        return [Request(f"{one.path}&exclude={item}") for one, (item, _, _) in zip(plain, drawn, strict=True)]
    contexts = [{"events": [{"item_id": item} for item in one], "k": 10} for one in drawn]
    return [Request("/v1/recommendations", method="POST", body=json.dumps(one)) for one in contexts]


def list_requests(users: int, *, k: int = 10, n: int = N_PATHS, seed: int = 0) -> list[Request]:
    """Plain requests for the lists of some of the users 1 to `users`."""
    chosen = np.random.default_rng(seed).choice(users, min(n, users), replace=False) + 1
    return [Request(f"/v1/users/{user}/recommendations?k={k}") for user in sorted(chosen)]


def warm(served: Served, requests: Sequence[Request]) -> None:
    """Each once, before anything is measured."""
    for request in requests:
        served.ask(request.path, method=request.method, body=request.body)


def plain_api(store: str) -> Any:
    """The package's ASGI application without Serve."""
    from nightrank.release.store import open_store
    from nightrank.service.holder import ReleaseHolder
    from nightrank.service.routes import build_api

    holder = ReleaseHolder(open_store(store))
    holder.follow()
    return build_api(holder)


@contextlib.contextmanager
def plain_uvicorn(*arguments: str) -> Iterator[tuple[tuple[str, int], int]]:
    """`raw_asgi.py` in a process of its own; its address and its id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(probe.getsockname()[1]))
    command = [sys.executable, HERE / "raw_asgi.py", "--port", str(address[1]), *arguments]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: _listens(address), "plain uvicorn to listen")
            yield address, process.pid
        finally:
            process.terminate()


def _listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def until(true: Any, what: str, *, limit_s: float = 90.0) -> float:
    """Wait for a condition; the seconds that it took. Raises RuntimeError after `limit_s`."""
    started = time.perf_counter()
    while not true():
        if time.perf_counter() - started > limit_s:
            raise RuntimeError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.05)
    return time.perf_counter() - started


def told(records: Records) -> str:
    """Counts by status, in words."""
    return ", ".join(f"{n:,} x {name}" for name, n in records.counts().items())
