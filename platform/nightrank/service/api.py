"""The ASGI application: finds the operation of a call, admits it, answers it in JSON, counts it.

No framework stands in the way of the hot route: a call costs a few dictionary look-ups before its handler runs.
Handlers never block: what may wait is awaited in threads. Errors say what was found and expected, and name no place.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from pydantic import BaseModel
from starlette.routing import Route

from nightrank.errors import NightrankError
from nightrank.service.keys import Keys
from nightrank.service.meters import Meters
from nightrank.service.reading import Scope, body_as, query_as, read_body
from nightrank.service.refusal import RequestError
from nightrank.service.schemas import NoQuery

log = logging.getLogger("nightrank.service")

JSON = b"application/json"
BEARER = {"www-authenticate": "Bearer"}


class Call(NamedTuple):
    """What a handler is given: the path's texts, and query and body as their models (None: it has no body)."""

    path: Mapping[str, str]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that is encoded already. source: of recommendations."""

    media_type: bytes
    content: bytes
    source: str | None = None


Handler = Callable[[Call], Awaitable[Any]]  # a JSON value, or a Page


@dataclass(frozen=True)
class Operation:
    """One call of the API. role: whose key it takes; None: nobody's. errors: statuses besides those of all."""

    method: str
    path: str
    summary: str
    handler: Handler
    answer: type[BaseModel] | None
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    status: int = 200
    role: str | None = "read"
    errors: Sequence[int] = ()


class Api:
    """operations: in any order. keys: None: reads are open, and nobody is admin."""

    def __init__(
        self, operations: Sequence[Operation], *, keys: Keys | None, meters: Meters, most_bytes: int
    ) -> None:
        self.operations, self.keys, self.meters, self.most_bytes = operations, keys, meters, most_bytes
        by_path: dict[str, dict[str, Operation]] = {}
        for one in operations:
            by_path.setdefault(one.path, {})[one.method] = one
        for methods in by_path.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]  # load balancers ask so; servers drop the body
        # Serve asks these for a request's route, for its log and its metrics; nothing is called through them.
        self.routes = [Route(path, endpoint=self, methods=list(methods)) for path, methods in by_path.items()]
        self._fixed = {path: methods for path, methods in by_path.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods)
            for path, methods in by_path.items()
            if "{" in path
        ]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI 3.0, http and lifespan."""
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        started, route, source = time.perf_counter(), "", None
        headers: Mapping[str, str] = {}
        try:
            operation, path = self._operation(scope)
            route = operation.path
            self._admit(operation, scope)
            answer = await self._answer(operation, path, scope=scope, receive=receive)
            status, content, media_type = operation.status, b"", JSON
            if isinstance(answer, Page):
                content, media_type, source = answer.content, answer.media_type, answer.source
            else:
                source = answer.get("source")
                content = orjson.dumps(answer)
        except Exception as error:  # whatever it is, the caller gets an answer
            refusal = refused(error, scope["headers"])
            status, content, media_type, headers = refusal.status, _body(refusal), JSON, refusal.headers
        await _send(send, status, content, media_type=media_type, headers=headers)
        self.meters.answered(route=route, source=source, status=status, seconds=time.perf_counter() - started)

    def _operation(self, scope: Scope) -> tuple[Operation, Mapping[str, str]]:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if "\ufffd" in path:  # what the server put there for bytes that are no UTF-8, or the caller's own
            _check_utf8(scope)
        methods = self._fixed.get(path)
        values: Mapping[str, str] = {}
        if methods is None:
            for pattern, one in self._patterns:
                match = pattern.fullmatch(path)
                if match is not None:
                    methods, values = one, match.groupdict()
                    break
        if methods is None:
            raise RequestError(
                404, "not_found", "there is no such route; /openapi.json lists those there are"
            )
        operation = methods.get(scope["method"])
        if operation is None:
            allowed = ", ".join(sorted(methods))
            raise RequestError(
                405, "method_not_allowed", f"expected one of {allowed}", headers={"allow": allowed}
            )
        return operation, values

    def _admit(self, operation: Operation, scope: Scope) -> None:
        if operation.role is None or (self.keys is None and operation.role == "read"):
            return
        if self.keys is None:
            raise RequestError(403, "no_keys", "admin calls need a key, and this service has no key file")
        given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        role = self.keys.role(given)
        if role is None:
            found = "no key" if given is None else "a key that is not known here"
            raise RequestError(
                401, "unauthorized", f"found {found}; expected Authorization: Bearer KEY", headers=BEARER
            )
        if operation.role == "admin" and role != "admin":
            raise RequestError(403, "forbidden", "this key may read; expected an admin key")

    async def _answer(
        self, operation: Operation, path: Mapping[str, str], *, scope: Scope, receive: Any
    ) -> Any:
        query = query_as(operation.query, scope["query_string"])
        body = None
        if operation.body is not None:
            raw = await read_body(scope, receive, most_bytes=self.most_bytes)
            body = body_as(operation.body, raw)
        return await operation.handler(Call(path, query, body))


def refused(error: Exception, request_headers: Sequence[tuple[bytes, bytes]] = ()) -> RequestError:
    """What is said over HTTP of an error; the log has what is not for callers, with the id of the request."""
    if isinstance(error, RequestError):
        return error
    request_id = next((value for name, value in request_headers if name == b"x-request-id"), b"")
    if isinstance(error, NightrankError):
        log.error(
            "request %s: the store or the release cannot be read: %s", request_id.decode("latin-1"), error
        )
        return RequestError(
            503, "store_unavailable", "the store cannot be read just now; see the service's log"
        )
    log.error("request %s failed", request_id.decode("latin-1"), exc_info=error)
    return RequestError(500, "internal_error", "the request failed; see the service's log")


def told(refusal: RequestError) -> dict[str, Any]:
    """The body of a refusal."""
    return {"error": {"code": refusal.code, "message": str(refusal)}}


def _body(refusal: RequestError) -> bytes:
    return orjson.dumps(told(refusal))


def _check_utf8(scope: Scope) -> None:
    try:
        unquote_to_bytes(scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise RequestError(422, "invalid_request", "the path is not percent-encoded UTF-8") from None


async def _send(
    send: Any, status: int, content: bytes, *, media_type: bytes, headers: Mapping[str, str]
) -> None:
    listed = [(b"content-type", media_type), (b"content-length", str(len(content)).encode())]
    listed += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": content})


async def _lifespan(scope: Scope, receive: Any, send: Any) -> None:
    """Nothing to start or stop: what is held is the holder's. No websockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
