"""A job's inputs: its files, a fingerprint of their content, the interactions in them and their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from nightrank.config.families import learning
from nightrank.config.job import JobConfig
from nightrank.config.locations import nightrank_home
from nightrank.data.datasets import fetch
from nightrank.data.events import Events, event_files, read_events
from nightrank.data.features import with_features
from nightrank.data.formats import find_files
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.items import read_items
from nightrank.data.metadata import Metadata, read_metadata
from nightrank.data.metadata_counts import MetadataCounts, metadata_counts
from nightrank.data.pools import pool_of
from nightrank.data.splits import Split, featured, hold_out, split_for
from nightrank.data.suppression import Suppressed
from nightrank.errors import DataError
from nightrank.release.records import sha256_of
from nightrank.release.store import Store, open_store
from nightrank.release.suppressed import read_suppressed

DATASET_ITEMS = {"item": "item_id", "title": "title", "categories": "genres", "separator": "|"}


@dataclass(frozen=True)
class Inputs:
    """events, items, users: the files of the job's events and of its two tables, if any. suppressed: who is left out.

    fingerprint: of the files' content and of who is left out.
    """

    events: Sequence[Path]
    items: Sequence[Path]
    users: Sequence[Path]
    suppressed: Suppressed
    fingerprint: str


def find_inputs(job: JobConfig) -> Inputs:
    """The job's files, fetched first where it names a known data set; reads them once for the fingerprint."""
    files = {"events": event_paths(job), **table_paths(job)}
    suppressed = read_suppressed(open_store(job.store))
    return Inputs(**files, suppressed=suppressed, fingerprint=_fingerprint(files, suppressed))


def _fingerprint(files: Mapping[str, Sequence[Path]], suppressed: Suppressed) -> str:
    digest = hashlib.sha256(suppressed.fingerprint.encode())
    for kind, paths in files.items():
        for content in sorted(sha256_of(path) for path in paths):
            digest.update(f"{kind} {content}\n".encode())
    return digest.hexdigest()


def table_paths(job: JobConfig) -> dict[str, list[Path]]:
    """The files of the job's tables, `items` and `users`: its own, else those of its data set, else none.

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

    With features, and the catalogue of the item table, for a family that learns from them.
    Raises DataError where the files are no longer those that the run began with.
    """
    return load_counted(job, inputs, family=family)[0]


def load_counted(
    job: JobConfig, inputs: Inputs, *, family: str
) -> tuple[Interactions, MetadataCounts | None]:
    """`load_interactions`, and what of the tables counts; None for a family that does not learn from them."""
    refuse_changed(job, inputs)
    (default,) = job.combines([family])
    found = interactions_of(_events(job, inputs), job.events, default=default)
    metadata = load_metadata(job, inputs, families=[family], like=found)
    if metadata is None:
        return found, None
    found = with_features(found, metadata)
    return found, metadata_counts(found, metadata)


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


def load_metadata(
    job: JobConfig, inputs: Inputs, *, families: Iterable[str], like: Interactions
) -> Metadata | None:
    """The features of users and items that the job names; None where none of the families learns from any.

    like: interactions with ids of the same types. Raises DataError for tables that do not fit.
    """
    if not learning(families):
        return None
    return read_metadata(
        job,
        user_files=inputs.users,
        item_files=inputs.items,
        user_kind=like.user_ids.kind,
        item_kind=like.item_ids.kind,
    )


def split_of(job: JobConfig, splits: Mapping[str, Split], *, family: str, metadata: Metadata | None) -> Split:
    """What a family is fitted on and measured by: pairs combined its own way, and features if it learns from them.

    splits, metadata: as of `load_splits` and `load_metadata`, for this family among others.
    """
    split = split_for(splits, job.combines([family])[0])
    return featured(split, metadata) if metadata is not None and learning([family]) else split


def _events(job: JobConfig, inputs: Inputs) -> Events:
    return inputs.suppressed.without(read_events(inputs.events, **job.events.columns.model_dump()))


def refuse_erased(store: Store, inputs: Inputs) -> None:
    """DataError where somebody was erased since the inputs were found: an erasure looks for work that was begun."""
    if read_suppressed(store) != inputs.suppressed:
        raise DataError("somebody was erased since this began; run the command again, it leaves them out")


def refuse_changed(job: JobConfig, inputs: Inputs) -> None:
    """DataError where the files, or who is left out of them, are no longer those that the run began with."""
    suppressed = read_suppressed(open_store(job.store))
    files = {"events": inputs.events, "items": inputs.items, "users": inputs.users}
    if _fingerprint(files, suppressed) != inputs.fingerprint:
        raise DataError(
            "the files of events, items or users were changed while the run was at work, or somebody was erased; run "
            "the command again, it begins a run on what is there now"
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
