"""Handlers of the calls that are not about a list: releases, activation, jobs, figures, health.

They read the store or ask the cluster, always in threads of their own, each kind apart: a store that hangs holds up
nobody who asks for a list, a jobs API that hangs nobody who activates a release.
"""

from __future__ import annotations

from typing import Any

from nightrank.errors import NightrankError
from nightrank.release.manifest import current
from nightrank.release.publish import catalogue
from nightrank.service.activation import Activations
from nightrank.service.api import Call
from nightrank.service.holder import ReleaseHolder
from nightrank.service.jobs import Jobs
from nightrank.service.keys import Keys
from nightrank.service.lists import held
from nightrank.service.meters import Meters
from nightrank.service.refusal import RequestError
from nightrank.service.stage_times import StageTimes
from nightrank.service.threads import Threads

MANIFEST_FIELDS = {"release", "created", "family", "params", "metrics", "counts"}


class Steering:
    """jobs: None where the service's settings name none."""

    def __init__(
        self, holder: ReleaseHolder, *, keys: Keys | None, meters: Meters, jobs: Jobs | None
    ) -> None:
        self.holder, self.keys, self.meters, self.jobs = holder, keys, meters, jobs
        self._stages = StageTimes(holder.store)
        self._activations = Activations(holder, meters=meters)
        self._reading = Threads("the store is slow, and others wait for it already", threads=4, waiting=16)
        # One at a time, so that each counts the jobs that those before it started (`Jobs.submit`).
        self._submitting = Threads("other jobs are being submitted already", threads=1, waiting=1)
        self._polling = Threads("the jobs API is slow, and others wait for it already", threads=4, waiting=4)

    async def releases(self, call: Call) -> dict[str, Any]:
        """GET /v1/releases."""
        return await self._reading.run(self._releases)

    def _releases(self) -> dict[str, Any]:
        manifests, broken = catalogue(self.holder.store)
        return {
            "current": self._named(),
            "releases": [one.model_dump(include=MANIFEST_FIELDS) for one in manifests],
            "broken": {release: self.holder.told(problem) for release, problem in broken.items()},
        }

    async def current_release(self, call: Call) -> dict[str, Any]:
        """GET /v1/releases/current."""
        holder, named = self.holder, await self._reading.run(self._named)
        return {
            "current": named,
            "held": None if holder.prepared is None else holder.prepared.release.id,
            "pinned": holder.pin is not None,
            "problem": holder.problem,
            "activation": self._activations.last,
        }

    def _named(self) -> str | None:
        """What CURRENT names; None also where it cannot be read, which the holder's problem tells."""
        try:
            return current(self.holder.store)[0]
        except NightrankError:
            return None

    async def activate_release(self, call: Call) -> dict[str, Any]:
        """POST /v1/releases/{release_id}/activate. It goes on when its caller has left."""
        if self.holder.pin is not None:
            raise RequestError(
                409,
                "pinned",
                f"the service is pinned to {self.holder.pin} by its user_config; CURRENT moves nothing",
            )
        return await self._activations.activate(call.path["release_id"])

    async def submit_job(self, call: Call) -> dict[str, Any]:
        """POST /v1/jobs."""
        jobs = self._jobs()
        return (await self._submitting.run(lambda: jobs.submit(call.body))).model_dump(mode="json")

    async def job(self, call: Call) -> dict[str, Any]:
        """GET /v1/jobs/{job_id}."""
        jobs = self._jobs()
        return (await self._polling.run(lambda: jobs.state(call.path["job_id"]))).model_dump(mode="json")

    def _jobs(self) -> Jobs:
        if self.jobs is None:
            raise RequestError(
                404, "jobs_disabled", "this service submits no jobs: its settings have no args.jobs"
            )
        return self.jobs

    async def stats(self, call: Call) -> dict[str, Any]:
        """GET /v1/stats."""
        stages = await self._reading.run(self._stages.recent)
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
