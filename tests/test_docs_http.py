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
from nightrank.cluster.haproxy import ANSWERS
from nightrank.config.service import LimitsSettings
from nightrank.service import schemas
from nightrank.service.holder import ReleaseHolder
from nightrank.service.openapi import document
from nightrank.service.prometheus import COUNTERS, GAUGES
from nightrank.service.routes import build_api
from nightrank.service.stats import Stats
from pages import HTTP, ROOT, blocks, column, rows_of, section

published = pages.published


def test_the_routes_are_those_of_openapi(published: Published) -> None:
    """Every call with its query parameters is in the table."""
    paths = document(build_api(ReleaseHolder(published.store)).operations, limits=LimitsSettings())["paths"]
    real = {
        f"{method.upper()} {path}": {one["name"] for one in call["parameters"] if one["in"] == "query"}
        for path, calls in paths.items()
        for method, call in calls.items()
    }
    said = {
        row["call"].replace("`", ""): set(re.findall(r"\w+", row["query"]))
        for row in rows_of(HTTP, "call", "query")
    }
    assert said == real


def test_the_keys_of_a_request_are_those_of_the_schema() -> None:
    """Each key of a body of POST /v1/recommendations with its default."""
    real = {
        name: json.dumps(field.get_default(call_default_factory=True))
        for name, field in schemas.Context.model_fields.items()
    }
    table = rows_of(section(HTTP, "POST /v1/recommendations"), "key", "default")
    assert {row["key"].strip("`"): row["default"] for row in table} == real


def test_the_kinds_of_predictions_are_those_of_the_schema() -> None:
    """rating, probability, score."""
    real = set(get_args(schemas.Predictions.model_fields["kind"].annotation))
    assert set(column(HTTP, "kind", "when")) == real


SHAPES: Sequence[tuple[str, type[BaseModel]]] = (
    ("GET /v1/users/{user_id}/recommendations", schemas.Recommendations),
    ("POST /v1/recommendations", schemas.OneOrAll),
    ("Somebody new, by features", schemas.Recommendations),
    ("GET /v1/users/{user_id}/history", schemas.History),
    ("GET /v1/items/{item_id}/similar", schemas.SimilarItems),
    ("POST /v1/predictions", schemas.Predictions),
    ("GET /v1/releases", schemas.Releases),
    ("GET /v1/releases/current", schemas.CurrentRelease),
    ("POST /v1/releases/{release_id}/activate", schemas.Activation),
    ("GET /healthz", schemas.Health),
    ("GET /readyz", schemas.Ready),
    ("GET /v1/stats", Stats),
    ("Errors", schemas.Error),
)


@pytest.mark.parametrize(("heading", "model"), SHAPES, ids=[heading for heading, _ in SHAPES])
def test_the_example_answers_have_the_real_shape(heading: str, model: type[BaseModel]) -> None:
    """No field of an example is invented, and none that always comes is missing."""
    texts = blocks(section(HTTP, heading), "json")
    assert len(texts) == (2 if model is schemas.OneOrAll else 1)
    for text in texts:
        assert model.model_validate_json(text).model_dump(mode="json", exclude_unset=True) == json.loads(text)


def test_sources_are_those_of_the_schema() -> None:
    """Every `source` that an answer can have is explained."""
    real = set(get_args(schemas.Recommendations.model_fields["source"].annotation))
    assert set(column(HTTP, "source", "when")) == real


def test_the_metrics_are_those_that_are_sent() -> None:
    """Name, type and labels; and no query asks for a metric or a label that there is not."""
    page = section(HTTP, "Metrics")
    real = {f"ray_{name}_total": ("counter", set(labels)) for name, (labels, _) in COUNTERS.items()}
    real |= {f"ray_{name}": ("gauge", set()) for name in GAUGES}
    said = {
        row["metric"]: (row["type"], set(re.findall(r"\w+", row["labels"])))
        for row in rows_of(page, "metric", "type")
    }
    assert said == real
    for row in rows_of(page, "question", "PromQL"):
        (name,) = set(re.findall(r"ray_nightrank_\w+", row["PromQL"]))
        asked = re.findall(r"(\w+)=", row["PromQL"]) + re.findall(r"by \(([\w, ]+)\)", row["PromQL"])
        assert set(re.findall(r"\w+", " ".join(asked))) <= real[name][1] | {"replica"}


def test_the_error_codes_are_those_in_the_code() -> None:
    """The table has every (status, code) that the service can answer, and no other."""
    said = {(row["status"], row["code"]) for row in rows_of(HTTP, "status", "code")}
    assert said == set(codes_in_the_code())


def test_haproxys_answers_are_those_it_is_given() -> None:
    """The table of what HAProxy says for replicas that cannot."""
    table = rows_of(HTTP, "HAProxy's status", "its code")
    said = [(int(row["HAProxy's status"]), row["its code"].strip("`")) for row in table]
    assert said == [(status, code) for status, code, _ in ANSWERS]


def codes_in_the_code() -> Iterator[tuple[str, str]]:
    """(status, code) of each RequestError."""
    for path in sorted((ROOT / "platform/nightrank/service").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if is_call(node, "RequestError") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.args[1].value


def is_call(node: ast.AST, *names: str) -> Any:
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "id", getattr(node.func, "attr", None)) in names
