"""Features: metadata of users or items as sparse rows of numbers, the same in training and in a request.

A column is either categories, with one feature per value seen in training (a row may have several, which share a
weight of 1), or a number, one feature whose value is standardised. What is missing has no feature. A value that
training has not seen is unknown: it says nothing, and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from nightrank.data.attributes import FLOAT32_MAX, Attribute, Categories
from nightrank.data.ids import Ids, sorted_ids

if TYPE_CHECKING:
    from nightrank.data.interactions import Interactions
    from nightrank.data.metadata import Metadata, MetadataTable

# Whole numbers with more distinct values measure something, with fewer they name it: ages in bands, ratings, codes.
MOST_WHOLE = 64


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
            weights += [1.0 / len(known) for _ in known]
        first += column.n_features
    return np.array(places, np.int64), np.array(weights, np.float64), sorted(unknown)


def with_features(interactions: Interactions, metadata: Metadata) -> Interactions:
    """The interactions with the features of their users and items attached, row by row.

    The catalogue grows by the rows of the items' table that have no interaction, where items have features. What a
    category or a number means is learned from rows with an interaction alone: the vocabulary, the mean and the scale.
    A user or item without a row in its table has no features; rows of users without an interaction are not looked at.
    Pure; linear in rows and values, but for sorting ids that are new.
    """
    if metadata.items is not None:
        interactions = _with_catalogue(interactions, metadata.items.ids)
    sides = (
        (metadata.users, interactions.user_ids, np.diff(interactions.user_items.indptr) > 0),
        (metadata.items, interactions.item_ids, interactions.item_counts > 0),
    )
    users, items = (
        None if table is None else _features(table, ids, has_events=has_events)
        for table, ids, has_events in sides
    )
    return replace(interactions, features=SideFeatures(users=users, items=items))


def rows_of(ids: Ids, given: pa.ChunkedArray) -> NDArray[np.int64]:
    """The rows of the given ids, -1 where one is not here, as `Ids.rows_of`; ids: in one segment, so sorted.

    Integers are merged in order: for 5M of them a hash table takes 1 GB, and longer.
    """
    if not ids.is_int or len(ids) == 0:
        return ids.rows_of(given)
    known, values = ids.array.to_numpy(), given.to_numpy()
    order = np.argsort(values)
    wanted = values[order]
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    rows = np.empty(len(values), dtype=np.int64)
    rows[order] = np.where(known[places] == wanted, places, -1)
    return rows


def _with_catalogue(interactions: Interactions, ids: pa.ChunkedArray) -> Interactions:
    """The same interactions in a catalogue that holds these ids too."""
    known = interactions.item_ids
    new = ids.filter(pa.array(rows_of(known, ids) < 0))
    if len(new) == 0:
        return interactions
    merged = pa.chunked_array([known.array, *new.cast(known.array.type).chunks]).combine_chunks()
    item_ids, rows = sorted_ids(merged)
    matrix = interactions.user_items
    # Rows keep their order among themselves, so the indices of a user stay sorted.
    indices = rows[: len(known)][matrix.indices]
    grown = csr_matrix((matrix.data, indices, matrix.indptr), shape=(matrix.shape[0], len(item_ids)))
    return replace(interactions, item_ids=item_ids, user_items=grown, by_item=None, features=None)


def _features(table: MetadataTable, ids: Ids, *, has_events: NDArray[np.bool_]) -> Features:
    """The rows of `ids` with what the table says; learned from those that have events."""
    rows = rows_of(ids, table.ids)
    sources = np.full(len(ids), -1, dtype=np.int64)
    sources[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    blocks = [_encoded_column(one, sources, has_events=has_events) for one in table.attributes]
    matrix = hstack([block for _, block in blocks], format="csr", dtype=np.float32)
    matrix.sort_indices()
    return Features(matrix=matrix, columns=tuple(column for column, _ in blocks))


def _encoded_column(
    attribute: Attribute, sources: NDArray[np.int64], *, has_events: NDArray[np.bool_]
) -> tuple[FeatureColumn, csr_matrix]:
    """One column, and its features of every row, CSR float32. sources: the row of the table, -1 for none."""
    if isinstance(attribute, Categories):
        return _category_column(attribute, sources, has_events=has_events)
    known = (sources >= 0) & attribute.known[sources]
    values = attribute.values[sources]
    learned = values[known & has_events]
    if len(learned) == 0:  # training cannot know what its size means: no value of it is known
        return FeatureColumn(attribute.name, ()), csr_matrix((len(sources), 0), dtype=np.float32)
    distinct = np.sort(pc.unique(pa.array(learned)).to_numpy()) if learned.dtype == np.int64 else learned
    if learned.dtype == np.int64 and len(distinct) <= MOST_WHOLE:
        return _whole_column(attribute.name, values, known=known, distinct=distinct)
    return _number_column(attribute.name, values, known=known, learned=learned)


def _category_column(
    attribute: Categories, sources: NDArray[np.int64], *, has_events: NDArray[np.bool_]
) -> tuple[FeatureColumn, csr_matrix]:
    lengths, codes = attribute.of(sources)
    seen = np.zeros(len(attribute.values), dtype=np.bool_)
    seen[codes[np.repeat(has_events, lengths)]] = True
    kept = seen[codes]
    rows = np.repeat(np.arange(len(sources)), lengths)[kept]
    places = (np.cumsum(seen) - 1)[codes[kept]]
    values = tuple(compress(attribute.values, seen.tolist()))
    return FeatureColumn(attribute.name, values), _shared(rows, places, shape=(len(sources), len(values)))


def _whole_column(
    name: str, values: NDArray[Any], *, known: NDArray[np.bool_], distinct: NDArray[Any]
) -> tuple[FeatureColumn, csr_matrix]:
    """Whole numbers that name rather than measure, as categories; the order is that of their texts."""
    texts = [str(value) for value in distinct.tolist()]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    place_of = np.empty(len(texts), dtype=np.int64)
    place_of[order] = np.arange(len(texts))
    found = np.minimum(np.searchsorted(distinct, values), len(texts) - 1)
    rows = np.flatnonzero(known & (distinct[found] == values))
    matrix = _shared(rows, place_of[found[rows]], shape=(len(values), len(texts)))
    return FeatureColumn(name, tuple(texts[place] for place in order)), matrix


def _shared(rows: NDArray[np.int64], places: NDArray[np.integer], *, shape: tuple[int, int]) -> csr_matrix:
    """Each row's features, which share a weight of 1. rows: ascending."""
    counts = np.bincount(rows, minlength=shape[0])
    weights = (1.0 / counts[rows]).astype(np.float32)
    return csr_matrix((weights, places, np.r_[0, np.cumsum(counts)]), shape=shape)


def _number_column(
    name: str,
    values: NDArray[Any],
    *,
    known: NDArray[np.bool_],
    learned: NDArray[Any],
) -> tuple[FeatureColumn, csr_matrix]:
    """Standardised by what was learned; a column of one value, which says nothing, is 0 there."""
    is_constant = bool(learned.min() == learned.max())
    mean = float(learned[0]) if is_constant else float(learned.mean(dtype=np.float64))
    spread = 0.0 if is_constant else float(learned.std(dtype=np.float64))
    scale = spread if spread > 0 else 1.0
    standard = np.clip((values[known] - mean) / scale, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
    ends = np.r_[0, np.cumsum(known)]
    matrix = csr_matrix((standard, np.zeros(len(standard), np.int32), ends), shape=(len(values), 1))
    return FeatureColumn(name, None, mean, scale), matrix
