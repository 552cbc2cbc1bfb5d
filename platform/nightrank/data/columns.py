"""Columns as the caller's files hold them, typed and checked: ids, weights, texts (`times` has the times).

Each function takes one raw column of one file, or a part of it (CSV columns are text), and gives our type for it,
or refuses it with file, column, first row and a cure; row numbers count data rows of the file from 0. Nothing is
repaired: a missing or empty id, a float id, a NaN, infinite or negative weight and a text that is no number all
are refused. Vectorised throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.data.formats import is_csv
from nightrank.data.ids import INT, STRING
from nightrank.errors import DataError

Mask: TypeAlias = pa.ChunkedArray  # bool
_CANONICAL_INT = r"^(0|-?[1-9][0-9]{0,18})$"


def _no_rest() -> Iterator[tuple[Place, pa.ChunkedArray]]:
    return iter(())


@dataclass(frozen=True)
class Place:
    """Where a column, or a part of one, stands: for messages.

    file: a path, or the word `table` for one in memory. name: the caller's, of the column. row: the part's first
    row in the file. rest: the parts of the column behind this one, read only to count what is wrong in them.
    """

    file: Path | str
    name: str
    row: int = 0
    rest: Callable[[], Iterator[tuple[Place, pa.ChunkedArray]]] = _no_rest

    def __str__(self) -> str:
        return f"{self.file}: column '{self.name}'"


Again = Callable[[pa.ChunkedArray, Place], Mask]


def refuse_nulls(column: pa.ChunkedArray, *, at: Place, cure: str) -> None:
    """Raise DataError naming the first row without a value, if there is one."""
    if column.null_count:
        say = f"has no value in row {{row}} ({{count}} such rows); {cure}"
        refuse(column, pc.is_null(column), at=at, again=lambda later, _: pc.is_null(later), say=say)


def refuse(column: pa.ChunkedArray, wrong: Mask, *, at: Place, again: Again, say: str) -> None:
    """Raise DataError on the first row that is wrong, if there is one, with the number of such rows in the file.

    again: the same judgement on a later part of the column. say: what is wrong, with {value}, {row} and {count}.
    """
    if (first := _first_true(wrong)) < 0:
        return
    count = _n_true(wrong) + sum(_n_true(again(later, there)) for there, later in at.rest())
    raise DataError(f"{at} " + say.format(value=column[first], row=at.row + first, count=count))


def _first_true(mask: Mask) -> int:
    """Index of the first true value, -1 where there is none."""
    index: int = pc.index(mask, pa.scalar(value=True)).as_py()
    return index


def _n_true(mask: Mask) -> int:
    return pc.sum(mask).as_py() or 0


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


def id_column(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    """Ids as int64 or large_string, kept as they came; `as_written` then finds the integers among texts of CSV.

    Raises DataError on a missing or empty id, an id beyond int64, a line break in CSV, and every other type.
    """
    cure = "give each row an id, or take those rows out"
    column = decoded(column)
    refuse_nulls(column, at=at, cure=cure)
    kind = column.type
    if pa.types.is_integer(kind):
        return _int_ids(column, at=at)
    if not is_text(kind):
        raise DataError(
            f"{at} holds ids of type {kind}; first in row {at.row}; ids are integers or strings: "
            f"cast the column where it is written{_id_hint(kind)}"
        )
    column = column.cast(STRING)
    _refuse_empty(column, at=at, what="id", cure=cure)
    refuse_line_breaks(column, at=at)
    return column


def _refuse_empty(column: pa.ChunkedArray, *, at: Place, what: str, cure: str) -> None:
    say = f"has an empty {what} in row {{row}} ({{count}} such rows); {cure}"
    refuse(column, pc.equal(column, ""), at=at, again=lambda later, _: _is_empty(later), say=say)


def _is_empty(column: pa.ChunkedArray) -> Mask:
    return pc.equal(decoded(column).cast(STRING), "")


def refuse_line_breaks(column: pa.ChunkedArray, *, at: Place) -> None:
    """Raise DataError on a text of CSV with a line break: such a field has most likely swallowed rows."""
    if is_csv(at.file):
        say = (
            "has a line break in row {row} ({count} such rows): the quote that begins the value is not closed on its "
            "line; close it, or take the line break out"
        )
        refuse(column, _is_broken(column), at=at, again=lambda later, _: _is_broken(later), say=say)


def _is_broken(column: pa.ChunkedArray) -> Mask:
    return pc.match_substring(column, "\n")


def _int_ids(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    try:
        return column.cast(INT)
    except pa.ArrowInvalid:
        row = first_failing(column, convert=lambda part: part.cast(INT))
        raise DataError(
            f"{at} has the id {column[row]} in row {at.row + row}, beyond int64 "
            f"(up to {2**63 - 1}); write ids of that size as strings"
        ) from None


def as_written(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """int64 where every text is the canonical decimal form of one, else the texts themselves."""
    if len(texts) == 0 or not pc.all(pc.match_substring_regex(texts, _CANONICAL_INT)).as_py():
        return texts
    try:
        return texts.cast(INT)
    except pa.ArrowInvalid:  # 19 digits beyond int64
        return texts


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves where the file keeps a dictionary (pandas: category)."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Is it one of Arrow's string types?"""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _id_hint(kind: pa.DataType) -> str:
    if pa.types.is_floating(kind):
        return " (pandas turns an integer column with gaps into floats: drop the gaps, then cast to int64)"
    return ""


def text_column(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    """large_string from strings or integers, nulls kept; every other type is refused (DataError)."""
    column = decoded(column)
    kind = column.type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{at} has type {kind}; expected strings: cast it where it is written")
    return column.cast(STRING)


def weight_column(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    """Weights as float64, finite and >= 0; every other value or type is refused (DataError)."""
    cure = "give the row a weight of 0 or more, or take it out"
    refuse_nulls(column, at=at, cure=cure)
    values = _floats(column, at)
    say = (
        "has the weight {value} in row {row} ({count} such rows); "
        f"weights are finite and not negative: {cure}"
    )
    refuse(
        column,
        _is_unusable(values),
        at=at,
        again=lambda later, there: _is_unusable(_floats(later, there)),
        say=say,
    )
    return values


def _is_unusable(weights: pa.ChunkedArray) -> Mask:
    return pc.invert(pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0)))


def _floats(column: pa.ChunkedArray, at: Place) -> pa.ChunkedArray:
    kind = column.type
    if is_csv(at.file) and is_text(kind):
        refuse_line_breaks(column, at=at)
        return _numbers(column, at=at)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    raise DataError(
        f"{at} holds weights of type {kind}; weights are integers or floats: cast the column where it is written"
    )


def _numbers(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    """Text of a CSV column as float64, spaces around it ignored."""
    column = pc.utf8_trim_whitespace(column)
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        row = first_failing(column, convert=lambda part: part.cast(pa.float64()))
        raise DataError(
            f"{at} has '{column[row]}' in row {at.row + row}, which is no number; "
            "correct the row, or take it out"
        ) from None


def type_column(column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
    """Event types as large_string, none missing or empty, in CSV without a line break (DataError)."""
    column = text_column(column, at=at)
    cure = "give the row an event type, or take it out"
    refuse_nulls(column, at=at, cure=cure)
    _refuse_empty(column, at=at, what="event type", cure=cure)
    refuse_line_breaks(column, at=at)
    return column
