"""What of the metadata counts, and what does not: rows, ids without a row, values missing, cut or never learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data.attributes import Attribute, Categories, Numbers
from nightrank.data.features import MOST_DEVIATIONS, FeatureColumn, Features, rows_of, with_features
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, MetadataTable


@dataclass(frozen=True)
class ColumnCounts:
    """kind: categories or number. values: the distinct ones of rows with events. missing: rows with events, but no
    value. unseen: distinct categories that only rows without events have, which are no features. cut: rows with a
    number that counts as less far from the mean than it is, among those that there is a user or item of. unique:
    there are two or more categories, and none is that of two rows with events."""

    name: str
    kind: str
    values: int
    missing: int
    unseen: int
    cut: int
    unique: bool


@dataclass(frozen=True)
class SideCounts:
    """rows: of the table. with_events: of those, rows whose user, or item, has events that count; without_events: the
    rest. nothing_known: of the rest, rows without any feature that is learned: a model can say nothing of them.
    without_row: users, or items, with events and no row, hence without features."""

    rows: int
    with_events: int
    without_events: int
    nothing_known: int
    without_row: int
    columns: tuple[ColumnCounts, ...]


@dataclass(frozen=True)
class MetadataCounts:
    """Of both sides; None where the job names no features of it."""

    users: SideCounts | None
    items: SideCounts | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a record."""
        sides = {"users": self.users, "items": self.items}
        return {
            name: None if side is None else asdict(side) | {"columns": [asdict(one) for one in side.columns]}
            for name, side in sides.items()
        }


def metadata_counts(interactions: Interactions, metadata: Metadata) -> MetadataCounts:
    """The account of what `with_features` makes of these two; where it was called already, it is not again."""
    if interactions.features is None:
        interactions = with_features(interactions, metadata)
    sides = interactions.features
    assert sides is not None  # noqa: S101  just attached
    users = np.diff(interactions.user_items.indptr) > 0
    items = interactions.item_counts > 0
    return MetadataCounts(
        users=_side(metadata.users, sides.users, ids=interactions.user_ids, has_events=users),
        items=_side(metadata.items, sides.items, ids=interactions.item_ids, has_events=items),
    )


def _side(
    table: MetadataTable | None, features: Features | None, *, ids: Ids, has_events: NDArray[np.bool_]
) -> SideCounts | None:
    if table is None or features is None:
        return None
    rows = rows_of(ids, table.ids)
    counts = (rows >= 0) & has_events[rows]  # of the table's rows: those that training learns from
    n_rows = int(np.count_nonzero(counts))
    columns = list(zip(table.attributes, features.columns, strict=True))
    is_known = np.any([_known_to_training(*one) for one in columns], axis=0)
    return SideCounts(
        rows=len(rows),
        with_events=n_rows,
        without_events=len(rows) - n_rows,
        nothing_known=int(np.count_nonzero(~counts & ~is_known)),
        without_row=int(np.count_nonzero(has_events)) - n_rows,
        columns=tuple(_column(*one, counts=counts, encoded=rows >= 0) for one in columns),
    )


def _known_to_training(attribute: Attribute, column: FeatureColumn) -> NDArray[np.bool_]:
    """Which rows of the table have a feature of the column, bool."""
    if isinstance(attribute, Numbers):
        return attribute.known & (column.n_features > 0)
    seen = np.array([value in column.places for value in attribute.values], dtype=np.bool_)
    n_seen = np.r_[0, np.cumsum(seen[attribute.codes])]
    known: NDArray[np.bool_] = n_seen[attribute.ends[1:]] > n_seen[attribute.ends[:-1]]
    return known


def _column(
    attribute: Attribute, column: FeatureColumn, *, counts: NDArray[np.bool_], encoded: NDArray[np.bool_]
) -> ColumnCounts:
    """counts: rows of the table that training learns from. encoded: those that it makes features of."""
    known = attribute.known
    n_values, n_unseen, n_cut, is_unique = 0, 0, 0, False
    if isinstance(attribute, Categories):
        n_values = len(column.places)
        n_unseen = len(attribute.values) - n_values
        is_unique = 1 < n_values == int(np.diff(attribute.ends)[counts].sum())
    else:
        n_values = pc.count_distinct(pa.array(attribute.values[known & counts])).as_py()
        if column.n_features:
            deviations = column.deviations(attribute.values[known & encoded])
            n_cut = int(np.count_nonzero(np.abs(deviations) > MOST_DEVIATIONS))
    return ColumnCounts(
        name=attribute.name,
        kind="categories" if isinstance(attribute, Categories) else "number",
        values=n_values,
        missing=int(np.count_nonzero(counts & ~known)),
        unseen=n_unseen,
        cut=n_cut,
        unique=is_unique,
    )
