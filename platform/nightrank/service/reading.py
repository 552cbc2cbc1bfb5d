"""Queries and bodies of HTTP calls, checked on the way in; nothing beyond the limits is ever read.

Sent slowly or never ended, a body is given up after `BODY_S`, so that it holds no place in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nightrank.service.refusal import RequestError

BODY_S = 5.0  # for a whole body; a megabyte in this time is 1.6 Mbit/s
Scope = Mapping[str, Any]
Model = TypeVar("Model", bound=BaseModel)
_FLAGS = {"true": True, "false": False}
BRANCHES = {"one", "batch", "constrained-int", "str"}  # pydantic's names within a union: no keys of a body
_MOST_LISTED = 100
_MOST_TOLD = 5  # problems of one body: a long list of wrong ids is told by its first few


@lru_cache(maxsize=1024)  # most queries are one of a few, such as k=10
def query_as(model: type[Model], raw: bytes) -> Model:
    """A query as `model`, whose fields are numbers, flags, texts or lists of texts. Raises RequestError."""
    if raw == b"":
        return model()
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=None)
    except (UnicodeDecodeError, ValueError):
        raise RequestError(422, "invalid_request", "the query is not percent-encoded UTF-8") from None
    values: dict[str, Any] = {}
    for name, text in pairs:
        field = model.model_fields.get(name)
        if field is not None and field.annotation == list[str]:
            values.setdefault(name, []).append(text)
        elif name in values:
            raise RequestError(422, "invalid_request", f"query.{name} stands there twice; expected it once")
        else:
            values[name] = _plain(text)
    return _checked(model, values, what="query")


def _plain(text: str) -> Any:
    """A number or a flag, where the text is exactly one."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else _FLAGS.get(text, text)


def _checked(model: type[Model], value: Any, *, what: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RequestError(422, "invalid_request", _told(what, error)) from None


def body_as(model: type[Model], body: bytes) -> Model:
    """A JSON body as `model`. Raises RequestError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, "invalid_json", f"the body is no JSON: {error}") from None
    return _checked(model, value, what="body")


def _told(what: str, error: ValidationError) -> str:
    """Its first problems. Lists stop at their first one (schemas.py), so many are as many keys that nobody knows;
    to list those would take seconds, in which nobody else is answered."""
    if error.error_count() > _MOST_LISTED:
        return f"{what}: {error.error_count()} problems, expected what /openapi.json describes"
    problems: dict[str, str] = {}
    for one in error.errors(include_url=False):
        place = ".".join(str(part) for part in (what, *one["loc"]) if part not in BRANCHES)
        problems.setdefault(
            place, f"{place}: {one['msg']}{_found(one)}"
        )  # a union says what each branch thinks
    lines = list(problems.values())
    more = f"; and {len(lines) - _MOST_TOLD} more" if len(lines) > _MOST_TOLD else ""
    return "; ".join(lines[:_MOST_TOLD]) + more


def _found(one: ErrorDetails) -> str:
    value = one["input"]
    if one["type"] == "missing":
        return ""
    if isinstance(value, list | dict):
        return f", found a {type(value).__name__} of {len(value)}"
    return f", found {value[:80]!r}" if isinstance(value, str) else f", found {value!r}"


async def read_body(scope: Scope, receive: Any, *, most_bytes: int) -> bytes:
    """The whole body. Raises RequestError: 413 beyond `most_bytes`, 408 where it does not come in time."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if length.isdigit() and int(length) > most_bytes:
        await _drop(receive)
        raise _too_large(most_bytes)
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "body_incomplete", "the connection ended before the body did")
                parts.append(message.get("body", b""))
                size, more = size + len(parts[-1]), message.get("more_body", False)
                if size > most_bytes:
                    parts.clear()
                    if more:
                        await _drop(receive)
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise RequestError(
            408, "body_too_slow", f"the body did not arrive in {BODY_S:g} s; send it at once", headers=CLOSE
        ) from None
    return b"".join(parts)


async def _drop(receive: Any) -> None:
    """Read what comes and keep nothing, for `BODY_S` at most: who is still sending when a connection is closed loses
    the answer too."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_S):
            message = await receive()
            while message["type"] != "http.disconnect" and message.get("more_body", False):
                message = await receive()


CLOSE = {"connection": "close"}  # what is left of the body would be taken for the next request


def _too_large(most_bytes: int) -> RequestError:
    return RequestError(
        413,
        "body_too_large",
        f"the body is larger than {most_bytes} bytes; send fewer at a time",
        headers=CLOSE,
    )
