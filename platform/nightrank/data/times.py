"""Times as the caller's files hold them, to whole seconds UTC.

Numbers are seconds or milliseconds since 1970, decided for the whole column by magnitude: all values up to
1e11 are seconds, all values beyond are milliseconds; a column (or a set of files) with both is refused, as are
micro- and nanoseconds, gaps and texts that are no time. Nothing is guessed row by row. Vectorised throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns
from nightrank.data.columns import Place
from nightrank.data.formats import is_csv
from nightrank.data.ids import STRING
from nightrank.errors import DataError

MAX_S = 1e11  # the year 5138; as milliseconds, the year 1973
_MAX_MS = MAX_S * 1_000
_MAX_NS_S = 2**63 // 10**9  # nanoseconds reach from 1677 to 2262 only
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NUMBERS = pa.float64()
# Microseconds reach every year: nanoseconds are tried after them.
_STAMPS = [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")]


class TimeColumn:
    """The times of one file, part by part: what the first part is, every other has to be.

    form: seconds, milliseconds or datetimes, as found; None before the first part.
    """

    def __init__(self) -> None:
        self.form: str | None = None
        self._types: Sequence[pa.DataType] = []  # those that can still read all texts of the column
        self._first: dict[str, tuple[str, int]] = {}  # form of numbers to the first value in it and its row

    def seconds(self, column: pa.ChunkedArray, *, at: Place) -> NDArray[np.int64]:
        """The part's times, int64 UTC, fractions dropped (downwards); a timestamp without a zone is UTC.

        Raises DataError on what is missing, no time, a mixture of seconds and milliseconds, or finer than those.
        """
        cure = "give the row a time, or take it out, or leave the time column out of the job file"
        columns.refuse_nulls(column, at=at, cure=cure)
        if columns.is_text(column.type):
            columns.refuse_line_breaks(column, at=at)
        values = self._parsed(column, at=at) if columns.is_text(column.type) else column
        kind = values.type
        if pa.types.is_date(kind):
            values, kind = values.cast(pa.timestamp("ms")), pa.timestamp("ms")
        if pa.types.is_timestamp(kind):
            self.form = "datetimes"
            found: NDArray[np.int64] = values.cast(pa.int64()).to_numpy() // _PER_SECOND[kind.unit]
            self._settle_unit(found, kind)
            return found
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DataError(
                f"{at} holds times of type {kind}; times are seconds or milliseconds since 1970 (UTC), timestamps, "
                "or ISO 8601 texts: cast the column where it is written"
            )
        return self._from_numbers(values.to_numpy(), column, at=at)

    def _from_numbers(self, values: NDArray[Any], raw: pa.ChunkedArray, *, at: Place) -> NDArray[np.int64]:
        size = np.abs(values.astype(np.float64))
        columns.refuse(
            raw,
            pa.array(~(size <= _MAX_MS)),  # NaN is wrong too
            at=at,
            again=lambda later, there: pa.array(~(self._sizes(later, there) <= _MAX_MS)),
            say="has the time {value} in row {row} ({count} such rows); times are seconds or milliseconds since 1970 "
            "(UTC), and larger values look like micro- or nanoseconds: divide them by 1,000 or 1,000,000 where the "
            "column is written",
        )
        is_ms = size > MAX_S
        for form, mask in (("seconds", ~is_ms), ("milliseconds", is_ms)):
            if form not in self._first and mask.any():
                row = int(np.argmax(mask))
                self._first[form] = (str(raw[row]), at.row + row)
        if len(self._first) > 1:
            self._refuse_mixture(is_ms, at=at)
        (self.form,) = self._first
        if self.form == "seconds":
            found: NDArray[np.int64] = np.floor(values).astype(np.int64)
        else:
            found = np.floor_divide(values, 1_000).astype(np.int64)
        return found

    def _refuse_mixture(self, is_ms: NDArray[np.bool_], *, at: Place) -> None:
        count = int(is_ms.sum()) + (at.row if self.form == "milliseconds" else 0)  # all rows before were
        count += sum(int((self._sizes(later, there) > MAX_S).sum()) for there, later in at.rest())
        (value, row), (other, other_row) = self._first["milliseconds"], self._first["seconds"]
        raise DataError(
            f"{at} has the time {value} in row {row} ({count} such rows), which looks like milliseconds, and "
            f"{other} in row {other_row}, which looks like seconds; one unit for the whole column: write all of them "
            "in seconds, or all in milliseconds"
        )

    def _sizes(self, column: pa.ChunkedArray, at: Place) -> NDArray[np.float64]:
        """Magnitudes of a later part of a column of numbers, to count what is wrong there; 0 for no value."""
        values = self._parsed(column, at=at) if columns.is_text(column.type) else column
        sizes: NDArray[np.float64] = np.abs(pc.fill_null(values, 0).to_numpy().astype(np.float64))
        return sizes

    def _parsed(self, column: pa.ChunkedArray, *, at: Place) -> pa.ChunkedArray:
        """Text as timestamps, in CSV also as float64: the first form that reads every row so far."""
        column = pc.utf8_trim_whitespace(column.cast(STRING))
        furthest = 0
        # Where numbers have a type of their own, texts are ISO.
        for form in self._types or ([_NUMBERS, *_STAMPS] if is_csv(at.file) else _STAMPS):
            convert = partial(pa.ChunkedArray.cast, target_type=form)
            try:
                values = convert(column)
            except pa.ArrowInvalid:
                furthest = max(furthest, columns.first_failing(column, convert=convert))
                continue
            if not self._types:
                self._types = [kind for kind in (_NUMBERS, *_STAMPS) if _is_alike(kind, form)]
            return values
        raise DataError(
            f"{at} has '{column[furthest]}' in row {at.row + furthest}, which is no time; "
            "times are seconds or milliseconds since 1970 (UTC), or ISO 8601 such as 2026-01-31 23:59:00, and all "
            "rows of a column take the same form: correct the row, or take it out"
        )

    def _settle_unit(self, seconds: NDArray[np.int64], kind: pa.DataType) -> None:
        """Once texts needed nanoseconds, or years beyond them, the other unit cannot read the whole column."""
        if kind.unit == "ns" or (seconds.size and np.abs(seconds).max() >= _MAX_NS_S):
            self._types = [form for form in self._types if form == kind]


def _is_alike(kind: pa.DataType, form: pa.DataType) -> bool:
    """Both numbers, or both timestamps with a zone, or both without; a column never mixes them."""
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(form):
        return bool(kind.tz == form.tz)
    return bool(kind == form)


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
