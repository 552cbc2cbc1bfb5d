"""What is known of users and of items beside events: the columns of their tables that a job names as features.

By the same readers as events and items. Refused: an id that stands twice, ids of another type than the events', and
what `attribute_reading` refuses. Rows that no event mentions and users without a row are fine; they are counted
(`metadata_counts`). Memory is that of the ids and of 4 to 12 bytes a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.config.job import JobConfig
from nightrank.config.metadata import SideColumns
from nightrank.data import columns, tables
from nightrank.data.attribute_reading import AttributeReading
from nightrank.data.attributes import Attribute
from nightrank.data.columns import Place
from nightrank.data.formats import is_csv
from nightrank.errors import DataError


@dataclass(frozen=True)
class MetadataTable:
    """ids: int64 or large_string, each once, in the order of the files. attributes: row by row to the ids, in the
    order of the job."""

    ids: pa.ChunkedArray
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Metadata:
    """Of users and of items; None where the job names no features of that side."""

    users: MetadataTable | None = None
    items: MetadataTable | None = None


def read_metadata(
    job: JobConfig,
    *,
    user_files: Sequence[Path],
    item_files: Sequence[Path],
    user_kind: str,
    item_kind: str,
) -> Metadata:
    """The features that the job, or its data set, names, read from the files of the two tables.

    user_kind, item_kind: `Ids.kind` of the events' ids. A side without named features is None, its files unread.
    Raises DataError as `read_table`.
    """
    users, items = job.user_columns, job.item_columns
    return Metadata(
        users=None if users is None else read_table(user_files, users, what="users", kind=user_kind),
        items=None if items is None else read_table(item_files, items, what="items", kind=item_kind),
    )


def read_table(files: Sequence[Path], named: SideColumns, *, what: str, kind: str) -> MetadataTable:
    """The named features in files of one format, in file and row order. what: users or items, for messages.

    Raises DataError naming file, column and first row: an id that occurs twice, ids that are not of `kind`, no rows
    at all, a value or type that is no feature, and what the readers refuse.
    """
    readings = {name: AttributeReading(name, separator=named.separator) for name in named.features}
    ids: list[pa.ChunkedArray] = []
    for file in files:
        of_file: list[pa.ChunkedArray] = []
        row = 0
        for part in tables.read_batches(file, [named.id, *named.features], numbers=named.features):
            of_file.append(columns.id_column(part[named.id], at=Place(file, named.id, row)))
            for name, reading in readings.items():
                reading.add(part[name], file=file, row=row)
            row += part.num_rows
        if row:
            found = pa.chunked_array([chunk for part in of_file for chunk in part.chunks])
            ids.append(columns.as_written(found) if is_csv(file) else found)
            _check_kind(ids[-1], kind=kind, at=Place(file, named.id), what=what)
    if not ids:
        tables.refuse_no_rows(files, what=what)
    joined = pa.chunked_array([chunk for part in ids for chunk in part.chunks])
    refuse_repeats(joined, name=named.id, where=files, what=what)
    # Popped, so that what was read of a column goes when the column is done.
    attributes = tuple(readings.pop(name).finish() for name in named.features)
    pa.default_memory_pool().release_unused()
    return MetadataTable(joined, attributes)


def refuse_repeats(ids: pa.ChunkedArray, *, name: str, where: Sequence[Path], what: str) -> None:
    """Raise DataError where an id occurs twice. where: the files. what: users or items."""
    if _are_distinct(ids):
        return
    counts = pc.value_counts(ids)
    repeated = pc.greater(counts.field("counts"), 1)
    entry = counts.filter(repeated)[0].as_py()
    path = where[0] if len(where) == 1 else where[0].parent
    raise DataError(
        f"{what}: the id {entry['values']!r} occurs {entry['counts']} times in column '{name}' of {path} "
        f"({pc.sum(repeated).as_py()} such ids); each {what.removesuffix('s')} stands in one row: keep one of them"
    )


def _are_distinct(ids: pa.ChunkedArray) -> bool:
    if not pa.types.is_integer(ids.type):
        return bool(pc.count_distinct(ids).as_py() == len(ids))
    values = np.sort(ids.to_numpy())  # a hash table of 5M integers takes seven times as long, and 1 GB
    return not np.any(values[1:] == values[:-1])


def _check_kind(ids: pa.ChunkedArray, *, kind: str, at: Place, what: str) -> None:
    found = "int64" if pa.types.is_integer(ids.type) else "string"
    if found != kind:
        raise DataError(f"{what}: {at} has {found} ids, the events have {kind}; write both the same way")
