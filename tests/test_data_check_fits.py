"""`nightrank data check` on the models that a job names: what it says is what their fits would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import made
from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.cli.app import app
from nightrank.config.job import JobConfig
from nightrank.errors import DataError
from nightrank.models import fit

LABEL = {"label": "weight>=4"}
BY_FEATURES = {"model": "hybrid", "params": {"ids": "none"}}


def fm(**params: Any) -> dict[str, Any]:
    return {"model": "fm", "params": {"factors": 2, "epochs": 1} | params}


def weighing(weight: float) -> pa.Table:
    """Events of one weight."""
    events = made.make_events()
    return events.set_column(2, "weight", pa.array(np.full(len(events), weight, np.float32)))


def checked(job: JobConfig, folder: Path) -> Result:
    path = folder / "check.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return CliRunner().invoke(app, ["data", "check", "--config", str(path), "--json"])


UNFIT: dict[str, tuple[float | None, dict[str, Any], str]] = {
    "one rating": (3.0, {"train": fm()}, "weights are 3, so there is nothing to predict"),
    "all of the class": (
        5.0,
        {"train": fm(task="label"), **LABEL},
        "has the label True by the rule weight>=4",
    ),
    "none of the class": (
        1.0,
        {"train": fm(task="label"), **LABEL},
        "has the label False by the rule weight>=4",
    ),
    "no ids": (None, {"train": BY_FEATURES}, "hybrid with ids=none: found no features of users"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_job_that_cannot_be_fitted_is_a_problem_in_the_words_of_its_fit(tmp_path: Path, case: str) -> None:
    """Better before the night than in it: exit code 2, and the very message that the fit would end with."""
    weight, settings, said = UNFIT[case]
    events = made.make_events() if weight is None else weighing(weight)
    job = made.make_job(tmp_path, events=events, **settings)
    done = checked(job, tmp_path)
    (problem,) = json.loads(done.stdout)["problems"]
    assert said in problem
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 2
    found = load_interactions(job, find_inputs(job), family=str(job.train.model))
    with pytest.raises(DataError) as refused:
        fit(str(job.train.model), found, params=job.train.params, seed=0, label=job.label_rule)
    assert str(refused.value) == problem


@pytest.mark.parametrize(
    ("weight", "settings", "share"),
    [
        (5.0, {"train": fm(task="label", negatives=1), **LABEL}, 1.0),
        (5.0, {"train": {"model": "als"}, **LABEL}, 1.0),
        (3.0, {"train": {"model": "als"}}, None),
        (None, {"train": fm(task="label"), **LABEL}, 0.4),
        (None, {"train": fm()}, None),
    ],
)
def test_what_can_be_fitted_is_no_problem(
    tmp_path: Path, weight: float | None, settings: dict[str, Any], share: float | None
) -> None:
    """Negatives are of the other class, and a family that looks at no class takes any; the share is told."""
    events = made.make_events() if weight is None else weighing(weight)
    job = made.make_job(tmp_path, events=events, **settings)
    done = checked(job, tmp_path)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["class_share"] == (None if share is None else pytest.approx(share, abs=0.1))
    found = load_interactions(job, find_inputs(job), family=str(job.train.model))
    fit(str(job.train.model), found, params=job.train.params, seed=0, label=job.label_rule)
    text = CliRunner().invoke(app, ["data", "check", "--config", str(tmp_path / "check.yaml")]).stdout
    assert ("of the pairs are of the class that label names" in text) == (share is not None)


def test_features_on_both_sides_stand_in_for_ids(tmp_path: Path) -> None:
    """The same job with tables of features is fine."""
    done = checked(made.make_job(tmp_path, users=made.make_users(), train=BY_FEATURES), tmp_path)
    assert done.exit_code == 0, done.output


def test_a_sweep_that_has_other_trials_left_is_warned(tmp_path: Path) -> None:
    """A family whose trials would all fail is named; only where nothing can be fitted is the night meaningless."""
    models: dict[str, Any] = {"fm": {}, "hybrid": {"ids": ["both", "none"]}, "als": {}}
    for left, n_warnings in ((models, 2), ({"fm": {}}, 0)):
        job = made.make_job(tmp_path, events=weighing(1.0), train={}, sweep={"models": left})
        done = checked(job, tmp_path)
        report = json.loads(done.stdout)
        said = [one["text"] for one in report["warnings"] if one["name"] == "unfittable"]
        assert len(said) == n_warnings
        assert (done.exit_code == 0) == bool(n_warnings)
        if said:
            assert "trials of fm in the sweep would fail: fm with task=rating: all " in said[0]
            assert "trials of hybrid in the sweep would fail: hybrid with ids=none" in said[1]
        else:
            assert "all " in report["problems"][0]


@pytest.mark.parametrize(("model", "is_warned"), [("hybrid", True), ("als", False)])
def test_a_table_of_items_without_events_is_warned(tmp_path: Path, model: str, is_warned: bool) -> None:
    """Where a family ranks them all, its lists may be full of what nobody has; any other family looks at none."""
    items = made.make_items(n_items=3 * made.N_ITEMS)
    job = made.make_job(tmp_path, items=items, users=made.make_users(), train={"model": model})
    warnings = json.loads(checked(job, tmp_path).stdout)["warnings"]
    found = [one["text"] for one in warnings if one["name"] == "items_without_events"]
    assert bool(found) == is_warned
    if found:
        assert f"{2 * made.N_ITEMS + 1} of {3 * made.N_ITEMS + 1} rows" in found[0]
