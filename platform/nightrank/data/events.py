"""Events as the caller's files hold them: mapped columns, typed, checked, as arrays of rows and numbers.

Files are read in parts, and no more than one part is held as it came. Nothing is repaired and nothing is dropped: a
row that cannot be used is refused with its file, column, row and a cure (`columns`), a file that cannot be read
likewise (`tables`); files that disagree on the type of an id or on the unit of time, and no rows at all are refused
here. Memory is that of `Events`, and of the distinct ids in every part (`coding`).
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data import columns, formats, tables, times
from nightrank.data.coding import Coder
from nightrank.data.columns import Place
from nightrank.data.counts import Counts
from nightrank.data.growing import Growing
from nightrank.data.ids import Ids

DAY_S = 86_400.0


def event_files(path: str | Path) -> list[Path]:
    """The event files behind a file, folder or glob, sorted by path.

    Raises DataError where nothing is found, a format is not supported or two stand side by side.
    """
    return formats.find_files(path, what="events")


@dataclass(frozen=True)
class Events:
    """One entry an event in every array, in file and row order.

    users, items: int32 rows of user_ids and item_ids. weights: float64, finite, >= 0; None where all are 1.
    times: int64 seconds UTC, or None. types: int32 rows of type_names, or None. counts: what was read.
    parts: (file, its rows) in the order of the events, for messages; empty where it is not known.
    """

    user_ids: Ids
    item_ids: Ids
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    weights: NDArray[np.float64] | None
    times: NDArray[np.int64] | None
    types: NDArray[np.int32] | None
    type_names: tuple[str, ...]
    counts: Counts
    parts: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: NDArray[np.bool_]) -> Events:
        """The events where `keep` holds, in their order; the ids stay, also those without an event now."""
        return replace(
            self,
            users=self.users[keep],
            items=self.items[keep],
            weights=None if self.weights is None else self.weights[keep],
            times=None if self.times is None else self.times[keep],
            types=None if self.types is None else self.types[keep],
            parts=(),  # its rows are no file's any more
        )


def read_events(
    files: Sequence[Path], *, user: str, item: str, weight: str | None, time: str | None, type: str | None
) -> Events:
    """The events of files; only the mapped columns are read, times to whole seconds, fractions dropped.

    A file without rows is skipped and counted. Raises DataError naming file, column and first row.
    """
    reading = _Reading({"user": user, "item": item, "weight": weight, "time": time, "type": type})
    numbers = [name for name in (weight, time) if name is not None and name not in (user, item, type)]
    for file in files:
        reading.add(file, tables.read_batches(file, reading.names, numbers=numbers))
    return reading.finish(files)


def table_events(
    table: pa.Table, *, user: str, item: str, weight: str | None, time: str | None, type: str | None
) -> Events:
    """The same from an Arrow table in memory, by the same checks; messages say `table` for the file."""
    reading = _Reading({"user": user, "item": item, "weight": weight, "time": time, "type": type})
    tables.check_names("table", columns=reading.names, names=table.column_names)
    reading.add("table", tables.table_batches(table.select(reading.names)))
    return reading.finish(["table"])


@dataclass
class _Reading:
    """What was read so far, file by file. roles: user, item, weight, time and type to the caller's columns."""

    roles: Mapping[str, str | None]
    parts: list[tuple[Path | str, int]] = field(default_factory=list)
    kinds: list[tuple[Path | str, dict[str, str]]] = field(default_factory=list)
    forms: list[tuple[Path | str, str]] = field(default_factory=list)
    n_zero: int = 0
    n_future: int = 0

    def __post_init__(self) -> None:
        self.names = list(dict.fromkeys(name for name in self.roles.values() if name is not None))
        coded = ("user", "item") if self.roles["type"] is None else ("user", "item", "type")
        self.coders = {role: Coder() for role in coded}
        self.weights = None if self.roles["weight"] is None else Growing(np.float64)
        self.times = None if self.roles["time"] is None else Growing(np.int64)
        # Later times are counted, never refused: what a run reads must not hang on its clock.
        self.tomorrow = int(clock.time() + DAY_S)

    def add(self, file: Path | str, batches: Iterator[pa.Table]) -> None:
        """All events of one file; a file without rows has no types to hold it to."""
        stamps = times.TimeColumn()
        row = 0
        for raw in batches:
            self._add_batch(raw, file=file, row=row, rest=batches, stamps=stamps)
            row += raw.num_rows
        if row == 0:
            return
        self.parts.append((file, row))
        self.kinds.append((file, {role: coder.end_file() for role, coder in self.coders.items()}))
        if stamps.form is not None:
            self.forms.append((file, stamps.form))
        for role in ("user", "item"):
            kinds = [(one, kind[role]) for one, kind in (self.kinds[0], self.kinds[-1])]
            tables.check_one_kind(kinds, name=str(self.roles[role]), what="events")

    def _add_batch(
        self, raw: pa.Table, *, file: Path | str, row: int, rest: Iterable[pa.Table], stamps: times.TimeColumn
    ) -> None:
        def place(role: str) -> Place:
            name = str(self.roles[role])
            return Place(file, name, row, partial(_places, rest, file=file, name=name, row=row + len(raw)))

        for role in ("user", "item"):
            ids = columns.id_column(raw[self.roles[role]], at=place(role))
            self.coders[role].add(ids, is_written=formats.is_csv(file))
        if self.weights is not None:
            weights = columns.weight_column(raw[self.roles["weight"]], at=place("weight")).to_numpy()
            self.n_zero += len(raw) - int(np.count_nonzero(weights))
            self.weights.append(weights)
        if self.times is not None:
            seconds = stamps.seconds(raw[self.roles["time"]], at=place("time"))
            self.n_future += int(np.count_nonzero(seconds > self.tomorrow))
            self.times.append(seconds)
        if self.roles["type"] is not None:
            kinds = columns.type_column(raw[self.roles["type"]], at=place("type"))
            self.coders["type"].add(kinds, is_written=False)

    def finish(self, files: Sequence[Path | str]) -> Events:
        if not self.parts:
            tables.refuse_no_rows(files, what="events")
        times.check_one_unit(self.forms, name=str(self.roles["time"]))
        (user_ids, users), (item_ids, items) = (self.coders[role].finish() for role in ("user", "item"))
        type_ids, types = self.coders["type"].finish() if "type" in self.coders else (None, None)
        pa.default_memory_pool().release_unused()  # it keeps half as much again as the events take
        return Events(
            user_ids=user_ids,
            item_ids=item_ids,
            users=users,
            items=items,
            weights=None if self.weights is None else self.weights.finish(),
            times=None if self.times is None else self.times.finish(),
            types=types,
            type_names=() if type_ids is None else tuple(type_ids.array.to_pylist()),
            counts=Counts(
                files=len(files),
                empty_files=len(files) - len(self.parts),
                rows=len(users),
                time_forms=tuple(sorted({form for _, form in self.forms})),
                zero_weights=self.n_zero,
                future_times=self.n_future,
            ),
            parts=tuple((str(file), n_rows) for file, n_rows in self.parts),
        )


def _places(
    batches: Iterable[pa.Table], *, file: Path | str, name: str, row: int
) -> Iterator[tuple[Place, pa.ChunkedArray]]:
    """Each later part of a column, and where it stands."""
    for raw in batches:
        yield Place(file, name, row), raw[name]
        row += len(raw)
