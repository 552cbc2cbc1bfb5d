"""Features: metadata of users or items as sparse rows of numbers, the same in training and in a request.

A column is either categories, with one feature per value seen in training (a row may have several, which share a
weight of 1), or a number, one feature whose value is standardised. What is missing has no feature. A value that
training has not seen is unknown: it says nothing, and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class FeatureColumn:
    """A column of metadata. values: the texts of its categories, sorted by UTF-8 bytes, one feature each; None for a
    number, the one feature (x - mean) / scale."""

    name: str
    values: tuple[str, ...] | None
    mean: float = 0.0
    scale: float = 1.0

    @property
    def n_features(self) -> int:
        """How many features it has."""
        return 1 if self.values is None else len(self.values)

    @cached_property
    def places(self) -> dict[str, int]:
        """The feature of every category, counted from the column's first."""
        return {value: place for place, value in enumerate(self.values or ())}


@dataclass(frozen=True)
class Features:
    """Of users or of items. matrix: CSR float32 (n_rows, n_features), finite, sorted; features in the order of the
    columns, each column's together."""

    matrix: csr_matrix
    columns: tuple[FeatureColumn, ...]


@dataclass(frozen=True)
class SideFeatures:
    """What is known of users and of items beside events; None where the job names no features of that side."""

    users: Features | None = None
    items: Features | None = None


def category_text(value: str | int | float | bool) -> str:
    """A value as the text of a category: true and false, whole numbers without a point, texts as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def encoded(
    columns: Sequence[FeatureColumn], given: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Features of one row by column name: their places, int64 (n,), their values, float64 (n,), and what is unknown.

    given: a text, number, boolean, a list of them, or None (missing). unknown: the name of a column that there is not
    or of a number that is none, and name=value for a category that there is not; sorted.
    """
    places: list[int] = []
    weights: list[float] = []
    by_name = {column.name: column for column in columns}
    unknown = [name for name in given if name not in by_name]
    first = 0
    for column in columns:
        value = given.get(column.name)
        if value is not None and column.values is None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                unknown.append(column.name)
            else:
                places.append(first)
                weights.append((float(value) - column.mean) / column.scale)
        elif value is not None:
            texts = [category_text(one) for one in (value if isinstance(value, list) else [value])]
            known = [column.places[one] for one in dict.fromkeys(texts) if one in column.places]
            unknown += [f"{column.name}={one}" for one in dict.fromkeys(texts) if one not in column.places]
            places += [first + place for place in known]
            weights += [1.0 / len(known)] * len(known)
        first += column.n_features
    return np.array(places, np.int64), np.array(weights, np.float64), sorted(unknown)
