"""Events and items as the caller's files hold them: mapped columns, typed, checked, under our own names.

Nothing is repaired and nothing is dropped: a row that cannot be used is refused with its file, column, row
and a cure (`columns`), a file that cannot be read likewise (`tables`); an event type without a weight, files
that disagree on the type of an id, no rows at all and an item that occurs twice are refused here. Memory is
that of the mapped columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns, tables
from nightrank.errors import DataError

DAY_S = 86_400.0


def event_files(path: str | Path) -> list[Path]:
    """The event files behind a file, folder or glob, sorted by path.

    Raises DataError where nothing is found, a format is not supported or two stand side by side.
    """
    return tables.find_files(path, what="events")


def read_events(
    files: Sequence[Path], *, user: str, item: str, weight: str | None, time: str | None, type: str | None
) -> pa.Table:
    """Events under canonical names, in file and row order; only the mapped columns are read.

    user, item: int64 or string, no nulls. weight: float64, finite, >= 0, 1.0 where no column is named.
    time: int64 seconds UTC, fractions dropped; absent where no column is named. type: string, likewise.
    Raises DataError naming file, column and first row.
    """
    names = list(dict.fromkeys(name for name in (user, item, weight, time, type) if name is not None))
    parts = []
    for file in files:
        raw = tables.read_columns(file, names)
        if raw.num_rows == 0:
            continue  # a file without rows has no types to hold it to
        part = {
            "user": columns.id_column(raw[user], file=file, name=user),
            "item": columns.id_column(raw[item], file=file, name=item),
            "weight": pa.chunked_array([np.ones(raw.num_rows)]),
        }
        if weight is not None:
            part["weight"] = columns.weight_column(raw[weight], file=file, name=weight)
        if time is not None:
            part["time"] = columns.time_column(raw[time], file=file, name=time)
        if type is not None:
            part["type"] = columns.type_column(raw[type], file=file, name=type)
        parts.append((file, pa.table(part)))
    return _concat(parts, files=files, id_names={"user": user, "item": item}, what="events")


def _concat(
    parts: Sequence[tuple[Path, pa.Table]], *, files: Sequence[Path], id_names: dict[str, str], what: str
) -> pa.Table:
    if not parts:
        names = ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")
        raise DataError(f"{what}: no rows in {len(files)} file(s): {names}; expected at least one row")
    first_file, first = parts[0]
    for file, table in parts[1:]:
        for column, name in id_names.items():
            expected, found = first.schema.field(column).type, table.schema.field(column).type
            if found != expected:
                raise DataError(
                    f"{what}: column '{name}' has {expected} ids in {first_file}, but {found} ids in {file}; "
                    "all files must agree: write the ids the same way everywhere"
                )
    return pa.concat_tables([table for _, table in parts])


def weighted(
    table: pa.Table,
    *,
    type_weights: dict[str, float] | None,
    half_life_days: float | None,
    latest: int | None = None,
) -> pa.Table:
    """The same rows with weight x type weight x 0.5 ** ((latest - time) / half life).

    `latest` (seconds UTC) defaults to the newest event; an event newer than `latest` counts in full. A type
    weight of 0 drops no row: its weight becomes 0. The settings are trusted, the job file has checked them.
    Raises DataError on a type without a weight, or where the column that a setting needs is not there.
    """
    weights = table["weight"].to_numpy()
    if type_weights is not None:
        weights = weights * _type_factors(table, type_weights)
    if half_life_days is not None:
        if "time" not in table.column_names:
            raise DataError(
                "events.half_life_days is set, but the events have no time column; "
                "name it in events.columns.time, or take half_life_days out"
            )
        times = table["time"].to_numpy()
        age_s = (times.max() if latest is None else latest) - times
        weights = weights * 0.5 ** (np.maximum(age_s, 0) / (half_life_days * DAY_S))
    place = table.column_names.index("weight")
    return table.set_column(place, "weight", pa.chunked_array([weights]))


def _type_factors(table: pa.Table, type_weights: dict[str, float]) -> NDArray[np.float64]:
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
            f"events.type_weights has no weight for the event type {found}; "
            f"it knows {', '.join(map(repr, type_weights))}{hint}; give every type a weight, 0 for none"
        )
    factors: NDArray[np.float64] = np.array(list(type_weights.values()), dtype=np.float64)[rows.to_numpy()]
    return factors


def read_items(
    path: str | Path, *, item: str, title: str | None, categories: str | None, separator: str
) -> pa.Table:
    """The item table of a file, folder or glob, in file and row order.

    item: int64 or string, each once. title: string, may be null. categories: list<string>, [] where there are
    none; text is split at `separator`, spaces around each part go. The last two are absent where not named.
    Raises DataError on an item id that occurs twice, besides what `read_events` refuses.
    """
    names = list(dict.fromkeys(name for name in (item, title, categories) if name is not None))
    files = tables.find_files(path, what="items")
    parts = []
    for file in files:
        raw = tables.read_columns(file, names)
        if raw.num_rows == 0:
            continue
        part = {"item": columns.id_column(raw[item], file=file, name=item)}
        if title is not None:
            part["title"] = columns.text_column(raw[title], file=file, name=title)
        if categories is not None:
            part["categories"] = _categories(raw[categories], file=file, name=categories, separator=separator)
        parts.append((file, pa.table(part)))
    items = _concat(parts, files=files, id_names={"item": item}, what="items")
    counts = pc.value_counts(items["item"])
    repeated = pc.greater(counts.field("counts"), 1)
    if pc.any(repeated).as_py():
        entry = counts.filter(repeated)[0].as_py()
        raise DataError(
            f"items: the id {entry['values']!r} occurs {entry['counts']} times in column '{item}' of {path} "
            f"({pc.sum(repeated).as_py()} such ids); each item stands in one row: keep one of them"
        )
    return items


def _categories(column: pa.ChunkedArray, *, file: Path, name: str, separator: str) -> pa.Array:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = column.combine_chunks()
    else:
        text = columns.text_column(column, file=file, name=name)
        lists = pc.split_pattern(text, pattern=separator).combine_chunks()
    words = pa.chunked_array([pc.list_flatten(lists)])
    words = pc.utf8_trim_whitespace(columns.text_column(words, file=file, name=name)).combine_chunks()
    kept = pc.fill_null(pc.not_equal(words, ""), fill_value=False)
    owners = pc.list_parent_indices(lists).filter(kept).to_numpy()
    ends = np.cumsum(np.bincount(owners, minlength=len(column)))
    return pa.ListArray.from_arrays(pa.array(np.r_[0, ends].astype(np.int32)), words.filter(kept))
