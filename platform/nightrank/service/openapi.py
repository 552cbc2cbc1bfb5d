"""The OpenAPI 3.1 document of the operations, from the models that check requests."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import nightrank
from nightrank.config.service import LimitsSettings
from nightrank.service.api import Operation
from nightrank.service.schemas import Error

Modes = Literal["validation", "serialization"]
REF = "#/components/schemas/{model}"
ALWAYS = (422, 500, 503)  # a query or body that cannot be meant; a bug; overload, or nothing to answer from


def document(operations: Sequence[Operation], *, limits: LimitsSettings) -> dict[str, Any]:
    """The whole document, of the operations that answer in JSON."""
    described = [one for one in operations if one.answer is not None]
    wanted: list[tuple[type[BaseModel], Modes]] = [(Error, "serialization")]
    for one in described:
        wanted += [(model, "serialization") for model in (one.answer,) if model is not None]
        wanted += [(model, "validation") for model in (one.body,) if model is not None]
    _, definitions = models_json_schema(list(dict.fromkeys(wanted)), ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for one in described:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, limits.k)
    schemas = definitions["$defs"]
    asked = schemas["Context"]["properties"]
    asked["k"]["anyOf"][0]["maximum"] = limits.k
    for some_ids in (asked["events"], asked["exclude"], asked["candidates"]["anyOf"][0]):
        some_ids["maxItems"] = limits.ids
    schemas["Pairs"]["properties"]["pairs"]["maxItems"] = limits.ids // 2
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nightrank",
            "version": nightrank.__version__,
            "summary": "Recommendations from the published release",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Operation, most_k: int) -> dict[str, Any]:
    path = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for part in one.path.split("/")
        if part.startswith("{")
    ]
    told: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.handler.__name__,
        "parameters": path + _query(one.query, most_k),
        "responses": _responses(one),
    }
    if one.body is not None:
        told["requestBody"] = {"required": True, "content": _content(one.body)}
    if one.role is not None:
        told["security"] = [{"key": []}] if one.role == "admin" else [{}, {"key": []}]
    return told


def _query(model: type[BaseModel], most_k: int) -> list[dict[str, Any]]:
    """A parameter for each field; one that may be left out is not null in a URL."""
    listed = []
    for name, schema in model.model_json_schema()["properties"].items() if model.model_fields else ():
        kept = {key: value for key, value in schema.items() if key not in ("title", "description", "default")}
        branches = [one for one in kept.get("anyOf", []) if one != {"type": "null"}]
        plain = branches[0] if branches else kept
        listed.append(
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema.get("description", ""),
                "schema": plain | ({"maximum": most_k} if name == "k" else {}),
            }
        )
    return listed


def _responses(one: Operation) -> dict[str, Any]:
    statuses = {*ALWAYS, *one.errors}
    if one.body is not None:
        statuses |= {400, 408, 413}
    if one.role is not None:
        statuses |= {401, 403}
    responses: dict[str, Any] = {
        str(status): {"description": HTTPStatus(status).phrase, "content": _content(Error)}
        for status in sorted(statuses)
    }
    assert one.answer is not None  # noqa: S101  only such are described
    responses[str(one.status)] = {"description": one.summary, "content": _content(one.answer)}
    return responses


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
