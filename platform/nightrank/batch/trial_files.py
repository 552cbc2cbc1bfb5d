"""Trials as files of the run: a record each, and each user's value where a trial is done."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np

from nightrank.batch.records import TrialRecord, read_json
from nightrank.batch.run import Run
from nightrank.batch.split_files import open_split, users_of
from nightrank.batch.trials import DONE, RUNNING, Record, Values, measure
from nightrank.config.families import learning
from nightrank.config.job import JobConfig
from nightrank.errors import ReleaseError
from nightrank.release.files import save_array
from nightrank.release.store import Store

TRIALS = "sweep/trials"
VALUES = "sweep/values"
SPLIT = "sweep/split"


def records_of(run: Run) -> list[Record]:
    """All records of the run's trials, by id. Raises ReleaseError where one is broken.

    One that is done and whose values are gone, or of another size than the split's, counts as cut short.
    """
    names = run.store.children(run.name(TRIALS))
    found = [read_record(run.store, run.name(""), name.removesuffix(".json")) for name in names]
    records = [record for record in found if record is not None]
    done = [record for record in records if record["state"] == DONE]
    n_users = users_of(run.store, run.name(SPLIT)) if done else None
    sizes = run.store.sizes(run.name(VALUES), [f"{record['trial']}.npy" for record in done])
    cut_short = {
        record["trial"]
        for record, size in zip(done, sizes, strict=True)
        if size is None or (n_users is not None and size != _bytes_of(n_users))
    }
    return [{**one, "state": RUNNING} if one["trial"] in cut_short else one for one in records]


def _bytes_of(n_users: int) -> int:
    """What the values of that many users take as a file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (n_users,)}
    )
    return header.tell() + 4 * n_users


def values_of(run: Run, trial: str) -> Values:
    """Each user's value in a trial that is done: float64 (n_train_users,), NaN without truth."""
    name = run.name(f"{VALUES}/{trial}.npy")
    found = run.store.read(name)
    if found is None:
        raise ReleaseError(f"{name} is missing from store {run.store.url}; run the sweep again")
    try:
        values = np.lib.format.read_array(io.BytesIO(found.data), allow_pickle=False)
        if values.dtype != np.float32 or values.ndim != 1:
            raise ValueError(
                f"it holds {values.dtype} of shape {values.shape}, expected float32 of one dimension"
            )
    except Exception as error:  # on a broken header numpy's parser raises nearly anything
        raise ReleaseError(
            f"{name} in store {run.store.url} is broken: {error}; delete it, then run the sweep again"
        ) from None
    result: Values = values.astype(np.float64)
    return result


def put_record(store: Store, run: str, record: Record) -> None:
    """Write a record in one step. run: the key of the run's folder, with a slash at its end."""
    content = json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"
    store.put(f"{run}{TRIALS}/{record['trial']}.json", content)


def read_record(store: Store, run: str, trial: str) -> Record | None:
    """A trial's record, None where it has none. Raises ReleaseError where it is none of that trial."""
    key = f"{run}{TRIALS}/{trial}.json"
    record: Record | None = read_json(store, key, shape=TrialRecord)
    if record is not None and record["trial"] != trial:
        raise ReleaseError(
            f"{key} in store {store.url} is of trial {record['trial']!r}; delete it, then run the sweep again"
        )
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
    with_features = bool(learning([record["family"]]))
    split = open_split(store, f"{run}{SPLIT}", combine=combine, with_features=with_features)
    found, values = measure(record, split, job=job, threads=threads, report=report)
    if values is not None:
        save_array(store, f"{run}{VALUES}/{record['trial']}.npy", values.astype(np.float32))
    put_record(store, run, found)
    return found
