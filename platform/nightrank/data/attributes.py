"""Columns of metadata, typed: categories as codes, and numbers. `attribute_reading` makes them, `features` learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Categories:
    """A column of categories.

    values: the distinct ones, sorted by UTF-8 bytes. ends: int64 (n_rows + 1,), the bounds of each row in codes.
    codes: int32 places in `values`, ascending within a row and each once.
    """

    name: str
    values: tuple[str, ...]
    ends: NDArray[np.int64]
    codes: NDArray[np.int32]

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
    """A column of numbers. values: (n_rows,) int64 where all are whole, else float64; finite where known, else 0.
    known: which rows have a value, bool (n_rows,)."""

    name: str
    values: NDArray[Any]
    known: NDArray[np.bool_]


Attribute: TypeAlias = Categories | Numbers
