"""Which type a column of metadata has: as a file gives it, and, where all is text, as it is written.

Refused: dates and times, structs, lists of fractions, bytes. Nothing here loops over rows in Python.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns
from nightrank.data.attributes import MISSING_TEXTS, Categories, Numbers
from nightrank.data.columns import Place
from nightrank.data.ids import INT, STRING
from nightrank.errors import DataError

# Whole numbers with more distinct values measure something, with fewer they name it: ages in bands, ratings, codes.
MOST_WHOLE = 64
_WHOLE_FLOAT = 2.0**53  # from here on floats have gaps between whole numbers

# As ids: no sign but a minus, no leading zeros, so that 007 stays a text. NaN and infinity in any spelling.
WHOLE = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^(-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|(?i:[-+]?(nan|inf|infinity)))$"
_BOOLEAN = r"^(?i:true|false)$"
_MISSING = pa.array(["", *MISSING_TEXTS], STRING)


def typed(column: pa.ChunkedArray, *, at: Place) -> tuple[str | None, pa.ChunkedArray]:
    """The kind of a part, and its values as int64, float64, lists of texts, or texts with their distinct ones.

    The kind is text, list, whole or number; None where there are nulls alone. Raises DataError on every other type.
    """
    kind = column.type
    if pa.types.is_null(kind):
        return None, column
    if columns.is_text(kind) or pa.types.is_boolean(kind):
        return "text", column.cast(STRING).dictionary_encode()
    if pa.types.is_integer(kind):
        try:
            return "whole", column.cast(INT)
        except pa.ArrowInvalid:  # beyond int64
            return "number", column.cast(pa.float64(), safe=False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", column.cast(pa.float64(), safe=False)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        inner = inner.value_type if pa.types.is_dictionary(inner) else inner
        if columns.is_text(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner):
            return "list", column.cast(pa.large_list(STRING))
    raise DataError(
        f"{at} has type {kind}, which is no feature; first in row {at.row}; features are texts, booleans, numbers, "
        f"or lists of texts or whole numbers: {_cure(kind)}"
    )


def _cure(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "write each field as a column of its own"
    if pa.types.is_temporal(kind):
        return "write what matters of it as a number or a text, such as the year or the hour"
    if pa.types.is_nested(kind) and pa.types.is_floating(kind.value_type):
        return "write each number as a column of its own"
    if pa.types.is_nested(kind):
        return "write a list of texts"
    return "write it as text"


def are_missing(trimmed: pa.Array) -> pa.Array:
    """Which of these texts say that there is no value, bool."""
    return pc.is_in(trimmed, value_set=_MISSING)


def are_numbers(trimmed: pa.Array) -> pa.Array:
    """Which of these texts are written as a number is, bool."""
    return pc.match_substring_regex(trimmed, NUMBER)


def as_written(texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Distinct texts of CSV, trimmed, booleans in small letters; and their numbers, null for what is missing, where
    all others are some: int64 where each is written as a whole one, else float64."""
    missing = are_missing(texts)
    given = texts.filter(pc.invert(missing))
    if len(given) and pc.all(pc.match_substring_regex(given, _BOOLEAN)).as_py():
        return pc.if_else(missing, texts, pc.utf8_lower(texts)), None
    if not len(given) or not pc.all(are_numbers(given)).as_py():
        return texts, None
    numbers = pc.if_else(missing, pa.scalar(None, STRING), texts)
    if pc.all(pc.match_substring_regex(given, WHOLE)).as_py():
        try:
            return texts, numbers.cast(INT)
        except pa.ArrowInvalid:  # beyond int64
            pass
    return texts, numbers.cast(pa.float64())


def named_or_measured(
    name: str, values: NDArray[np.int64 | np.float64], known: NDArray[np.bool_]
) -> Categories | Numbers:
    """A column of numbers: categories where all known are whole and few are distinct, in the order of their texts.

    values: 0 where not known. Decided by the whole table, so that a column is of one kind in every fit; and by the
    values alone, for one that is missing makes floats of whole numbers (pandas).
    """
    distinct = _few_whole(values[known])
    if distinct is not None:
        texts = [str(value) for value in distinct.tolist()]
        order = sorted(range(len(texts)), key=texts.__getitem__)
        codes = np.argsort(order)[np.searchsorted(distinct, values[known])].astype(np.int32)
        ends = np.r_[0, np.cumsum(known)].astype(np.int64)
        return Categories(name, tuple(texts[place] for place in order), ends, codes)
    return Numbers(name, values.astype(np.float64), known)


def _few_whole(given: NDArray[np.int64 | np.float64]) -> NDArray[np.int64] | None:
    """The distinct values, int64 and ascending, where all are whole and they are few; None otherwise."""
    # Of many, the first rows have many as a rule: no table of all of them is needed.
    if not 0 < len(np.unique(given[:1_000])) <= MOST_WHOLE:
        return None
    if given.dtype != np.int64 and not np.all((given == np.floor(given)) & (np.abs(given) <= _WHOLE_FLOAT)):
        return None
    distinct = np.sort(pc.unique(pa.array(given.astype(np.int64))).to_numpy())
    return distinct if len(distinct) <= MOST_WHOLE else None
