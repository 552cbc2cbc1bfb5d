"""An application for tests: a gateway that asks a RemoteIndex over the product's own partitions, as Service does.

Serve imports it on the cluster by its name here; PYTHONPATH of its workers names this folder.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from scipy.sparse import csr_matrix
from starlette.requests import Request
from starlette.responses import JSONResponse

from nightrank.config.service import ServiceArgs, service_args
from nightrank.release.manifest import current
from nightrank.release.reader import Release, open_release
from nightrank.release.store import open_store
from nightrank.service.live_index import index_opener
from nightrank.service.partition import partition_deployments
from nightrank.service.prepared import Index
from nightrank.service.refusal import RequestError


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=64)
class Gateway:
    """Follows CURRENT, much faster than the service does, and flips one reference."""

    def __init__(self, args: ServiceArgs, partitions: Sequence[DeploymentHandle]) -> None:
        self.store, self.open = open_store(args.store), index_opener(args.live, partitions)
        self.held: tuple[Release, Index] | None = None
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self) -> None:
        while True:
            wanted, _ = current(self.store)
            if wanted is not None and (self.held is None or self.held[0].id != wanted):
                release = open_release(self.store, wanted)
                self.held = release, self.open(release)
            time.sleep(0.02)

    async def __call__(self, request: Request) -> JSONResponse:
        asked = await request.json()
        try:
            return JSONResponse(await asyncio.to_thread(self.answer, **asked))
        except RequestError as error:
            said = {"error": {"code": error.code, "message": str(error)}}
            return JSONResponse(said, status_code=error.status, headers=error.headers)

    def answer(self, users: list[int], k: int, exclude: bool, allow: list[int] | None) -> dict[str, Any]:
        if self.held is None:
            raise RequestError(503, "no_release", "not yet")
        release, index = self.held
        top = index.top_k(
            release.model.user_vectors[users],
            k,
            exclude=csr_matrix(release.model.seen[users]) if exclude else None,
            allow=None if allow is None else np.array(allow, dtype=np.int64),
        )
        scores = top.scores.view(np.int32).tolist()  # their bits: JSON has no NaN
        return {
            "release": release.id,
            "rows": top.item_rows.tolist(),
            "scores": scores,
            "counts": top.counts.tolist(),
        }


def build(args: dict[str, Any]) -> Application:
    settings = service_args(args)
    application: Application = Gateway.bind(settings, partition_deployments(settings))  # type: ignore[attr-defined]
    return application
