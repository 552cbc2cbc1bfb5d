"""A job's inputs: its files, a fingerprint of their content, the interactions in them and their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from nightrank.config.job import JobConfig
from nightrank.config.locations import nightrank_home
from nightrank.data.datasets import fetch
from nightrank.data.events import Events, event_files, read_events
from nightrank.data.formats import find_files
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.items import read_items
from nightrank.data.pools import pool_of
from nightrank.data.splits import Split, hold_out
from nightrank.data.suppression import Suppressed
from nightrank.errors import DataError
from nightrank.release.records import sha256_of
from nightrank.release.store import Store, open_store
from nightrank.release.suppressed import read_suppressed

DATASET_ITEMS = {"item": "item_id", "title": "title", "categories": "genres", "separator": "|"}


@dataclass(frozen=True)
class Inputs:
    """events, items: the files of the job's events and of its item table, if any. suppressed: who is left out.

    fingerprint: of the files' content and of who is left out.
    """

    events: Sequence[Path]
    items: Sequence[Path]
    suppressed: Suppressed
    fingerprint: str


def find_inputs(job: JobConfig) -> Inputs:
    """The job's files, fetched first where it names a known data set; reads them once for the fingerprint."""
    if job.events.dataset is not None:
        files = fetch(job.events.dataset, nightrank_home() / "data" / job.events.dataset)
        events, items = [files.events], [files.items]
    else:
        events, items = event_paths(job), []
    if job.items is not None:
        items = find_files(job.items.path, what="items")
    suppressed = read_suppressed(open_store(job.store))
    found = _fingerprint(events, items, suppressed)
    return Inputs(events=events, items=items, suppressed=suppressed, fingerprint=found)


def _fingerprint(events: Sequence[Path], items: Sequence[Path], suppressed: Suppressed) -> str:
    digest = hashlib.sha256(suppressed.fingerprint.encode())
    for kind, paths in (("events", events), ("items", items)):
        for content in sorted(sha256_of(path) for path in paths):
            digest.update(f"{kind} {content}\n".encode())
    return digest.hexdigest()


def table_paths(job: JobConfig) -> dict[str, list[Path]]:
    """The files of the job's tables, `items` and `users`: its own, else its data set's; none where it has none.

    A data set is fetched first.
    """
    found: dict[str, list[Path]] = {"items": [], "users": []}
    if job.events.dataset is not None:
        files = fetch(job.events.dataset, nightrank_home() / "data" / job.events.dataset)
        found = {"items": [files.items], "users": [files.users]}
    for what, table in (("items", job.items), ("users", job.users)):
        if table is not None:
            found[what] = find_files(table.path, what=what)
    return found


def event_paths(job: JobConfig) -> list[Path]:
    """The files of the job's events alone, fetched first where it names a known data set."""
    if job.events.dataset is not None:
        return [fetch(job.events.dataset, nightrank_home() / "data" / job.events.dataset).events]
    assert job.events.path is not None  # noqa: S101  the settings hold one of the two
    return event_files(job.events.path)


def load_interactions(job: JobConfig, inputs: Inputs, *, family: str) -> Interactions:
    """Read, weight and combine the job's events for a model family; `counts` say what was read and dropped.

    Raises DataError where the files are no longer those that the run began with.
    """
    refuse_changed(job, inputs)
    (default,) = job.combines([family])
    return interactions_of(_events(job, inputs), job.events, default=default)


def load_splits(
    job: JobConfig, inputs: Inputs, *, families: Iterable[str], validation: bool = False
) -> Mapping[str, Split]:
    """The job's test split, by how pairs combine for these families (`split_for`); or its validation split.

    validation: held out of what the test split leaves to train on. All splits are of the same pairs and one truth.
    Raises DataError as `load_interactions`, and on an item table that does not fit: better now than after a night.
    """
    refuse_changed(job, inputs)
    pool = pool_of(
        _events(job, inputs),
        job.events,
        how=job.split,
        seed=job.seed,
        defaults=job.combines(families),
    )
    load_items(job, inputs, item_ids=pool.first.item_ids)
    held_out = hold_out(pool)
    return hold_out(held_out.rest).splits if validation else held_out.splits


def _events(job: JobConfig, inputs: Inputs) -> Events:
    return inputs.suppressed.without(read_events(inputs.events, **job.events.columns.model_dump()))


def refuse_erased(store: Store, inputs: Inputs) -> None:
    """DataError where somebody was erased since the inputs were found: an erasure looks for work that was begun."""
    if read_suppressed(store) != inputs.suppressed:
        raise DataError("somebody was erased since this began; run the command again, it leaves them out")


def refuse_changed(job: JobConfig, inputs: Inputs) -> None:
    """DataError where the files, or who is left out of them, are no longer those that the run began with."""
    suppressed = read_suppressed(open_store(job.store))
    if _fingerprint(inputs.events, inputs.items, suppressed) != inputs.fingerprint:
        raise DataError(
            "the files of events or items were changed while the run was at work, or somebody was erased; run the "
            "command again, it begins a run on what is there now"
        )


def load_items(job: JobConfig, inputs: Inputs, *, item_ids: Ids) -> pa.Table | None:
    """The item table (item, title, categories), or None where the job has none.

    Raises DataError where its ids are of another type than `item_ids`, those of the events.
    """
    if job.items is not None:
        table = read_items(
            job.items.path,
            item=job.events.columns.item,
            title=job.items.title,
            categories=job.items.categories,
            separator=job.items.separator,
        )
    elif inputs.items:
        table = read_items(inputs.items[0], **DATASET_ITEMS)
    else:
        return None
    found = "int64" if pa.types.is_integer(table["item"].type) else "string"
    if found != item_ids.kind:
        raise DataError(
            f"items: {inputs.items[0].name} has {found} ids in column {job.events.columns.item}, the events have "
            f"{item_ids.kind}; write both the same way"
        )
    return table
