"""The files of a sweep, damaged: a record, values or the split are told by name or made again, never built upon."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made
from harm import refusal
from nightrank.batch.inputs import find_inputs, load_splits
from nightrank.batch.run import Run, start_run
from nightrank.batch.split_files import COMPLETE, open_split, save_splits
from nightrank.batch.trial_files import (
    SPLIT,
    TRIALS,
    VALUES,
    measured,
    put_record,
    read_record,
    records_of,
    values_of,
)
from nightrank.batch.trials import DONE, RUNNING, begun, spec_of
from nightrank.release.store import open_store
from test_fuzz_run import GARBAGE

BASELINE = "popularity"
TRIAL = spec_of(BASELINE, {})["trial"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a split and one trial that is done; no test changes it."""
    job = made.make_job(tmp_path_factory.mktemp("swept"))
    run = start_run(open_store(job.store), job, find_inputs(job))
    splits = load_splits(job, run.inputs, families=["als"], validation=True)
    save_splits(run.store, run.name(SPLIT), splits=splits)
    record = begun(spec_of(BASELINE, {}), seed=0, origin="baseline")
    measured(record, run.store, run.name(""), job=job, threads=1, report=lambda record: None)
    return run


@pytest.fixture
def run(swept: Run, tmp_path: Path) -> Run:
    """The same in a store of its own."""
    shutil.copytree(swept.store.url, tmp_path / "store")
    return Run(open_store(str(tmp_path / "store")), swept.record, swept.job, swept.inputs)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def states(run: Run) -> list[str]:
    return [record["state"] for record in records_of(run)]


def test_a_whole_trial_is_done(run: Run) -> None:
    """The size of values is known from the split, to the byte."""
    assert states(run) == [DONE]
    n_users = open_split(run.store, run.name(SPLIT), combine="sum").train.user_items.shape[0]
    assert len(values_of(run, TRIAL)) == n_users
    shutil.rmtree(made.place(run.store, run.name(SPLIT)))
    assert states(run) == [DONE]


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x93NUMPY\x01\x00", npy(np.zeros(3, np.float32)), npy(np.zeros(9_999, np.float32))],
    ids=len,
)
def test_values_of_another_size_count_as_cut_short(run: Run, raw: bytes) -> None:
    """Values cut short or of other users are measured again, as if the trial had been killed."""
    run.store.put(run.name(f"{VALUES}/{TRIAL}.npy"), raw)
    assert states(run) == [RUNNING]


@pytest.mark.parametrize(
    "raw", [b"no array", npy(np.zeros(3)), npy(np.array([print], dtype=object))], ids=len
)
def test_values_that_are_none_are_named(run: Run, raw: bytes) -> None:
    """What is no array of values, whatever its size, is an error with the file and the cure."""
    run.store.put(run.name(f"{VALUES}/{TRIAL}.npy"), raw)
    message = refusal(lambda: values_of(run, TRIAL))
    assert f"{VALUES}/{TRIAL}.npy" in message
    assert "delete it, then run the sweep again" in message


@pytest.mark.parametrize("kind", [*GARBAGE, "only-id", "no-value", "no-state"])
def test_a_record_that_is_none_is_named(run: Run, kind: str) -> None:
    """Garbage, or JSON of another shape, in a trial's record is an error with its name; deleted, the trial is new."""
    whole: dict[str, Any] = read_record(run.store, run.name(""), TRIAL) or {}
    shaped = {
        "only-id": {"trial": TRIAL},
        "no-value": whole | {"value": None},
        "no-state": whole | {"state": "?"},
    }
    raw = GARBAGE[kind] if kind in GARBAGE else json.dumps(shaped[kind]).encode()
    run.store.put(run.name(f"{TRIALS}/{TRIAL}.json"), raw)
    for call in (lambda: records_of(run), lambda: read_record(run.store, run.name(""), TRIAL)):
        message = refusal(call)
        assert f"{TRIALS}/{TRIAL}.json" in message
        assert "delete it" in message
    run.store.delete(run.name(f"{TRIALS}/{TRIAL}.json"))
    assert records_of(run) == []


def test_a_record_under_another_name_is_named(run: Run) -> None:
    """A copy of one trial's record is not taken for another trial."""
    record = read_record(run.store, run.name(""), TRIAL)
    assert record is not None
    put_record(run.store, run.name(""), record | {"trial": "0" * 12})
    path = made.place(run.store, run.name(TRIALS))
    (path / f"{'0' * 12}.json").rename(path / f"{TRIAL}.json")
    assert f"is of trial '{'0' * 12}'" in refusal(lambda: records_of(run))


@pytest.mark.parametrize("name", ["train_items.npy", "by_item_offsets.npy", "truth_weights.npy"])
@pytest.mark.parametrize("how", ["cut", "longer", "missing", "header"])
def test_a_damaged_split_is_named(run: Run, name: str, how: str) -> None:
    """A trial never fits on half a split: sizes are looked at when it is opened, and the cure is said."""
    path = made.place(run.store, run.name(f"{SPLIT}/{name}"))
    whole = path.read_bytes()
    path.unlink()
    if how != "missing":
        damaged = {
            "cut": whole[:-8],
            "longer": whole + b"\0",
            "header": whole.replace(b"'shape': (", b"'shape': ,", 1),
        }
        path.write_bytes(damaged[how])
    message = refusal(lambda: open_split(run.store, run.name(SPLIT), combine="sum"))
    assert f"{run.name(SPLIT)} in store {run.store.url} is damaged: " in message
    assert "delete that folder, then run the sweep again" in message
    assert name in message


@pytest.mark.parametrize("change", [{"shapes": {}}, {"files": {}}, {"n_unknown_users": "x"}], ids=str)
def test_a_card_that_lacks_something_is_named(run: Run, change: dict[str, Any]) -> None:
    """complete.json without a matrix or a file is broken, whoever reads it."""
    path = made.place(run.store, run.name(f"{SPLIT}/{COMPLETE}"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for call in (lambda: open_split(run.store, run.name(SPLIT), combine="sum"), lambda: records_of(run)):
        assert f"{SPLIT}/{COMPLETE}" in refusal(call)
