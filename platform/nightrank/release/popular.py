"""The most popular items, over all and by category: the answer for users whom nobody knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.ids import Ids


def popular_batch(
    item_ids: Ids, popularity: NDArray[np.int64], *, items: pa.Table | None, k: int, schema: pa.Schema
) -> pa.RecordBatch:
    """The k items of each category with the most users (ties by row), and over all (category null, first).

    popularity: users per item, int64 (n_items,). items: the item table (item, categories), if there is one.
    """
    categories: list[str | None] = []
    rows: list[NDArray[np.int32]] = []
    for category, members in _groups(item_ids, items):
        order = np.lexsort((members, -popularity[members]))[:k]
        rows.append(members[order])
        categories += [category] * len(order)
    chosen = np.concatenate(rows)
    ranks = np.concatenate([np.arange(1, len(part) + 1, dtype=np.int32) for part in rows])
    return pa.RecordBatch.from_arrays(
        [
            pa.array(categories, pa.string()),
            pa.array(ranks),
            item_ids.take(chosen),
            pa.array(popularity[chosen].astype(np.float32)),
        ],
        schema=schema,
    )


def _groups(item_ids: Ids, items: pa.Table | None) -> Iterator[tuple[str | None, NDArray[np.int32]]]:
    yield None, np.arange(len(item_ids), dtype=np.int32)
    if items is not None:
        yield from rows_by_category(item_ids, items).items()


def rows_by_category(item_ids: Ids, items: pa.Table) -> dict[str, NDArray[np.int32]]:
    """The item rows of every category that one of them has, ascending, by name.

    items: the table that is published (its first column is the item's id), with a list column `categories` or
    without. Items that have no row are left out.
    """
    if "categories" not in items.column_names:
        return {}
    rows = item_ids.rows_of(items.column(0))
    lists = items["categories"].combine_chunks()
    names = lists.flatten()
    owners = rows[lists.value_parent_indices().to_numpy()]
    encoded = names.dictionary_encode()
    codes = encoded.indices.to_numpy()
    known, n = owners >= 0, len(item_ids)
    cells = np.unique(codes[known].astype(np.int64) * n + owners[known])
    bounds = np.searchsorted(cells, n * np.arange(len(encoded.dictionary) + 1))
    members = {
        name: (cells[bounds[code] : bounds[code + 1]] - n * code).astype(np.int32)
        for code, name in enumerate(encoded.dictionary.to_pylist())
    }
    return {name: members[name] for name in sorted(members) if len(members[name])}
