"""Columns as the caller's files hold them, typed and checked: ids, weights, texts (`times` has the times).

Each function takes one raw column of one file (CSV columns are text) and gives our type for it, or refuses it
with file, column, first row and a cure; row numbers count data rows from 0. `file` is a path, or the word
`table` for one in memory. Nothing is repaired: a missing or empty id, a float id, a NaN, infinite or negative
weight and a text that is no number all are refused. Vectorised throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.data.tables import is_csv
from nightrank.errors import DataError

_CANONICAL_INT = r"^(0|-?[1-9][0-9]{0,18})$"


def refuse_nulls(column: pa.ChunkedArray, *, file: Path | str, name: str, cure: str) -> None:
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


def first_failing(column: pa.ChunkedArray, *, convert: Callable[[pa.ChunkedArray], object]) -> int:
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


def id_column(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Ids as int64 or string, kept as they came; CSV text is int64 where every value is written as one.

    Raises DataError on a missing or empty id, an id beyond int64, and every other type.
    """
    cure = "give each row an id, or take those rows out"
    column = _decoded(column)
    refuse_nulls(column, file=file, name=name, cure=cure)
    kind = column.type
    if pa.types.is_integer(kind):
        return _int_ids(column, file=file, name=name)
    if not is_text(kind):
        raise DataError(
            f"{file}: column '{name}' holds ids of type {kind}; ids are integers or strings: "
            f"cast the column where it is written{_id_hint(kind)}"
        )
    column = column.cast(pa.string())
    if (row := _first_true(pc.equal(column, ""))) >= 0:
        raise DataError(f"{file}: column '{name}' has an empty id in row {row}; {cure}")
    return _as_written(column) if is_csv(file) else column


def _int_ids(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        row = first_failing(column, convert=lambda part: part.cast(pa.int64()))
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


def is_text(kind: pa.DataType) -> bool:
    """Is it one of Arrow's string types?"""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _id_hint(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return " (pandas turns an integer column with gaps into floats: drop the gaps, then cast to int64)"
    return ""


def text_column(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Strings from strings or integers, nulls kept; every other type is refused (DataError)."""
    column = _decoded(column)
    kind = column.type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{file}: column '{name}' has type {kind}; expected strings: cast it where it is written"
        )
    return column.cast(pa.string())


def weight_column(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Weights as float64, finite and >= 0; every other value or type is refused (DataError)."""
    cure = "give the row a weight of 0 or more, or take it out"
    refuse_nulls(column, file=file, name=name, cure=cure)
    kind = column.type
    if is_csv(file) and is_text(kind):
        values = _numbers(column, file=file, name=name)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64(), safe=False)
    else:
        raise DataError(
            f"{file}: column '{name}' holds weights of type {kind}; weights are integers or floats: "
            "cast the column where it is written"
        )
    wrong = pc.invert(pc.and_(pc.is_finite(values), pc.greater_equal(values, 0.0)))
    if (row := _first_true(wrong)) >= 0:
        raise DataError(
            f"{file}: column '{name}' has the weight {column[row]} in row {row} ({pc.sum(wrong)} such rows); "
            f"weights are finite and not negative: {cure}"
        )
    return values


def _numbers(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Text of a CSV column as float64, spaces around it ignored."""
    column = pc.utf8_trim_whitespace(column)
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        row = first_failing(column, convert=lambda part: part.cast(pa.float64()))
        raise DataError(
            f"{file}: column '{name}' has '{column[row]}' in row {row}, which is no number; "
            "correct the row, or take it out"
        ) from None


def type_column(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Event types as strings, none missing or empty (DataError)."""
    column = text_column(column, file=file, name=name)
    cure = "give the row an event type, or take it out"
    refuse_nulls(column, file=file, name=name, cure=cure)
    if (row := _first_true(pc.equal(column, ""))) >= 0:
        raise DataError(f"{file}: column '{name}' has an empty event type in row {row}; {cure}")
    return column
