"""Where live queries are ranked: the whole catalogue or its shares in this process, or partitions elsewhere.

All give the same bits. RemoteIndex asks every partition for one release and merges exactly; it holds no item vector.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from scipy.sparse import csr_matrix

from nightrank.config.service import LiveSettings
from nightrank.errors import ReleaseError
from nightrank.ranking import PartitionedIndex, TopK
from nightrank.ranking.filters import check_query, filters_of
from nightrank.ranking.packing import readonly
from nightrank.ranking.partitions import Parts, share_bounds
from nightrank.release.reader import Release
from nightrank.service.prepared import OpenIndex, in_process
from nightrank.service.refusal import RequestError
from nightrank.service.shares import Ranked

log = logging.getLogger("nightrank.service")

Result = TypeVar("Result")
RANK_S = 2.0  # a hundred slow scans; a lost replica is back in 5 to 10 s, longer than a caller waits
OPEN_S = 60.0  # to open a release, which on S3 is brought first
FIRST_S = 15.0  # the first time: partitions start with the service, in seconds where there is room for them
AGAIN_S = 0.2


class RemoteIndex:
    """A release's catalogue, ranked by partitions. Called from threads, never on `loop`, which sends the queries.

    loop: of the replica. Its router of handles may live there and then can be used nowhere else
    (RAY_SERVE_THROUGHPUT_OPTIMIZED=1).
    """

    def __init__(
        self, release: Release, partitions: Sequence[DeploymentHandle], *, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.release_id = release.id
        self._shape = (release.model.card.n_items, release.model.user_vectors.shape[1])
        self._bounds = share_bounds(self._shape[0], len(partitions))
        self._partitions, self._loop = list(partitions), loop
        self._is_failing = False

    def prepare(self, *, timeout_s: float) -> None:
        """Every replica of every partition opens the release. Raises ReleaseError naming what did not.

        Later replicas open it by themselves, if not before, then when they are asked.
        """
        said = self._wait(self._on_all(lambda place: self._open(place, timeout_s=timeout_s)))
        wrong = [f"partition {place}: {text}" for place, text in enumerate(said) if text is not None]
        if wrong:
            raise ReleaseError(
                f"release {self.release_id} is not open in all partitions ({'; '.join(wrong)}); `serve status` "
                "says how they are"
            )

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """As ItemIndex.top_k, to the bit, errors included; RequestError 503 where a partition does not answer."""
        k = operator.index(k)
        check_query(user_vectors, k, self._shape, exclude=exclude, allow=allow)
        users, filters = readonly(np.ascontiguousarray(user_vectors)), filters_of(exclude, allow)
        k_there = min(k, self._shape[0])
        shares = [filters.of_share(first, last) for first, last in pairwise(self._bounds)]
        parts = Parts(len(shares), len(users), k_there)

        async def ask(place: int) -> Ranked:
            handle = self._partitions[place]
            async with asyncio.timeout(RANK_S):
                return await _twice(
                    lambda: handle.rank.remote(self.release_id, users, k_there, shares[place])
                )

        try:
            answers = self._wait(self._on_all(ask))
            for place, answer in enumerate(answers):
                self._check(place, answer)
        except (
            Exception
        ) as error:  # whatever Ray, the network or a partition raises: this query has no answer
            raise self._refusal(error) from None
        self._is_failing = False
        for place, answer in enumerate(answers):
            for mine, found in zip(parts.of(place), answer.top, strict=True):
                mine[..., : found.shape[-1]] = found
        return parts.merged(k, self._bounds)

    def _check(self, place: int, answer: Ranked) -> None:
        """An answer that is of another release, or of another share of it, is none."""
        expected = (self.release_id, self._bounds[place], self._shape[0])
        if answer[:3] != expected:
            raise ReleaseError(f"partition {place} answers for {answer[:3]}, asked was {expected}")

    def _refusal(self, error: Exception) -> RequestError:
        if not self._is_failing:  # once: under load this is said hundreds of times a second
            log.error("partitions do not answer: %s: %s", type(error).__name__, error)
        self._is_failing = True
        text = (
            "a partition of the catalogue does not answer; stored recommendations do: ask again in a second"
        )
        return RequestError(503, "partition_unavailable", text, headers={"Retry-After": "1"})

    async def _open(self, place: int, *, timeout_s: float) -> str | None:
        """What is wrong, None where all replicas that there are have opened it."""
        deadline = self._loop.time() + timeout_s
        while True:
            left = deadline - self._loop.time()
            try:
                response = self._partitions[place].broadcast("open", self.release_id)
                said = await response.results_async(timeout_s=max(0.0, left))
            except (
                DeploymentUnavailableError,
                RayActorError,
            ) as error:  # none yet, or one that is being replaced
                if left < AGAIN_S:
                    return f"no replica is there ({type(error).__name__})"
                await asyncio.sleep(AGAIN_S)
            except Exception as error:  # one that hangs, a full queue, a lost connection
                return f"no answer within {timeout_s:g} s ({type(error).__name__}: {error})"
            else:
                return next((text for text in said if text is not None), None)

    async def _on_all(self, ask: Callable[[int], Coroutine[Any, Any, Result]]) -> list[Result]:
        return await asyncio.gather(*(ask(place) for place in range(len(self._partitions))))

    def _wait(self, answers: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(answers, self._loop).result()


async def _twice(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Once more where the replica that had the query died: another one may be there."""
    try:
        return await ask()
    except RayActorError:
        return await ask()


def index_opener(
    live: LiveSettings, partitions: Sequence[DeploymentHandle] = (), *, threads: int = 1
) -> OpenIndex:
    """How a replica makes a release's catalogue ready, in a thread. Call it on the replica's event loop.

    threads: that rank one query where the catalogue is in shares in this process; a whole one is ranked by the thread
    that asks, and queries run side by side.
    """
    if live.placement == "process" and live.partitions == 1:
        return in_process
    if live.placement == "process":
        return lambda release: PartitionedIndex(
            release.model.item_vectors,
            release.model.item_bias,
            partitions=live.partitions,
            threads=threads,
        )
    return RemoteOpener(partitions, asyncio.get_running_loop())


class RemoteOpener:
    """Opens a release in all partitions before it is used; with nothing in service yet, as far as they are there.

    Stored answers need no partition, so a service that starts does not wait for them long: queries open what is not
    open.
    """

    def __init__(self, partitions: Sequence[DeploymentHandle], loop: asyncio.AbstractEventLoop) -> None:
        self._partitions, self._loop, self._is_first = partitions, loop, True

    def __call__(self, release: Release) -> RemoteIndex:
        """Raises ReleaseError where a partition does not open it."""
        index, is_first = RemoteIndex(release, self._partitions, loop=self._loop), self._is_first
        try:
            index.prepare(timeout_s=FIRST_S if is_first else OPEN_S)
        except ReleaseError as error:
            if not is_first:
                raise
            log.warning("%s; stored answers go first", error)
        self._is_first = False
        return index
