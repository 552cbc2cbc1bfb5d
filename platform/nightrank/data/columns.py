"""Columns as the caller's files hold them, typed and checked: ids, weights, times, texts.

Each function takes one raw column of one file (CSV columns are text) and gives our type for it, or refuses it
with file, column, first row and a cure; row numbers count data rows from 0. Nothing is repaired: a
missing or empty id, a float id, a NaN, infinite or negative weight, milliseconds where seconds belong and a
text that is no number all are refused. Vectorised throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.data.tables import file_format
from nightrank.errors import DataError

_CANONICAL_INT = r"^(0|-?[1-9][0-9]{0,18})$"
_MAX_TIME_S = 1e11  # the year 5138; in milliseconds, the year 1973
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _refuse_nulls(column: pa.ChunkedArray, *, file: Path, name: str, cure: str) -> None:
    """Raise DataError naming the first row without a value, if there is one."""
    if column.null_count:
        raise DataError(
            f"{file}: column '{name}' has no value in row {_first_true(pc.is_null(column))} "
            f"({column.null_count} such rows); {cure}"
        )


def _first_true(mask: pa.ChunkedArray) -> int:
    """Index of the first true value, -1 where there is none."""
    index: int = pc.index(mask, pa.scalar(value=True)).as_py()
    return index


def _first_failing(column: pa.ChunkedArray, *, convert: Callable[[pa.ChunkedArray], object]) -> int:
    """The first row that `convert` refuses (ArrowInvalid), by bisection; len(column) where it takes all."""
    good, bad = 0, len(column) + 1  # the first `good` rows convert, the first `bad` do not
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            convert(column.slice(good, middle - good))
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


def id_column(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Ids as int64 or string, kept as they came; CSV text is int64 where every value is written as one.

    Raises DataError on a missing or empty id, an id beyond int64, and every other type.
    """
    cure = "give each row an id, or take those rows out"
    column = _decoded(column)
    _refuse_nulls(column, file=file, name=name, cure=cure)
    kind = column.type
    if pa.types.is_integer(kind):
        return _int_ids(column, file=file, name=name)
    if not _is_text(kind):
        raise DataError(
            f"{file}: column '{name}' holds ids of type {kind}; ids are integers or strings: "
            f"cast the column where the file is written{_id_hint(kind)}"
        )
    column = column.cast(pa.string())
    if (row := _first_true(pc.equal(column, ""))) >= 0:
        raise DataError(f"{file}: column '{name}' has an empty id in row {row}; {cure}")
    return column if file_format(file) == ".parquet" else _as_written(column)


def _int_ids(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        row = _first_failing(column, convert=lambda part: part.cast(pa.int64()))
        raise DataError(
            f"{file}: column '{name}' has the id {column[row]} in row {row}, beyond int64 "
            f"(up to {2**63 - 1}); write ids of that size as strings"
        ) from None


def _as_written(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """int64 where every text is the canonical decimal form of one, else the text itself."""
    if len(column) == 0 or not pc.all(pc.match_substring_regex(column, _CANONICAL_INT)).as_py():
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # 19 digits beyond int64
        return column


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves where the file keeps a dictionary (pandas: category)."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _id_hint(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return " (pandas turns an integer column with gaps into floats: drop the gaps, then cast to int64)"
    return ""


def text_column(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Strings from strings or integers, nulls kept; every other type is refused (DataError)."""
    column = _decoded(column)
    kind = column.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{file}: column '{name}' has type {kind}; expected strings: cast it where the file is written"
        )
    return column.cast(pa.string())


def weight_column(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Weights as float64, finite and >= 0; every other value or type is refused (DataError)."""
    cure = "give the row a weight of 0 or more, or take it out"
    _refuse_nulls(column, file=file, name=name, cure=cure)
    kind = column.type
    if _is_csv_text(column, file=file):
        values = _numbers(column, file=file, name=name)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64(), safe=False)
    else:
        raise DataError(
            f"{file}: column '{name}' holds weights of type {kind}; weights are integers or floats: "
            "cast the column where the file is written"
        )
    wrong = pc.invert(pc.and_(pc.is_finite(values), pc.greater_equal(values, 0.0)))
    if (row := _first_true(wrong)) >= 0:
        raise DataError(
            f"{file}: column '{name}' has the weight {column[row]} in row {row} ({pc.sum(wrong)} such rows); "
            f"weights are finite and not negative: {cure}"
        )
    return values


def _is_csv_text(column: pa.ChunkedArray, *, file: Path) -> bool:
    return file_format(file) != ".parquet" and bool(pa.types.is_string(column.type))


def _numbers(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Text of a CSV column as float64, spaces around it ignored."""
    column = pc.utf8_trim_whitespace(column)
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        row = _first_failing(column, convert=lambda part: part.cast(pa.float64()))
        raise DataError(
            f"{file}: column '{name}' has '{column[row]}' in row {row}, which is no number; "
            "correct the row, or take it out"
        ) from None


def time_column(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Times as int64 seconds UTC, fractions dropped; a timestamp without a zone is UTC.

    Raises DataError on what is missing, no time, or beyond the year 5138 (milliseconds).
    """
    cure = "give the row a time, or take it out, or leave the time column out of the job file"
    _refuse_nulls(column, file=file, name=name, cure=cure)
    parsed = _parsed_times(column, file=file, name=name) if _is_csv_text(column, file=file) else column
    kind = parsed.type
    if pa.types.is_date(kind):
        parsed, kind = parsed.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        return pa.chunked_array([parsed.cast(pa.int64()).to_numpy() // _PER_SECOND[kind.unit]])
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"{file}: column '{name}' holds times of type {kind}; times are integer or float seconds since "
            "1970 (UTC) or timestamps: cast the column where the file is written"
        )
    values = parsed.to_numpy()
    wrong = ~(np.abs(values.astype(np.float64)) <= _MAX_TIME_S)  # NaN is wrong too
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{file}: column '{name}' has the time {column[row]} in row {row} ({wrong.sum()} such rows); "
            "times are seconds since 1970 (UTC), and larger values look like milliseconds or finer: divide "
            "them by 1,000 (or 1,000,000) where the file is written"
        )
    return pa.chunked_array([np.floor(values).astype(np.int64)])


def _parsed_times(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """CSV text as float64 seconds or as timestamps: the one form that reads every row."""
    column = pc.utf8_trim_whitespace(column)
    furthest = 0
    for form in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        convert = partial(pa.ChunkedArray.cast, target_type=form)
        try:
            return convert(column)
        except pa.ArrowInvalid:
            furthest = max(furthest, _first_failing(column, convert=convert))
    raise DataError(
        f"{file}: column '{name}' has '{column[furthest]}' in row {furthest}, which is no time; "
        "times are seconds since 1970 (UTC), or ISO 8601 such as 2026-01-31 23:59:00, and all rows of a "
        "column take the same form: correct the row, or take it out"
    )


def type_column(column: pa.ChunkedArray, *, file: Path, name: str) -> pa.ChunkedArray:
    """Event types as strings, none missing or empty (DataError)."""
    column = text_column(column, file=file, name=name)
    cure = "give the row an event type, or take it out"
    _refuse_nulls(column, file=file, name=name, cure=cure)
    if (row := _first_true(pc.equal(column, ""))) >= 0:
        raise DataError(f"{file}: column '{name}' has an empty event type in row {row}; {cure}")
    return column
