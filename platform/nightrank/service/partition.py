"""Partition: a share of the catalogue as a deployment of its own, asked by the replicas of Service alone.

Every query names its release and every answer repeats it, so that no list mixes two. A release that is not held is
opened while the query waits. It has no user_config: the gateways say what to open.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application

from nightrank.config.cluster import load_cluster
from nightrank.config.service import ServiceArgs
from nightrank.errors import NightrankError
from nightrank.ranking.filters import Filters
from nightrank.release.manifest import current
from nightrank.release.store import open_store
from nightrank.service.serve_config import PARTITION
from nightrank.service.shares import Ranked, Shares

log = logging.getLogger("nightrank.service")


# A query takes a thread 0.1 to a few ms. 64 at once keep it busy across the hops between processes; a gateway has no
# more than some 40 threads that ask. Whoever waited behind 128 more would wait longer than gateways do (RANK_S).
@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=128,
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=1,
    graceful_shutdown_timeout_s=10,
)
class Partition:
    """Share number `place` of `partitions`; threads: that rank, each one query at a time."""

    def __init__(self, store: str, *, place: int, partitions: int, threads: int) -> None:
        self.shares = Shares(open_store(store), place=place, partitions=partitions, threads=1)
        self._pool = ThreadPoolExecutor(threads, "nightrank-rank")
        try:  # what is in service is what will be asked for: a replica that replaces another makes nobody wait
            release_id, _ = current(self.shares.store)
            if release_id is not None:
                self.shares.open(release_id)
        except NightrankError as error:
            log.warning("partition %d opens nothing yet: %s", place, error)

    async def open(self, release_id: str) -> str | None:
        """Make a release ready; what is wrong with it, None where nothing is."""
        try:
            await asyncio.to_thread(self.shares.open, release_id)
        except NightrankError as error:
            return str(error)
        return None

    async def rank(
        self, release_id: str, user_vectors: NDArray[np.float32], k: int, filters: Filters
    ) -> Ranked:
        """The k best of this share for each user. Raises ReleaseError where the release cannot be opened."""
        share = self.shares.find(release_id)
        if share is None:
            share = await asyncio.to_thread(self.shares.open, release_id)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, share.rank, user_vectors, k, filters)


def partition_deployments(args: ServiceArgs) -> list[Application]:
    """The deployments that `args.live` asks for, none where the catalogue stays in the service's own process.

    Their resources are those of cluster.yaml's `partition`, where this runs: ./cluster.yaml, else the package's copy.
    An entry in serve_config.yaml goes before. Raises SettingsError for a cluster.yaml that cannot be used.
    """
    if args.live.placement == "process":
        return []
    spec = load_cluster().partition
    options = {"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus, "memory": spec.memory}
    threads = max(1, int(spec.num_cpus))
    return [
        Partition.options(name=PARTITION.format(place), ray_actor_options=options).bind(  # type: ignore[attr-defined]
            args.store, place=place, partitions=args.live.partitions, threads=threads
        )
        for place in range(args.live.partitions)
    ]
