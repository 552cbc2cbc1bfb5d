"""Events as the caller's files hold them: mapped columns, typed, checked, under our own names.

Nothing is repaired and nothing is dropped: a row that cannot be used is refused with its file, column, row
and a cure (`columns`), a file that cannot be read likewise (`tables`); an event type without a weight, files
that disagree on the type of an id or on the unit of time, and no rows at all are refused here. Memory is that
of the mapped columns.
"""

from __future__ import annotations

import difflib
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns, tables, times
from nightrank.data.counts import Counts
from nightrank.errors import DataError

DAY_S = 86_400.0


def event_files(path: str | Path) -> list[Path]:
    """The event files behind a file, folder or glob, sorted by path.

    Raises DataError where nothing is found, a format is not supported or two stand side by side.
    """
    return tables.find_files(path, what="events")


@dataclass(frozen=True)
class Events:
    """table: events under canonical names, as `read_events` describes them. counts: what was read.

    parts: (file, its rows) in the order of the table, for messages; empty where it is not known.
    """

    table: pa.Table
    counts: Counts
    parts: tuple[tuple[str, int], ...] = ()


def read_events(
    files: Sequence[Path], *, user: str, item: str, weight: str | None, time: str | None, type: str | None
) -> Events:
    """Events under canonical names, in file and row order; only the mapped columns are read.

    user, item: int64 or string, no nulls. weight: float64, finite, >= 0, 1.0 where no column is named.
    time: int64 seconds UTC, fractions dropped; absent where no column is named. type: string, likewise.
    A file without rows is skipped and counted. Raises DataError naming file, column and first row.
    """
    roles = {"user": user, "item": item, "weight": weight, "time": time, "type": type}
    names = _names(roles)
    return _events(((file, tables.read_columns(file, names)) for file in files), roles=roles, files=files)


def table_events(
    table: pa.Table, *, user: str, item: str, weight: str | None, time: str | None, type: str | None
) -> Events:
    """The same from an Arrow table in memory, by the same checks; messages say `table` for the file."""
    roles = {"user": user, "item": item, "weight": weight, "time": time, "type": type}
    names = _names(roles)
    tables.check_names("table", columns=names, names=table.column_names)
    raw = tables.checked_texts(table.select(names), file="table")
    return _events([("table", raw)], roles=roles, files=["table"])


def _names(roles: Mapping[str, str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in roles.values() if name is not None))


def _events(
    sources: Iterable[tuple[Path | str, pa.Table]],
    *,
    roles: Mapping[str, str | None],
    files: Sequence[Path | str],
) -> Events:
    parts: list[tuple[Path | str, pa.Table]] = []
    forms: list[tuple[Path | str, str]] = []
    for file, raw in sources:
        if raw.num_rows > 0:  # a file without rows has no types to hold it to
            part, form = _typed(raw, file=file, roles=roles)
            parts.append((file, part))
            forms += [] if form is None else [(file, form)]
    times.check_one_unit(forms, name=str(roles["time"]))
    id_names = {role: str(roles[role]) for role in ("user", "item")}
    table = tables.concat(parts, files=files, id_names=id_names, what="events")
    counts = _counts(table, n_files=len(files), n_parts=len(parts), forms=[form for _, form in forms])
    return Events(table, counts, parts=tuple((str(file), part.num_rows) for file, part in parts))


def _typed(
    raw: pa.Table, *, file: Path | str, roles: Mapping[str, str | None]
) -> tuple[pa.Table, str | None]:
    """One file's events, and the form of its times."""
    user, item, weight, time, kind = (roles[role] for role in ("user", "item", "weight", "time", "type"))
    part = {
        "user": columns.id_column(raw[user], file=file, name=str(user)),
        "item": columns.id_column(raw[item], file=file, name=str(item)),
        "weight": pa.chunked_array([np.ones(raw.num_rows)]),
    }
    form = None
    if weight is not None:
        part["weight"] = columns.weight_column(raw[weight], file=file, name=weight)
    if time is not None:
        part["time"], form = times.time_column(raw[time], file=file, name=time)
    if kind is not None:
        part["type"] = columns.type_column(raw[kind], file=file, name=kind)
    return pa.table(part), form


def _counts(table: pa.Table, *, n_files: int, n_parts: int, forms: Sequence[str]) -> Counts:
    """Times beyond tomorrow are counted, never refused: what a run reads must not hang on its clock."""
    future = 0
    if "time" in table.column_names:
        future = int(pc.sum(pc.greater(table["time"], int(clock.time() + DAY_S))).as_py())
    return Counts(
        files=n_files,
        empty_files=n_files - n_parts,
        rows=table.num_rows,
        time_forms=tuple(sorted(set(forms))),
        zero_weights=int(pc.sum(pc.equal(table["weight"], 0.0)).as_py()),
        future_times=future,
    )


def weighted(
    table: pa.Table,
    *,
    type_weights: dict[str, float] | None,
    half_life_days: float | None,
    latest: int | None = None,
    parts: Sequence[tuple[str, int]] = (),
) -> pa.Table:
    """The same rows with weight x type weight x 0.5 ** ((latest - time) / half life).

    `latest` (seconds UTC) defaults to the newest event; an event newer than `latest` counts in full. A type
    weight of 0 drops no row: its weight becomes 0. The settings are trusted, the job file has checked them.
    parts: as in `Events`. Raises DataError on a type without a weight, or where the column that a setting
    needs is not there.
    """
    weights = table["weight"].to_numpy()
    if type_weights is not None:
        weights = weights * _type_factors(table, type_weights, parts)
    if half_life_days is not None:
        if "time" not in table.column_names:
            raise DataError(
                "events.half_life_days is set, but the events have no time column; "
                "name it in events.columns.time, or take half_life_days out"
            )
        seconds = table["time"].to_numpy()
        age_s = (seconds.max() if latest is None else latest) - seconds
        weights = weights * 0.5 ** (np.maximum(age_s, 0) / (half_life_days * DAY_S))
    place = table.column_names.index("weight")
    return table.set_column(place, "weight", pa.chunked_array([weights]))


def _type_factors(
    table: pa.Table, type_weights: dict[str, float], parts: Sequence[tuple[str, int]]
) -> NDArray[np.float64]:
    if "type" not in table.column_names:
        raise DataError(
            "events.type_weights is set, but the events have no type column; "
            "name it in events.columns.type, or take type_weights out"
        )
    rows = pc.index_in(table["type"], value_set=pa.array(list(type_weights), pa.string()))
    if rows.null_count:
        unknown = pc.value_counts(table["type"].filter(pc.is_null(rows)))
        found = ", ".join(
            f"'{entry['values']}' ({entry['counts']} events)" for entry in unknown.to_pylist()[:10]
        )
        near = difflib.get_close_matches(str(unknown[0]["values"]), type_weights, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DataError(
            f"{_place(int(np.argmax(pc.is_null(rows).to_numpy())), parts)}"
            f"events.type_weights has no weight for the event type {found}; "
            f"it knows {', '.join(map(repr, type_weights))}{hint}; give every type a weight, 0 for none"
        )
    factors: NDArray[np.float64] = np.array(list(type_weights.values()), dtype=np.float64)[rows.to_numpy()]
    return factors


def _place(row: int, parts: Sequence[tuple[str, int]]) -> str:
    """`file: row 3 of it: ` for a row of the table; nothing where the files are not known."""
    for file, n_rows in parts:
        if row < n_rows:
            return f"{file}: the type column, first in row {row}: "
        row -= n_rows
    return ""
