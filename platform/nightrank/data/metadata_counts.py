"""What of the metadata counts, and what does not: rows, ids without a row, values missing or unknown to training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data.attributes import Attribute, Categories
from nightrank.data.features import FeatureColumn, Features, rows_of, with_features
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, MetadataTable


@dataclass(frozen=True)
class ColumnCounts:
    """kind: categories or number. values: the distinct ones of rows with events. missing: rows with events, but no
    value. unseen: distinct categories that only rows without events have, which are no features. unique: there are
    two or more categories, and none is that of two rows with events."""

    name: str
    kind: str
    values: int
    missing: int
    unseen: int
    unique: bool


@dataclass(frozen=True)
class SideCounts:
    """rows: of the table. with_events: of those, rows whose user, or item, has events that count; without_events: the
    rest. without_row: users, or items, with events and no row, hence without features."""

    rows: int
    with_events: int
    without_events: int
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
    columns = zip(table.attributes, features.columns, strict=True)
    return SideCounts(
        rows=len(rows),
        with_events=n_rows,
        without_events=len(rows) - n_rows,
        without_row=int(np.count_nonzero(has_events)) - n_rows,
        columns=tuple(_column(attribute, column, counts=counts) for attribute, column in columns),
    )


def _column(attribute: Attribute, column: FeatureColumn, *, counts: NDArray[np.bool_]) -> ColumnCounts:
    known = attribute.known
    if column.values is not None:
        n_values = len(column.values)
    else:
        assert not isinstance(attribute, Categories)  # noqa: S101  categories have values
        n_values = _n_distinct(attribute.values[known & counts])
    if isinstance(attribute, Categories):
        n_unseen = len(attribute.values) - n_values
        n_given = int(np.diff(attribute.ends)[counts].sum())
    else:
        n_unseen = 0 if column.values is None else _n_distinct(attribute.values[known]) - n_values
        n_given = int(np.count_nonzero(known & counts))
    return ColumnCounts(
        name=attribute.name,
        kind="number" if column.values is None else "categories",
        values=n_values,
        missing=int(np.count_nonzero(counts & ~known)),
        unseen=n_unseen,
        unique=column.values is not None and 1 < n_values == n_given,
    )


def _n_distinct(values: NDArray[Any]) -> int:
    count: int = pc.count_distinct(pa.array(values)).as_py()
    return count
