"""Columns of metadata, typed: categories as codes, and numbers. `attribute_reading` makes them, `features` learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)

# What exports write for a missing value: of what pandas reads so, the spellings that are no word of their own (NA is
# Namibia, and North America), and the \N of MySQL and Hive. Who means a category by it writes `none`.
MISSING_TEXTS = ("NaN", "nan", "null", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", "\\N")


@dataclass(frozen=True)
class Misfits:
    """Texts that read as no number in a column where nearly all do. rows: how many; known: of how many with a value.
    first: the first of them, in `row` of `file`, counted from 0."""

    rows: int
    known: int
    first: str
    file: Path
    row: int


@dataclass(frozen=True)
class Categories:
    """A column of categories.

    values: the distinct ones, sorted by UTF-8 bytes. ends: int64 (n_rows + 1,), the bounds of each row in codes.
    codes: int32 places in `values`, ascending within a row and each once. misfits: where it may be meant as numbers.
    """

    name: str
    values: tuple[str, ...]
    ends: NDArray[np.int64]
    codes: NDArray[np.int32]
    misfits: Misfits | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a value, bool (n_rows,)."""
        return np.diff(self.ends) > 0

    def of(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """How many codes each of these rows has, int64, and the codes one after the other; -1 is a row of none."""
        begins, sizes = np.r_[self.ends[:-1], 0], np.r_[np.diff(self.ends), 0]
        lengths = sizes[rows]
        if sizes.max() <= 1:  # the plain case needs none of the arrays below
            return lengths, self.codes[begins[rows[lengths > 0]]]
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(begins[rows] - ends + lengths, lengths)
        return lengths, self.codes[places]


@dataclass(frozen=True)
class Numbers:
    """A column of numbers. values: float64 (n_rows,), within float32, 0 where unknown. known: bool (n_rows,)."""

    name: str
    values: NDArray[np.float64]
    known: NDArray[np.bool_]


Attribute: TypeAlias = Categories | Numbers
