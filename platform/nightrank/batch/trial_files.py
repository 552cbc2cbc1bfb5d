"""Trials as files of the run: a record each, and each user's value where a trial is done."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np

from nightrank.batch.run import Run
from nightrank.batch.split_files import open_split
from nightrank.batch.trials import DONE, RUNNING, Record, Values, measure
from nightrank.config.job import JobConfig
from nightrank.errors import ReleaseError
from nightrank.release.files import save_array
from nightrank.release.store import Store

TRIALS = "sweep/trials"
VALUES = "sweep/values"
SPLIT = "sweep/split"


def records_of(run: Run) -> list[Record]:
    """All records of the run's trials, by id; one that is done and whose values are gone counts as cut short."""
    names = run.store.children(run.name(TRIALS))
    found = [run.get_json(f"{TRIALS}/{name}") for name in names]
    return [
        {**record, "state": RUNNING} if record["state"] == DONE and not _has_values(run, record) else record
        for record in found
        if record is not None
    ]


def _has_values(run: Run, record: Record) -> bool:
    return run.store.sizes(run.name(VALUES), [f"{record['trial']}.npy"]) != [None]


def values_of(run: Run, trial: str) -> Values:
    """Each user's value in a trial that is done: float64 (n_train_users,), NaN without truth."""
    name = run.name(f"{VALUES}/{trial}.npy")
    found = run.store.read(name)
    if found is None:
        raise ReleaseError(f"{name} is missing from store {run.store.url}; run the sweep again")
    values: Values = np.load(io.BytesIO(found.data), allow_pickle=False).astype(np.float64)
    return values


def put_record(store: Store, run: str, record: Record) -> None:
    """Write a record in one step. run: the key of the run's folder, with a slash at its end."""
    content = json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"
    store.put(f"{run}{TRIALS}/{record['trial']}.json", content)


def read_record(store: Store, run: str, trial: str) -> Record | None:
    """A trial's record, None where it has none."""
    found = store.read(f"{run}{TRIALS}/{trial}.json")
    record: Record | None = None if found is None else json.loads(found.data)
    return record


def measured(
    record: Record,
    store: Store,
    run: str,
    *,
    job: JobConfig,
    threads: int,
    report: Callable[[Record], None],
) -> Record:
    """Measure a recipe on the run's validation split, and leave record and values in the run.

    The values come first, since a record that says `done` says that they are there.
    """
    put_record(store, run, record)
    (combine,) = job.combines([record["family"]])
    split = open_split(store, f"{run}{SPLIT}", combine=combine)
    found, values = measure(record, split, job=job, threads=threads, report=report)
    if values is not None:
        save_array(store, f"{run}{VALUES}/{record['trial']}.npy", values.astype(np.float32))
    put_record(store, run, found)
    return found
