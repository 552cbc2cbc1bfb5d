"""Features: metadata of users or items as sparse rows of numbers, the same in training and in a request.

A column is either categories, with one feature per value seen in training (a row may have several, which share a
weight of 1), or a number, one feature whose value is standardised, and cut where it is far out. What is missing has
no feature. A value that training has not seen is unknown: it says nothing, and is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from nightrank.data.attributes import Attribute, Categories, Numbers
from nightrank.data.feature_values import alike, are_booleans, are_whole, number_of, texts_of
from nightrank.data.ids import Ids, sorted_ids

if TYPE_CHECKING:
    from nightrank.data.interactions import Interactions
    from nightrank.data.metadata import Metadata, MetadataTable

# A number counts as at most so many standard deviations from the mean, wherever it comes from: one that is wrong, or
# stands for a missing value (999999), else outweighs all that a model has learned. Few distributions reach it.
MOST_DEVIATIONS = 5.0


@dataclass(frozen=True)
class FeatureColumn:
    """A column of metadata. values: the texts of its categories, sorted by UTF-8 bytes, one feature each; None for
    a number, one feature: (x - mean) / scale, cut to at most MOST_DEVIATIONS either way."""

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

    @cached_property
    def _forms(self) -> dict[str, bool]:
        """How the categories are written, which a request's text may be brought to; looked at once."""
        return {"booleans": are_booleans(self.values or ()), "whole": are_whole(self.values or ())}

    def category(self, text: str) -> str:
        """The category that a text means, or the text itself where none is."""
        return text if text in self.places else alike(text, **self._forms)

    def deviations(self, numbers: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """How many standard deviations each number is from the mean: not cut, infinite where beyond floats."""
        with np.errstate(over="ignore"):
            return np.divide(np.subtract(numbers, self.mean), self.scale)

    def standardised(self, numbers: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The weight of the feature for each number, float64."""
        return np.clip(self.deviations(numbers), -MOST_DEVIATIONS, MOST_DEVIATIONS)


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


def encoded(
    columns: Sequence[FeatureColumn], given: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[str]]:
    """Features of one row by column name: their places, int64 (n,), their values, float64 (n,), and what is unknown.

    given: a text, number, boolean, a list of them, or None. Each is read as in a table: without spaces around it;
    None, NaN, empty texts and `MISSING_TEXTS` are missing; a number may be a text, as in CSV, or a list of one; true
    and false are so in any case. unknown: the name of a column that there is not or of a number that is none, and
    name=value for a category that there is not; sorted.
    """
    places: list[int] = []
    weights: list[float] = []
    by_name = {column.name: column for column in columns}
    unknown = [name for name in given if name not in by_name]
    first = 0
    for column in columns:
        value = given.get(column.name)
        texts = texts_of(value)
        if texts and column.values is None:
            number = number_of(value)
            if number is None:
                unknown.append(column.name)
            elif not np.isnan(number):
                places.append(first)
                weights.append(float(column.standardised(number)))
        elif texts:
            texts = list(dict.fromkeys(column.category(one) for one in texts))
            known = [column.places[one] for one in texts if one in column.places]
            unknown += [f"{column.name}={one}" for one in texts if one not in column.places]
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
    return _number_column(attribute, sources, has_events=has_events)


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


def _shared(rows: NDArray[np.int64], places: NDArray[np.integer], *, shape: tuple[int, int]) -> csr_matrix:
    """Each row's features, which share a weight of 1. rows: ascending."""
    counts = np.bincount(rows, minlength=shape[0])
    weights = (1.0 / counts[rows]).astype(np.float32)
    return csr_matrix((weights, places, np.r_[0, np.cumsum(counts)]), shape=shape)


def _number_column(
    attribute: Numbers, sources: NDArray[np.int64], *, has_events: NDArray[np.bool_]
) -> tuple[FeatureColumn, csr_matrix]:
    """Standardised by what was learned. Where that is one value, or none, training cannot know what a size means, and
    no value of the column is known."""
    known = (sources >= 0) & attribute.known[sources]
    values = attribute.values[sources]
    learned = values[known & has_events]
    # Of equal numbers the deviation is not always 0, of different ones it may be: 1e-200 squared is.
    scale = float(learned.std()) if len(learned) and learned.min() < learned.max() else 0.0
    if scale == 0.0:
        return FeatureColumn(attribute.name, ()), csr_matrix((len(sources), 0), dtype=np.float32)
    column = FeatureColumn(attribute.name, None, float(learned.mean()), scale)
    standard = column.standardised(values[known]).astype(np.float32)
    ends = np.r_[0, np.cumsum(known)]
    matrix = csr_matrix((standard, np.zeros(len(standard), np.int32), ends), shape=(len(values), 1))
    return column, matrix
