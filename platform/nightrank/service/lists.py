"""Handlers of the calls that read from a release: recommendations, history, similar items, predictions.

Each takes what the holder holds when it begins, so an answer comes from one release only. Look-ups are answered at
once, and so is what takes less than half a millisecond; whatever computes longer, or grows with the request, is done
in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nightrank.config.service import LimitsSettings
from nightrank.errors import NightrankError
from nightrank.service import answers
from nightrank.service.answers import DEFAULT_K, parse_id
from nightrank.service.api import JSON, Call, Page, refused, told
from nightrank.service.holder import ReleaseHolder
from nightrank.service.meters import Meters
from nightrank.service.prepared import Prepared
from nightrank.service.recommend import asked_in_url, is_plain, needs_ranking, recommend
from nightrank.service.refusal import RequestError
from nightrank.service.schemas import Batch, Context

ANSWERING = 8  # threads; more than CPUs, as with partitions of their own they wait for others
# Beyond these a caller is told at once to come back, and look-ups, which take no thread, go on as before, once
# HAProxy has let them in. A replica ranks some 900 a second (benchmarks/http_load.py), so the last of them waits for
# less than 0.1 s. Fewer than the connections that HAProxy opens to a replica (`cluster.haproxy`), or it would never
# come to this.
WAITING = 64
# Places, ids and features: with so many, a request is answered where it is read, if the catalogue is ranked quickly.
FEW = 100
NAMES = "names {} ids and values of features"
Answer = TypeVar("Answer")


class Lists:
    """Over a holder and the limits of one call."""

    def __init__(self, holder: ReleaseHolder, *, limits: LimitsSettings, meters: Meters) -> None:
        self.holder, self.limits, self.meters = holder, limits, meters
        self._threads = ThreadPoolExecutor(ANSWERING, thread_name_prefix="nightrank-answer")
        self._look_ups = ThreadPoolExecutor(2, thread_name_prefix="nightrank-look-up")  # wait for nobody else
        self._in_threads = 0  # at work or waiting; the event loop alone touches it

    async def user_recommendations(self, call: Call) -> dict[str, Any] | Page:
        """GET /v1/users/{user_id}/recommendations."""
        prepared = held(self.holder)
        release, query, k = prepared.release, call.query, self._k(call.query.k)
        if is_plain(release, query, k=k):
            user_id = parse_id(call.path["user_id"], release.model.user_ids, what="user_id")
            plain = prepared.encoded.stored(user_id, k)
            if plain is not None:
                return Page(JSON, plain, source="precomputed")
        asked = asked_in_url(release, call.path["user_id"], query)
        self._check_ids(_named_in(asked), what=NAMES)
        return await self._one(prepared, asked, k)

    async def recommendations(self, call: Call) -> dict[str, Any]:
        """POST /v1/recommendations: one request, or a batch of them."""
        prepared, asked = held(self.holder), call.body.root
        if isinstance(asked, Batch):
            self._check_ids(sum(_named_in(one) for one in asked.requests), what=NAMES)
            self._check_ids(sum(one.k or DEFAULT_K for one in asked.requests), what="asks for {} ids")
            responses = await self._ranked(lambda: self._each(prepared, asked))
            for one in responses:
                if "source" in one:
                    self.meters.recommended(one["source"])
            return {"responses": responses}
        self._check_ids(_named_in(asked), what=NAMES)
        return await self._one(prepared, asked, self._k(asked.k))

    async def _one(self, prepared: Prepared, asked: Context, k: int) -> dict[str, Any]:
        if prepared.is_quick and not asked.events and max(k, _named_in(asked)) <= FEW:
            return recommend(prepared, asked, k=k)
        return await self._ranked(lambda: recommend(prepared, asked, k=k))

    def _each(self, prepared: Prepared, batch: Batch) -> list[dict[str, Any]]:
        """What one request cannot be answered with is told in its place; the others do not notice.

        Once a partition does not answer, only stored lists are asked for: each try would wait for it again.
        """
        responses: list[dict[str, Any]] = []
        lost: RequestError | None = None
        for asked in batch.requests:
            try:
                k = self._k(asked.k)
                if lost is not None and needs_ranking(prepared, asked, k=k):
                    raise lost
                responses.append(recommend(prepared, asked, k=k))
            except NightrankError as error:
                refusal = refused(error)
                lost = refusal if refusal.code == "partition_unavailable" else lost
                responses.append(told(refusal))
        return responses

    async def history(self, call: Call) -> dict[str, Any]:
        """GET /v1/users/{user_id}/history."""
        release, k = held(self.holder).release, self._k(call.query.k)
        user_id = parse_id(call.path["user_id"], release.model.user_ids, what="user_id")
        return await self._looked_up(lambda: answers.history(release, user_id, k=k))

    async def similar(self, call: Call) -> dict[str, Any]:
        """GET /v1/items/{item_id}/similar."""
        release = held(self.holder).release
        item_id = parse_id(call.path["item_id"], release.model.item_ids, what="item_id")
        k = self._k(call.query.k)
        if call.query.k is None:
            k = min(k, release.manifest.similar_items_k)
        return answers.similar(release, item_id, k=k)

    async def predictions(self, call: Call) -> dict[str, Any]:
        """POST /v1/predictions."""
        release, asked = held(self.holder).release, call.body
        self._check_ids(2 * len(asked.pairs), what="names {} ids")
        return await self._looked_up(lambda: answers.predictions(release, asked.pairs))

    async def _looked_up(self, answer: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._look_ups, answer)

    async def _ranked(self, answer: Callable[[], Answer]) -> Answer:
        if self._in_threads >= ANSWERING + WAITING:
            raise RequestError(
                503,
                "overloaded",
                f"{WAITING} requests wait to be ranked already; try again in a second",
                headers={"retry-after": "1"},
            )
        self._in_threads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, answer)
        finally:
            self._in_threads -= 1

    def _k(self, k: int | None) -> int:
        if k is None:
            return min(DEFAULT_K, self.limits.k)
        if k > self.limits.k:
            raise RequestError(422, "k_too_large", f"k is {k}; expected at most {self.limits.k}")
        return k

    def _check_ids(self, found: int, *, what: str) -> None:
        most = self.limits.ids
        if found > most:
            text = f"the request {what.format(found)}; expected at most {most} in all"
            raise RequestError(422, "too_many_ids", text)


def held(holder: ReleaseHolder) -> Prepared:
    """What answers come from now. Raises RequestError, 503, where nothing is held yet."""
    if holder.prepared is None:
        reason = holder.problem or "nothing is published; run the nightly job"
        raise RequestError(503, "no_release", f"no release can be served yet: {reason}")
    return holder.prepared


def _named_in(asked: Context) -> int:
    """Ids and values of features."""
    named = len(asked.exclude) + len(asked.events) + len(asked.candidates or ())
    values = sum(max(1, len(one)) if isinstance(one, list) else 1 for one in asked.features.values())
    return named + values + (asked.user_id is not None)
