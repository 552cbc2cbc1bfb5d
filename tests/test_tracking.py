"""Trials in MLflow: each is one run whatever happens in between, and no server can fail a sweep."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightrank.batch.tracking import Tracker, tracker
from swept import BEGAN, METRIC, TEST, record, sweep

EXPERIMENT = "nightrank/made"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No MLflow settings of whoever runs the tests, and none left behind."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def opened(store: Path, run_key: str = "k1") -> Tracker:
    found = tracker(store, run_key=run_key, experiment=EXPERIMENT, metric=METRIC)
    assert found is not None
    return found


def runs(found: Tracker) -> dict[str, Any]:
    """MLflow runs by trial; each trial once."""
    listed = found.client.search_runs([found.experiment_id])
    by_trial = {run.data.tags["nightrank.trial"]: run for run in listed}
    assert len(by_trial) == len(listed)
    return by_trial


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: making its tables takes seconds, copying it does not."""
    store = tmp_path_factory.mktemp("store")
    assert tracker(store, run_key="k1", experiment=EXPERIMENT, metric=METRIC) is not None
    return store


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    (tmp_path / "mlflow.db").write_bytes((template / "mlflow.db").read_bytes())
    return tmp_path


def test_a_trial_is_a_run_with_all_that_its_record_says(store: Path) -> None:
    """Protects what people look at: params, epochs with their times, final figures, tags and the status."""
    found, wanted = opened(store), sweep()
    for one in wanted:
        found.log(one)
    listed = runs(found)
    assert {name: run.info.status for name, run in listed.items()} == {
        one["trial"]: {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[one["state"]]
        for one in wanted
    }
    run, one = listed[wanted[2]["trial"]], wanted[2]
    assert run.data.params == {"family": "als", "factors": "32", "epochs": "8", "reg": "0.01", "seed": "0"}
    assert run.data.metrics == {
        "ndcg_at_10": 0.069,
        "ndcg_at_10_low": one["low"],
        "ndcg_at_10_high": one["high"],
        "value": 0.069,
        "fit_s": 1.0,
        "rank_s": 0.25,
        "change": -0.001,
    }
    history = found.client.get_metric_history(run.info.run_id, "ndcg_at_10")
    start = int(BEGAN.timestamp() * 1000) + 2000
    assert [(m.step, m.timestamp, m.value) for m in history] == [
        (4, start + 500, 0.0345),
        (8, start + 1000, 0.069),
    ]
    assert (run.info.start_time, run.info.end_time) == (start, start + 1250)
    assert (run.data.tags["nightrank.origin"], run.data.tags["nightrank.chosen"]) == ("search", "true")
    failed = listed[wanted[-1]["trial"]]
    assert failed.data.tags["nightrank.reason"] == "ModelFitError: NaN in factors"
    assert failed.data.metrics == {}


def test_a_second_call_and_a_resume_make_no_second_run(store: Path) -> None:
    """Protects against doubled runs: the same tracker again, and another process's, find what is there."""
    first = opened(store)
    for found in (first, first, opened(store)):
        for one in sweep():
            found.log(one)
    assert len(runs(first)) == len(sweep())
    other = opened(store, run_key="k2")
    other.log(sweep()[1])
    assert len(first.client.search_runs([first.experiment_id])) == len(sweep()) + 1


@pytest.mark.parametrize("dies_at", ["log_batch", "set_terminated"])
def test_a_half_written_run_is_completed(
    store: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects against a crash between creating a run and ending it: the next sweep completes that same run."""
    found, one = opened(store), sweep()[2]

    def die(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(found.client, dies_at, die)
        found.log(one)
        found.log(sweep()[1])  # told once; then nothing more is tried
    assert [entry.levelname for entry in caplog.records].count("WARNING") == 1
    assert "`nightrank sweep` again completes it" in caplog.text
    (half,) = runs(found).values()
    assert half.info.status == "RUNNING"
    again = opened(store)
    again.log(one)
    (whole,) = runs(again).values()
    assert (whole.info.run_id, whole.info.status) == (half.info.run_id, "FINISHED")
    assert len(again.client.get_metric_history(whole.info.run_id, "ndcg_at_10")) == 2
    assert whole.data.metrics["value"] == 0.069


def test_what_the_end_of_the_sweep_adds_is_added(store: Path) -> None:
    """Protects `change` and `chosen`, which a trial cannot know when it ends; and a failure that a retry mended."""
    found, one = opened(store), sweep()[2]
    found.log({**one, "change": None, "chosen": False, "state": "failed", "reason": "killed"})
    found.log({**one, "change": None, "chosen": False})
    found.log(one)
    (run,) = runs(found).values()
    assert (run.data.metrics["change"], run.data.tags["nightrank.chosen"]) == (-0.001, "true")
    assert run.info.status == "FINISHED"
    assert "nightrank.reason" not in run.data.tags


def test_a_run_that_somebody_deleted_stays_deleted(store: Path) -> None:
    """Protects people's tidying: a rerun of the sweep does not bring back what they deleted in MLflow."""
    found, one = opened(store), sweep()[2]
    found.log(one)
    (run,) = runs(found).values()
    found.client.delete_run(run.info.run_id)
    found.log(one)
    assert runs(found) == {}
    assert found.is_well


def test_nan_is_left_out(store: Path) -> None:
    """Protects curves from a diverged trial: what is no number is not logged, the rest is."""
    history = [
        {"epoch": 1, "share": 50, "value": 0.01, "seconds": 0.5},
        {"epoch": 2, "share": 100, "value": math.nan, "seconds": 1.0},
    ]
    one = record("bpr", math.nan, state="failed", reason="diverged", history=history)
    found = opened(store)
    found.log({**one, "low": math.nan, "high": None, "fit_s": math.inf})
    (run,) = runs(found).values()
    assert run.data.metrics == {"ndcg_at_10": 0.01}
    assert found.is_well


def test_the_winner_is_registered_once_with_its_lineage(store: Path) -> None:
    """Protects the registry: one version per run key, tagged with where it came from, on the run of its trial."""
    lineage = {"data_fingerprint": "f00d", "config_hash": "c0de", "code_version": "0.1.0", "release": None}
    winner = sweep()[2]
    for found in (opened(store), opened(store)):
        found.register(winner, lineage=lineage, test=TEST)
        found.register(winner, lineage=lineage, test=TEST)
    (version,) = found.client.search_model_versions("name = 'nightrank-made'")
    assert version.tags == {
        "nightrank.run_key": "k1",
        "nightrank.trial": winner["trial"],
        "nightrank.family": "als",
        "nightrank.data_fingerprint": "f00d",
        "nightrank.config_hash": "c0de",
        "nightrank.code_version": "0.1.0",
    }
    (run,) = runs(found).values()
    assert version.run_id == run.info.run_id
    assert run.data.metrics["test_ndcg_at_10"] == 0.0712
    assert run.data.metrics["test_ndcg_at_10_change"] == 0.0411
    opened(store, run_key="k2").register(winner, lineage=lineage)
    assert len(found.client.search_model_versions("name = 'nightrank-made'")) == 2


def test_a_dead_server_costs_seconds_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects the night: with nobody at MLFLOW_TRACKING_URI the sweep goes on untracked, and is told so once."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    started = time.monotonic()
    assert tracker(tmp_path, run_key="k1", experiment=EXPERIMENT, metric=METRIC) is None
    assert time.monotonic() - started < 60  # MLflow's own defaults take minutes
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "goes on" in caplog.text
    assert "secret" not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_without_mlflow_there_is_one_line_and_no_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects an installation without the extra: no error and no warning, one line of information."""
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with caplog.at_level(logging.INFO, logger="nightrank"):
        assert tracker(tmp_path, run_key="k1", experiment=EXPERIMENT, metric=METRIC) is None
    (told,) = caplog.records
    assert told.levelno == logging.INFO
    assert "nightrank[tracking]" in told.message


def test_the_environment_names_the_place(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Protects MLflow's usual variables: they win over the store's database and over the experiment's name."""
    elsewhere = tmp_path / "elsewhere.db"
    elsewhere.write_bytes((store / "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    found = tracker(tmp_path / "none", run_key="k1", experiment=EXPERIMENT, metric=METRIC)
    assert found is not None
    found.log(sweep()[1])
    assert found.client.get_experiment(found.experiment_id).name == "mine"
    assert not (tmp_path / "none" / "mlflow.db").exists()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert (
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    )  # a command's stdout is one JSON line
