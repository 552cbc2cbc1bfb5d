"""HTTP routes over a ReleaseHolder: a plain ASGI application, the same under Serve and in tests."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import nightrank
from nightrank.errors import NightrankError
from nightrank.release.manifest import current
from nightrank.release.publish import catalogue
from nightrank.release.reader import Release
from nightrank.service import answers, schemas
from nightrank.service.holder import ReleaseHolder
from nightrank.service.refusal import RequestError

log = logging.getLogger("nightrank.service")

K = Annotated[schemas.ListQuery, Query()]
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": schemas.Error}}
ERRORS: dict[int | str, dict[str, Any]] = {422: {"model": schemas.Error}, 503: {"model": schemas.Error}}


def build_api(holder: ReleaseHolder) -> FastAPI:
    """The application; every answer comes from the one release that the holder holds when it starts."""
    api = FastAPI(
        title="nightrank", version=nightrank.__version__, summary="Recommendations from the published release"
    )
    _add_lists(api, holder)
    _add_releases(api, holder)
    _add_health(api, holder)
    api.add_exception_handler(RequestError, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(NightrankError, _unreadable)
    api.add_exception_handler(Exception, _failed)
    return api


def _add_lists(api: FastAPI, holder: ReleaseHolder) -> None:
    @api.get(
        "/v1/users/{user_id}/recommendations",
        response_model=schemas.Recommendations,
        responses=ERRORS,
        summary="A user's top k; the most popular items for an unknown user",
    )
    async def recommendations(user_id: str, query: K) -> JSONResponse:
        return JSONResponse(answers.recommendations(_held(holder), user_id, k=query.k))

    @api.get(
        "/v1/users/{user_id}/history",
        response_model=schemas.History,
        responses=ERRORS | NOT_FOUND,
        summary="What a user did, strongest first",
    )
    async def history(user_id: str, query: K) -> JSONResponse:
        return JSONResponse(answers.history(_held(holder), user_id, k=query.k))

    @api.get(
        "/v1/items/{item_id}/similar",
        response_model=schemas.SimilarItems,
        responses=ERRORS | NOT_FOUND,
        summary="The items closest to one, by cosine",
    )
    async def similar(item_id: str, query: K) -> JSONResponse:
        return JSONResponse(answers.similar(_held(holder), item_id, k=query.k))


def _add_releases(api: FastAPI, holder: ReleaseHolder) -> None:
    @api.get("/v1/releases", response_model=schemas.Releases, responses=ERRORS, summary="What is published")
    def releases() -> dict[str, Any]:  # reads files: in a thread, not on the event loop
        manifests, broken = catalogue(holder.store)
        fields = {"release", "created", "family", "params", "metrics", "counts"}
        return {
            "current": _named(holder),
            "releases": [manifest.model_dump(include=fields) for manifest in manifests],
            "broken": {release: holder.told(problem) for release, problem in broken.items()},
        }

    @api.get(
        "/v1/releases/current",
        response_model=schemas.CurrentRelease,
        responses=ERRORS,
        summary="What CURRENT names and what this replica answers from",
    )
    def current_release() -> dict[str, Any]:
        return {
            "current": _named(holder),
            "held": None if holder.release is None else holder.release.id,
            "pinned": holder.pin is not None,
            "problem": holder.problem,
        }


def _named(holder: ReleaseHolder) -> str | None:
    """What CURRENT names; None also where it cannot be read, which the holder's problem tells."""
    try:
        return current(holder.store)[0]
    except NightrankError:
        return None


def _add_health(api: FastAPI, holder: ReleaseHolder) -> None:
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz() -> JSONResponse:
        return JSONResponse({"status": "ready", "release": _held(holder).id, "problem": holder.problem})

    for path, probe, model, summary in (
        ("/healthz", healthz, schemas.Health, "The process is up"),
        ("/readyz", readyz, schemas.Ready, "A release is held"),
    ):
        api.get(path, response_model=model, responses=ERRORS, summary=summary)(probe)
        api.head(path, include_in_schema=False)(probe)  # load balancers ask so


def _held(holder: ReleaseHolder) -> Release:
    release = holder.release
    if release is None:
        reason = holder.problem or "nothing is published; run the nightly job"
        raise RequestError(503, "no_release", f"no release can be served yet: {reason}")
    return release


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)  # noqa: S101  registered for this type
    return _error(error.status, error.code, str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this type
    problems = [
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}, found {one.get('input')!r}"
        for one in error.errors()
    ]
    return _error(422, "invalid_request", "; ".join(problems))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this type
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    answer = _error(error.status_code, code, str(error.detail))
    answer.headers.update(error.headers or {})  # Allow, with 405
    return answer


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    log.error("the store or the release cannot be read: %s", error)
    return _error(503, "store_unavailable", "the store cannot be read just now; see the service's log")


async def _failed(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", exc_info=error)
    return _error(500, "internal_error", "the request failed; see the service's log")
