"""docs/evaluation.md: its metrics, families' abilities, JSON and tables are those of the code."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest

from nightrank.config.families import BASELINES
from nightrank.models.families import FITS, link_of
from nightrank.quality.asked import LINKS
from nightrank.quality.names import KINDS, MetricSpec
from pages import PAGES, ROOT, blocks, rows_of
from test_evaluate import ratings, run, shop

PAGE = PAGES["evaluation.md"]


def test_every_metric_is_documented_and_no_other() -> None:
    """The table names all metrics, with @k where one needs it."""
    said = [row["metric"] for row in rows_of(PAGE, "metric", "what it is")]
    assert sorted(said) == sorted(name + ("@k" if MetricSpec(name).needs_lists else "") for name in KINDS)


def test_intervals_are_as_documented(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric has an interval if the table says so; those that no family here can be asked for are exempt."""
    has = {row["metric"].replace("@k", "@2"): row["interval"] == "yes" for row in rows_of(PAGE, "metric")}
    del has["logloss"]
    ask = [*ratings(tmp_path), "--model", "svd", "--label", "weight>=4", "--metrics", ",".join(has), "--json"]
    report = json.loads(run(capsys, *ask)[0])
    assert {name: one["low"] is not None for name, one in report["metrics"].items()} == has


def test_what_families_can_predict_is_as_documented() -> None:
    """svd and fm give ratings, fm alone probabilities, and the page says what that rules out."""
    tasks: list[dict[str, Any]] = [{}, {"task": "rating"}, {"task": "label"}]
    links = {(one, link_of(one, task)) for one in FITS.keys() - BASELINES for task in tasks}
    assert {family for family, link in links if link == "identity"} == {"fm", "svd"}
    assert {family for family, link in links if link == "logistic"} == {"fm"}
    assert {name for name, links in LINKS.items() if "identity" in links} == {"rmse", "mae", "accuracy"}
    assert LINKS["logloss"] == ("logistic",)


def test_the_json_object_is_as_printed(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The example has the fields of a real one, in the same order."""
    (example,) = (json.loads(block) for block in blocks(PAGE, "json"))
    ask = [*shop(tmp_path), "--model", "ials", "--metrics", "ndcg@10", "--json"]
    found = json.loads(run(capsys, *ask)[0])
    for name in (None, "params", "users", "seconds"):
        one, other = (example, found) if name is None else (example[name], found[name])
        assert list(one) == list(other)
    assert list(example["metrics"]["ndcg@10"]) == list(found["metrics"]["ndcg@10"])


@pytest.mark.parametrize("name", ["published", "svd", "hybrid", "fm"])
def test_tables_are_those_that_the_benchmarks_print(name: str) -> None:
    """The header of each table is the benchmark's, and published figures are quoted alike in both."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    headers = {"hybrid": ("GENRES", "SAME", "NEW"), "fm": ("QUALITY", "LABELS", "SPEED")}.get(
        name, ("TABLE",)
    )
    for header in headers:
        assert getattr(module, header) in PAGE
    if name == "published":
        rows = {row["model"]: row for row in rows_of(PAGE, "model", "NDCG@10")}
        for model, values in module.PUBLISHED.items():
            assert tuple(rows[f"published: {model}"].values())[1:] == values
    assert re.search(rf"python benchmarks/{name}\.py", PAGE)
