"""What the gate holds a candidate against where the recipe in service cannot be fitted on tonight's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import made
from nightrank.batch import train as stage
from nightrank.batch.nightly import open_run
from nightrank.batch.trials import unmeasurable
from nightrank.config.cluster import load_cluster
from nightrank.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"factors": 4, "epochs": 2}
LENIENT = {"min_change": -1.0, "min_coverage": 0.0}
IDS = {"user": "user_id", "item": "item_id"}
BY_FEATURES = {"model": "hybrid", "params": SMALL | {"ids": "none"}}
CLASSES = {"train": {"model": "fm", "params": SMALL | {"task": "label"}}, "label": "weight>=4"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process: what they do is the same."""

    def called(function: Callable[..., Any], *given: Any, spec: Any) -> Any:
        return function(*given)

    monkeypatch.setattr(stage, "run_task", called)


def judged(folder: Path, *, before: made.Published, **job: Any) -> dict[str, Any]:
    """gate.json of the night after `before`, on a job of its own."""
    given = {"store": before.store.url, "gate": LENIENT} | job
    run = open_run(made.make_job(folder, **given))
    stage.train(run, load_cluster(ROOT / "cluster.yaml"))
    found: dict[str, Any] = json.loads(made.place(run.store, run.name("gate.json")).read_text())
    assert run.finished("train")["quality"] == found
    return found


def test_features_that_a_job_no_longer_names_block_no_night(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hybrid without ids in service, and a job without features: popularity stands in, and it is said and kept."""
    before = made.published_release(tmp_path, users=made.make_users(), train=BY_FEATURES)
    decision = judged(tmp_path / "later", before=before)
    assert (decision["baseline_recipe"]["family"], decision["baseline_recipe"]["release"]) == (
        "popularity",
        None,
    )
    instead = decision["stands_in_for"]
    assert (instead["family"], instead["release"]) == ("hybrid", before.release.id)
    assert instead["params"]["ids"] == "none"
    assert "found no features of users" in instead["reason"]
    assert "hybrid {" in caplog.text
    assert "cannot be fitted on tonight's data (hybrid with ids=none" in caplog.text
    assert "popularity stands in for it in the gate" in caplog.text


def test_weights_that_are_no_longer_there_block_no_night(tmp_path: Path) -> None:
    """Ratings in service, and events that have none tonight: all weights are 1, nothing is left to predict."""
    before = made.published_release(tmp_path, train={"model": "fm", "params": SMALL})
    weighing = {"columns": {**IDS, "time": "timestamp"}}
    decision = judged(tmp_path / "later", before=before, weighing=weighing)
    assert decision["baseline_recipe"]["family"] == "popularity"
    assert "all " in decision["stands_in_for"]["reason"]
    assert decision["n_users"] > 0


def test_times_that_are_no_longer_there_block_no_night(tmp_path: Path) -> None:
    """Svd in service takes a pair's last event, and tonight no event has a time: the split itself is made without."""
    before = made.published_release(tmp_path, train={"model": "svd", "params": {"factors": 4}})
    weighing, split = {"columns": {**IDS, "weight": "weight"}}, {"kind": "per_user"}
    twice = pa.concat_tables([made.make_events()] * 2)
    decision = judged(tmp_path / "later", before=before, events=twice, weighing=weighing, split=split)
    assert decision["stands_in_for"]["family"] == "svd"
    assert "no time column" in decision["stands_in_for"]["reason"]


def test_a_candidate_that_cannot_be_fitted_is_refused_all_the_same(tmp_path: Path) -> None:
    """Nothing stands in for the recipe that somebody asked for, whatever is in service."""
    for folder, train in (("als", {"model": "als", "params": SMALL}), ("hybrid", BY_FEATURES)):
        users = made.make_users() if folder == "hybrid" else None
        before = made.published_release(tmp_path / folder, users=users, train=train)
        with pytest.raises(DataError, match="found no features of users"):
            judged(tmp_path / folder / "later", before=before, train=BY_FEATURES)


def test_classes_in_service_are_learned_again_by_their_own_rule(tmp_path: Path) -> None:
    """A job without a label is held against the classifier in service, which keeps the rule it was published with."""
    before = made.published_release(tmp_path, objective={"metric": "logloss"}, **CLASSES)
    decision = judged(tmp_path / "later", before=before)
    assert decision["stands_in_for"] is None
    assert decision["baseline_recipe"] == {
        "family": "fm",
        "params": before.release.manifest.params,
        "release": before.release.id,
        "label": "weight>=4",
    }
    run = open_run(made.make_job(tmp_path / "no rule", store=before.store.url))
    assert run.record.in_service is not None
    unknown = run.record.in_service.model_copy(update={"label": None})
    assert unmeasurable(run.job, run.record.in_service) is None
    assert "by a rule that neither its release nor the job gives" in str(unmeasurable(run.job, unknown))
