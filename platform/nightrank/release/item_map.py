"""The map of a release's items: the points of their vectors on a plane, with what a reader needs to know them by.

Items without a vector have no place on it and are counted, never drawn somewhere. Nothing here draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.data.ids import Id
from nightrank.errors import DataError, ReleaseError
from nightrank.ranking.layout import OnIteration, flat_layout
from nightrank.release.reader import Release


@dataclass(frozen=True)
class MappedItem:
    """One item: its place, from -1 to 1 both ways, title (its id as text where it has none), categories, users."""

    x: float
    y: float
    item_id: Id
    title: str
    categories: tuple[str, ...]
    users: int


@dataclass(frozen=True)
class ItemMap:
    """items: the ones with the most users first. n_items: of the catalogue. n_without: those that have no vector."""

    release: str
    family: str
    items: tuple[MappedItem, ...]
    n_items: int
    n_without: int


def item_map(release: Release, *, n: int, on_iteration: OnIteration | None = None) -> ItemMap:
    """The map of the n items with the most users (ties by row) that have a vector; seeded by the model's own seed.

    Raises DataError where no item has one (a model without vectors), ReleaseError for a damaged release.
    """
    model = release.model
    has_vector = np.count_nonzero(model.item_vectors, axis=1) > 0
    ordered = release.by_popularity
    rows = ordered[has_vector[ordered]][:n]
    if not len(rows):
        raise DataError(
            f"release {release.id} ({model.card.family}) has no item with a vector, so there is nothing to map; "
            "expected a model with factors"
        )
    points = flat_layout(model.item_vectors[rows], seed=model.card.seed, on_iteration=on_iteration)
    categories = _categories(release, rows)
    return ItemMap(
        release=release.id,
        family=model.card.family,
        items=tuple(
            MappedItem(
                x=float(x),
                y=float(y),
                item_id=model.item_ids[row],
                title=release.title(row) or str(model.item_ids[row]),
                categories=() if categories is None else categories[place],
                users=int(model.popularity[row]),
            )
            for place, (row, (x, y)) in enumerate(zip(rows.tolist(), points, strict=True))
        ),
        n_items=model.card.n_items,
        n_without=int(model.card.n_items - has_vector.sum()),
    )


def _categories(release: Release, rows: NDArray[np.int32]) -> list[tuple[str, ...]] | None:
    """Of each of these items, in the order of its own row in items.parquet; None where the release has none."""
    if "items.parquet" not in release.manifest.files:
        return None
    try:
        table = pq.read_table(release.files.path("items.parquet"))
        if "categories" not in table.column_names:
            return None
        places = np.full(release.model.card.n_items, -1)
        owners = release.model.item_ids.rows_of(table.column(0))
        places[owners[owners >= 0]] = np.flatnonzero(owners >= 0)
        wanted = places[rows]
        lists = table["categories"].take(pa.array(np.maximum(wanted, 0))).to_pylist() if len(table) else []
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ReleaseError(
            f"release {release.id} is damaged: items.parquet cannot be read ({type(error).__name__}); "
            "`nightrank releases verify` names all that is wrong with it"
        ) from None
    if not lists:
        return [()] * len(rows)
    return [
        tuple(dict.fromkeys(found or ())) if place >= 0 else ()
        for place, found in zip(wanted.tolist(), lists, strict=True)
    ]
