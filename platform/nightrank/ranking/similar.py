"""Similar items by cosine of their vectors, through the same engine. The bias plays no part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking.index import ItemIndex
from nightrank.ranking.topk import TopK


class SimilarItems:
    """item_vectors: float32 (n_items, d). An item whose vector is zero has no direction: its list is empty
    and it is in nobody's list."""

    def __init__(self, item_vectors: NDArray[np.float32], *, threads: int | None = None) -> None:
        units = unit_rows(item_vectors)
        self._rows = np.flatnonzero(units.any(axis=1))
        self._positions = np.full(len(units), -1, dtype=np.int64)
        self._positions[self._rows] = np.arange(len(self._rows))
        self._units = units[self._rows]
        self._index = ItemIndex(self._units, threads=threads)

    def rank(self, items: slice, k: int) -> TopK:
        """The k items closest to each of a slice of items, without itself; scores are cosines."""
        positions = self._positions[items]
        present = positions >= 0
        asked = positions[present]
        itself = csr_matrix(
            (np.ones(len(asked), dtype=np.float32), asked, np.arange(len(asked) + 1)),
            shape=(len(asked), len(self._rows)),
        )
        found = self._index.top_k(self._units[asked], k, exclude=itself)
        known = found.item_rows >= 0
        found.item_rows[known] = self._rows[found.item_rows[known]]
        result = TopK.empty(len(positions), k)
        for whole, part in zip(result, found, strict=True):
            whole[present] = part
        return result


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1 (float64 norm, summed in column order, so equal on every CPU; rounded once);
    zero rows stay zero."""
    squares = np.zeros(len(vectors), dtype=np.float64)
    for column in range(vectors.shape[1]):
        squares += np.square(vectors[:, column], dtype=np.float64)
    norms = np.sqrt(squares)
    norms[norms == 0] = 1.0
    result: NDArray[np.float32] = (vectors / norms[:, None]).astype(np.float32)
    return result
