"""Times as the caller's files hold them, to whole seconds UTC.

Numbers are seconds or milliseconds since 1970, decided for the whole column by magnitude: all values up to
1e11 are seconds, all values beyond are milliseconds; a column (or a set of files) with both is refused, as are
micro- and nanoseconds, gaps and texts that are no time. Nothing is guessed row by row. Vectorised throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns
from nightrank.data.tables import is_csv
from nightrank.errors import DataError

MAX_S = 1e11  # the year 5138; as milliseconds, the year 1973
_MAX_MS = MAX_S * 1_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Times(NamedTuple):
    """seconds: int64 UTC, fractions dropped (downwards). form: seconds, milliseconds or datetimes, as found."""

    seconds: pa.ChunkedArray
    form: str


def time_column(column: pa.ChunkedArray, *, file: Path | str, name: str) -> Times:
    """One column's times; a timestamp without a zone is UTC. `file` is a path, or `table` for one in memory.

    Raises DataError on what is missing, no time, a mixture of seconds and milliseconds, or finer than those.
    """
    cure = "give the row a time, or take it out, or leave the time column out of the job file"
    columns.refuse_nulls(column, file=file, name=name, cure=cure)
    raw = column
    if columns.is_text(column.type):
        column = _parsed(column.cast(pa.string()), file=file, name=name)
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        return Times(
            pa.chunked_array([column.cast(pa.int64()).to_numpy() // _PER_SECOND[kind.unit]]), "datetimes"
        )
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"{file}: column '{name}' holds times of type {kind}; times are seconds or milliseconds since 1970 "
            "(UTC), timestamps, or ISO 8601 texts: cast the column where it is written"
        )
    return _from_numbers(column.to_numpy(), raw, file=file, name=name)


def _from_numbers(values: NDArray[Any], raw: pa.ChunkedArray, *, file: Path | str, name: str) -> Times:
    size = np.abs(values.astype(np.float64))
    wrong = ~(size <= _MAX_MS)  # NaN is wrong too
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{file}: column '{name}' has the time {raw[row]} in row {row} ({wrong.sum()} such rows); "
            "times are seconds or milliseconds since 1970 (UTC), and larger values look like micro- or "
            "nanoseconds: divide them by 1,000 or 1,000,000 where the column is written"
        )
    is_ms = size > MAX_S
    if not is_ms.any():
        return Times(pa.chunked_array([np.floor(values).astype(np.int64)]), "seconds")
    if not is_ms.all():
        row, other = int(np.argmax(is_ms)), int(np.argmin(is_ms))
        raise DataError(
            f"{file}: column '{name}' has the time {raw[row]} in row {row} ({is_ms.sum()} such rows), which "
            f"looks like milliseconds, and {raw[other]} in row {other}, which looks like seconds; one unit "
            "for the whole column: write all of them in seconds, or all in milliseconds"
        )
    return Times(pa.chunked_array([np.floor_divide(values, 1_000).astype(np.int64)]), "milliseconds")


def _parsed(column: pa.ChunkedArray, *, file: Path | str, name: str) -> pa.ChunkedArray:
    """Text as timestamps, in CSV also as float64: the one form that reads every row."""
    column = pc.utf8_trim_whitespace(column)
    furthest = 0
    numbers = [pa.float64()] if is_csv(file) else []  # where numbers have a type of their own, texts are ISO
    # Microseconds reach every year, nanoseconds only 1677 to 2262: they are tried last.
    stamps = [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")]
    for form in (*numbers, *stamps):
        convert = partial(pa.ChunkedArray.cast, target_type=form)
        try:
            return convert(column)
        except pa.ArrowInvalid:
            furthest = max(furthest, columns.first_failing(column, convert=convert))
    raise DataError(
        f"{file}: column '{name}' has '{column[furthest]}' in row {furthest}, which is no time; "
        "times are seconds or milliseconds since 1970 (UTC), or ISO 8601 such as 2026-01-31 23:59:00, and all "
        "rows of a column take the same form: correct the row, or take it out"
    )


def check_one_unit(forms: Sequence[tuple[Path | str, str]], *, name: str) -> None:
    """Raise DataError where one file's times are seconds and another's milliseconds."""
    first: dict[str, Path | str] = {}
    for file, form in forms:
        first.setdefault(form, file)
    if {"seconds", "milliseconds"} <= set(first):
        raise DataError(
            f"events: column '{name}' has seconds in {first['seconds']}, but milliseconds in "
            f"{first['milliseconds']}; one unit for all files: write the times the same way everywhere"
        )
