"""Handlers of the calls that are not about a list: releases, activation, jobs, figures, health. They read the store
or ask the cluster, always in threads of their own, so a store that hangs holds up nobody who asks for a list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nightrank.errors import NightrankError, ReleaseError, StoreConflict, StoreUnreachable
from nightrank.release.manifest import RELEASE_ID, current
from nightrank.release.publish import activate, catalogue, published
from nightrank.service.api import Call
from nightrank.service.holder import ReleaseHolder
from nightrank.service.jobs import Jobs
from nightrank.service.keys import Keys
from nightrank.service.lists import held
from nightrank.service.meters import Meters
from nightrank.service.refusal import RequestError
from nightrank.service.stage_times import StageTimes

log = logging.getLogger("nightrank.service")

ACTIVATION_S = 5.0  # how long a caller waits for it before being told that it goes on
MANIFEST_FIELDS = {"release", "created", "family", "params", "metrics", "counts"}
Answer = TypeVar("Answer")


class Steering:
    """jobs: None where the service's settings name none."""

    def __init__(
        self, holder: ReleaseHolder, *, keys: Keys | None, meters: Meters, jobs: Jobs | None
    ) -> None:
        self.holder, self.keys, self.meters, self.jobs = holder, keys, meters, jobs
        self._stages = StageTimes(holder.store)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="nightrank-steering")
        self._activations: set[asyncio.Future[str | None]] = set()

    async def releases(self, call: Call) -> dict[str, Any]:
        """GET /v1/releases."""
        return await self._in_thread(self._releases)

    def _releases(self) -> dict[str, Any]:
        manifests, broken = catalogue(self.holder.store)
        return {
            "current": self._named(),
            "releases": [one.model_dump(include=MANIFEST_FIELDS) for one in manifests],
            "broken": {release: self.holder.told(problem) for release, problem in broken.items()},
        }

    async def current_release(self, call: Call) -> dict[str, Any]:
        """GET /v1/releases/current."""
        holder, named = self.holder, await self._in_thread(self._named)
        return {
            "current": named,
            "held": None if holder.prepared is None else holder.prepared.release.id,
            "pinned": holder.pin is not None,
            "problem": holder.problem,
        }

    def _named(self) -> str | None:
        """What CURRENT names; None also where it cannot be read, which the holder's problem tells."""
        try:
            return current(self.holder.store)[0]
        except NightrankError:
            return None

    async def activate_release(self, call: Call) -> dict[str, Any]:
        """POST /v1/releases/{release_id}/activate. It goes on when its caller has left."""
        release_id = call.path["release_id"]
        if self.holder.pin is not None:
            raise RequestError(
                409,
                "pinned",
                f"the service is pinned to {self.holder.pin} by its user_config; CURRENT moves nothing",
            )
        activation = asyncio.ensure_future(self._in_thread(lambda: self._activate(release_id)))
        self._activations.add(activation)
        activation.add_done_callback(self._activations.discard)
        done, _ = await asyncio.wait({activation}, timeout=ACTIVATION_S)
        if not done:
            return {"release": release_id, "state": "verifying", "before": None}
        return {"release": release_id, "state": "activated", "before": await activation}

    def _activate(self, release_id: str) -> str | None:
        store = self.holder.store
        if not RELEASE_ID.fullmatch(release_id) or release_id not in published(store):
            raise RequestError(
                404,
                "unknown_release",
                f"{release_id[:80]!r} is not published; GET /v1/releases lists what is",
            )
        try:
            before = activate(store, release_id)
        except StoreUnreachable:
            raise
        except StoreConflict as error:
            raise RequestError(409, "conflict", self.holder.told(str(error))) from None
        except ReleaseError as error:
            log.error("release %s was not put in service: %s", release_id, error)
            raise RequestError(409, "release_refused", self.holder.told(str(error))) from None
        log.info("release %s is in service, before it %s", release_id, before)
        self.holder.look()
        return before

    async def submit_job(self, call: Call) -> dict[str, Any]:
        """POST /v1/jobs."""
        jobs = self._jobs()
        return (await self._in_thread(lambda: jobs.submit(call.body))).model_dump(mode="json")

    async def job(self, call: Call) -> dict[str, Any]:
        """GET /v1/jobs/{job_id}."""
        jobs = self._jobs()
        return (await self._in_thread(lambda: jobs.state(call.path["job_id"]))).model_dump(mode="json")

    def _jobs(self) -> Jobs:
        if self.jobs is None:
            raise RequestError(
                404, "jobs_disabled", "this service submits no jobs: its settings have no args.jobs"
            )
        return self.jobs

    async def stats(self, call: Call) -> dict[str, Any]:
        """GET /v1/stats."""
        stages = await self._in_thread(self._stages.recent)
        return self.meters.told() | {"stages": {name: one.model_dump() for name, one in stages.items()}}

    async def healthz(self, call: Call) -> dict[str, Any]:
        """GET /healthz."""
        return {"status": "ok"}

    async def readyz(self, call: Call) -> dict[str, Any]:
        """GET /readyz."""
        release, keys = held(self.holder).release, self.keys
        problems = [self.holder.problem, None if keys is None else keys.problem]
        told = "; ".join(one for one in problems if one is not None)
        return {"status": "ready", "release": release.id, "problem": told or None}

    async def _in_thread(self, answer: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, answer)
