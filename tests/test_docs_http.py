"""docs/http.md: routes, parameters, example answers, sources and error codes are those of the service."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import pages
from made import Published
from nightrank.service import schemas
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api
from pages import HTTP, ROOT, blocks, column, rows_of, section

published = pages.published


def test_the_routes_are_those_of_openapi(published: Published) -> None:
    """Every route with its query parameters is in the table, and each has an example."""
    paths = build_api(ReleaseHolder(published.store)).openapi()["paths"]
    real = {
        path: {one["name"] for one in calls["get"].get("parameters", []) if one["in"] == "query"}
        for path, calls in paths.items()
    }
    assert all(set(calls) == {"get"} for calls in paths.values())
    said = {
        row["route"]: set(re.findall(r"\w+", row["parameters"]))
        for row in rows_of(HTTP, "route", "parameters")
    }
    assert said == real
    assert set(re.findall(r"^### GET (\S+)$", HTTP, re.M)) == set(real)


SHAPES: Sequence[tuple[str, type[BaseModel]]] = (
    ("GET /v1/users/{user_id}/recommendations", schemas.Recommendations),
    ("GET /v1/users/{user_id}/history", schemas.History),
    ("GET /v1/items/{item_id}/similar", schemas.SimilarItems),
    ("GET /v1/releases", schemas.Releases),
    ("GET /v1/releases/current", schemas.CurrentRelease),
    ("GET /healthz", schemas.Health),
    ("GET /readyz", schemas.Ready),
    ("Errors", schemas.Error),
)


@pytest.mark.parametrize(("heading", "model"), SHAPES, ids=[heading for heading, _ in SHAPES])
def test_the_example_answers_have_the_real_shape(heading: str, model: type[BaseModel]) -> None:
    """No field of an example is invented, and none that always comes is missing."""
    (text,) = blocks(section(HTTP, heading), "json")
    assert model.model_validate_json(text).model_dump(mode="json", exclude_unset=True) == json.loads(text)


def test_sources_are_those_of_the_schema() -> None:
    """Every `source` that an answer can have is explained."""
    real = set(get_args(schemas.Recommendations.model_fields["source"].annotation))
    assert set(column(HTTP, "source", "when")) == real


def test_the_error_codes_are_those_in_the_code() -> None:
    """The table has every (status, code) that the service can answer, and no other."""
    said = {(row["status"], row["code"]) for row in rows_of(HTTP, "status", "code")}
    assert said == set(codes_in_the_code())


def codes_in_the_code() -> Iterator[tuple[str, str]]:
    """(status, code) of each RequestError and _error; of `_http`, those of its table and its fallback."""
    for path in sorted((ROOT / "platform/nightrank/service").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "_http":
                (table,) = [one for one in ast.walk(node) if isinstance(one, ast.Dict) and one.keys]
                for key, value in ast.literal_eval(ast.unparse(table)).items():
                    yield str(key), value
                (get,) = [one for one in ast.walk(node) if is_call(one, "get")]
                yield "any", ast.literal_eval(ast.unparse(get.args[1]))
            if is_call(node, "RequestError", "_error") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.args[1].value


def is_call(node: ast.AST, *names: str) -> Any:
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "id", getattr(node.func, "attr", None)) in names
