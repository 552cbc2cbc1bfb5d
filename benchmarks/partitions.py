"""One live query by where it is ranked: the whole catalogue or shares of it in one process, or two actors.

    make bench
    python benchmarks/partitions.py --sizes 60000:0.5,1000000:0.5,1000000:0 --queries 400

Everything runs in one replica of a gateway, in turns: a query by each way, then the next query. Each asks for the
top 10 of one user without 50 seen items. The actors are the product's partitions and so is all that goes between;
only their vectors are drawn, not opened from a release: Gaussian directions, norms log-normal. A size is the number
of items and the sigma of their norms; with 0 all are of one length, so that nothing can be skipped. The load is the
machine's before the run, all CPUs together: three processes share them during a query by actors. The best of all
queries is what a machine with nothing else to do comes near to.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.cluster.local import applied_env, local_cluster
from nightrank.ranking import ItemIndex, PartitionedIndex, TopK

D, K, SEEN, USERS, ACTORS, SEED = 64, 10, 50, 64, 2, 0
SIZES = "60000:0.5,1000000:0.5,1000000:0"
HEADER = "| items | sigma of norms | ranked by | best, ms | p50, ms | p99, ms | best / one index | p50 / one index |"
WAYS = {
    "1": "one index, one thread",
    "2": "2 shares in the process",
    "4": "4 shares in the process",
    "actors": f"{ACTORS} actors",
}
WAIT_S = 180.0


def drawn(n: int, *, sigma: float, seed: int) -> NDArray[np.float32]:
    """float32 (n, D)."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, D), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * rng.lognormal(0.0, sigma, (n, 1)).astype(np.float32)


def measured(ways: dict[str, Any], n_items: int, *, queries: int) -> dict[str, list[float]]:
    """Milliseconds of every query by each way; all answers are compared."""
    users, rng = drawn(USERS, sigma=0.0, seed=SEED + 1), np.random.default_rng(SEED + 2)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-20, queries):  # the first twenty warm up
        user = users[turn % USERS : turn % USERS + 1]
        rows = rng.choice(n_items, SEEN, replace=False).astype(np.int32)
        seen = csr_matrix((np.ones(SEEN, np.float32), rows, np.array([0, SEEN])), shape=(1, n_items))
        answers: list[TopK] = []
        for name, index in ways.items():
            started = time.perf_counter()
            answers.append(index.top_k(user, K, exclude=seen))
            if turn >= 0:
                found[name].append(1e3 * (time.perf_counter() - started))
        for answer in answers[1:]:
            if answer.item_rows.tobytes() != answers[0].item_rows.tobytes():
                raise SystemExit("two ways gave two answers")
    return found


def parsed(size: str) -> tuple[int, float]:
    """Items, and the sigma of their norms."""
    items, sigma = size.split(":")
    return int(items), float(sigma)


def build(args: dict[str, Any]) -> Any:
    """The application: a gateway with ACTORS partitions of `items` items. Called by Serve."""
    from ray import serve

    from nightrank.service.live_index import RemoteIndex
    from nightrank.service.partition import Partition
    from nightrank.service.shares import Share, Shares

    class Drawn(Shares):
        def _open(self, release_id: str) -> Share:
            n_items, sigma = parsed(release_id)
            first, last = (n_items * place // ACTORS for place in (self.place, self.place + 1))
            items = drawn(n_items, sigma=sigma, seed=SEED)[first:last]
            return Share(release_id, first, n_items, ItemIndex(items, threads=1))

    class DrawnPartition(Partition.func_or_class):  # type: ignore[misc]
        def __init__(self, store: str, *, place: int) -> None:
            super().__init__(store, place=place, partitions=ACTORS, threads=1)
            self.shares = Drawn(self.shares.store, place=place, partitions=ACTORS, threads=1)

    class Gateway:
        def __init__(self, partitions: Sequence[Any]) -> None:
            self.partitions, self.loop = partitions, asyncio.get_running_loop()

        async def __call__(self, request: Any) -> dict[str, list[float]]:
            size, queries = request.query_params["size"], int(request.query_params["queries"])
            return await asyncio.to_thread(self.run, size, queries)

        def run(self, size: str, queries: int) -> dict[str, list[float]]:
            n_items, sigma = parsed(size)
            items = drawn(n_items, sigma=sigma, seed=SEED)
            model = SimpleNamespace(card=SimpleNamespace(n_items=n_items), user_vectors=items[:1])
            release: Any = SimpleNamespace(id=size, model=model)
            ways: dict[str, Any] = {"1": ItemIndex(items, threads=1)}
            ways |= {str(p): PartitionedIndex(items, partitions=p) for p in (2, 4)}
            ways["actors"] = RemoteIndex(release, self.partitions, loop=self.loop)
            ways["actors"].prepare(timeout_s=WAIT_S)
            return measured(ways, n_items, queries=queries)

    options = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 64}
    shares = [
        serve.deployment(DrawnPartition, name=f"Partition{place}", **options).bind(args["store"], place=place)
        for place in range(ACTORS)
    ]
    return serve.deployment(Gateway, name="Gateway", **options).bind(shares)


def asked(url: str, *, size: str, queries: int) -> dict[str, list[float]]:
    """What the gateway measures, once it is there."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            answer = httpx.get(url, params={"size": size, "queries": queries}, timeout=600)
            if answer.status_code == 200:
                found: dict[str, list[float]] = answer.json()
                return found
            said = f"{answer.status_code} {answer.text[:300]}"
        except httpx.TransportError as error:
            said = str(error)
        if time.monotonic() > deadline:
            raise SystemExit(f"the gateway does not answer: {said}")
        time.sleep(0.5)


def main() -> None:
    """Start a cluster, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", default=SIZES, help="items:sigma,...")
    parser.add_argument("--queries", type=int, default=400)
    options = parser.parse_args()
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "?"
    cpus = len(os.sched_getaffinity(0))
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {cpus} CPUs, {load}, commit {commit}, seed {SEED}, d = {D}, k = {K}")
    print(f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        local_cluster(home=Path(folder) / "home") as cluster,
        applied_env(cluster),
    ):
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        application = {
            "name": "partitions",
            "route_prefix": "/",
            "import_path": "partitions:build",
            "args": {"store": f"{folder}/store"},
            "runtime_env": {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent)}},
        }
        http = {"host": "127.0.0.1", "port": cluster.http_port}
        ServeSubmissionClient(cluster.dashboard_url).deploy_applications(
            {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}
        )
        for size in options.sizes.split(","):
            url = f"http://127.0.0.1:{cluster.http_port}/"
            show(asked(url, size=size, queries=options.queries), *parsed(size))


def show(found: dict[str, list[float]], items: int, sigma: float) -> None:
    """The rows of one size."""
    alone = np.percentile(found["1"], (0, 50))
    for name, title in WAYS.items():
        best, middle, slow = np.percentile(found[name], (0, 50, 99))
        ratios = f"{best / alone[0]:.1f}x | {middle / alone[1]:.1f}x"
        print(
            f"| {items:,} | {sigma:g} | {title} | {best:.2f} | {middle:.2f} | {slow:.2f} | {ratios} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
