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
    rows: list[NDArray[np.int64]] = []
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


def _groups(item_ids: Ids, items: pa.Table | None) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
    yield None, np.arange(len(item_ids))
    if items is None or "categories" not in items.column_names:
        return
    rows = item_ids.rows_of(items["item"])
    lists = items["categories"].combine_chunks()
    names = lists.flatten()
    owners = rows[lists.value_parent_indices().to_numpy()]
    encoded = names.dictionary_encode()
    codes = encoded.indices.to_numpy()
    for name, code in sorted((name, code) for code, name in enumerate(encoded.dictionary.to_pylist())):
        members = np.unique(owners[codes == code])
        members = members[members >= 0]
        if len(members):
            yield name, members
