"""What the service answers to: the one table that requests, OpenAPI and the docs are held to."""

from __future__ import annotations

from typing import Any

import orjson

from nightrank.config.service import LimitsSettings
from nightrank.service import schemas
from nightrank.service.api import Api, Call, Operation, Page
from nightrank.service.docs_page import docs_page
from nightrank.service.holder import ReleaseHolder
from nightrank.service.job_schemas import JobRequest, JobState, JobSubmitted
from nightrank.service.jobs import Jobs
from nightrank.service.keys import Keys
from nightrank.service.lists import Lists
from nightrank.service.meters import Meters
from nightrank.service.openapi import document
from nightrank.service.stats import Stats
from nightrank.service.steering import Steering


def build_api(
    holder: ReleaseHolder,
    *,
    limits: LimitsSettings | None = None,
    keys: Keys | None = None,
    meters: Meters | None = None,
    jobs: Jobs | None = None,
) -> Api:
    """The ASGI application over a holder; what is not given is as serve_config.yaml's defaults have it.

    It counts in the holder's meters unless others are given.
    """
    limits = LimitsSettings() if limits is None else limits
    meters = holder.meters if meters is None else meters
    operations = [
        *_reading(Lists(holder, limits=limits, meters=meters)),
        *_steering(Steering(holder, keys=keys, meters=meters, jobs=jobs)),
    ]
    told = document(operations, limits=limits)
    described, readable = orjson.dumps(told), docs_page(told)

    async def openapi(call: Call) -> Page:
        return Page(b"application/json", described)

    async def docs(call: Call) -> Page:
        return Page(b"text/html; charset=utf-8", readable)

    for path, page in (("/openapi.json", openapi), ("/docs", docs)):
        operations.append(Operation("GET", path, "", page, None, role=None))
    return Api(operations, keys=keys, meters=meters, most_bytes=limits.body_bytes)


def _reading(lists: Lists) -> list[Operation]:
    return [
        Operation(
            "GET",
            "/v1/users/{user_id}/recommendations",
            "A user's top k; the most popular items for an unknown user",
            lists.user_recommendations,
            schemas.Recommendations,
            query=schemas.RecommendationsQuery,
        ),
        Operation(
            "POST",
            "/v1/recommendations",
            "Recommendations for a context that only the caller knows; or a batch of them",
            lists.recommendations,
            schemas.OneOrAll,
            body=schemas.ContextOrBatch,
        ),
        Operation(
            "GET",
            "/v1/users/{user_id}/history",
            "What a user did, strongest first",
            lists.history,
            schemas.History,
            query=schemas.ListQuery,
            errors=(404,),
        ),
        Operation(
            "GET",
            "/v1/items/{item_id}/similar",
            "The items closest to one, by cosine",
            lists.similar,
            schemas.SimilarItems,
            query=schemas.ListQuery,
            errors=(404,),
        ),
        Operation(
            "POST",
            "/v1/predictions",
            "The model's rating, probability or score of pairs",
            lists.predictions,
            schemas.Predictions,
            body=schemas.Pairs,
        ),
    ]


def _steering(steering: Steering) -> list[Operation]:
    admin: dict[str, Any] = {"role": "admin"}
    return [
        Operation("GET", "/v1/releases", "What is published", steering.releases, schemas.Releases),
        Operation(
            "GET",
            "/v1/releases/current",
            "What CURRENT names and what this replica answers from",
            steering.current_release,
            schemas.CurrentRelease,
        ),
        Operation(
            "POST",
            "/v1/releases/{release_id}/activate",
            "Verify a release and put it in service",
            steering.activate_release,
            schemas.Activation,
            status=202,
            errors=(404, 409),
            **admin,
        ),
        Operation(
            "POST",
            "/v1/jobs",
            "Submit a job to the cluster",
            steering.submit_job,
            JobSubmitted,
            body=JobRequest,
            status=202,
            errors=(404, 409),
            **admin,
        ),
        Operation(
            "GET",
            "/v1/jobs/{job_id}",
            "How a job is doing",
            steering.job,
            JobState,
            errors=(404,),
            **admin,
        ),
        Operation("GET", "/v1/stats", "Figures of this replica, and of recent jobs", steering.stats, Stats),
        Operation("GET", "/healthz", "The process is up", steering.healthz, schemas.Health, role=None),
        Operation("GET", "/readyz", "A release is held", steering.readyz, schemas.Ready, role=None),
    ]
