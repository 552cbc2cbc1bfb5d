"""Ranker: a model's answers for its own users, the one way that evaluation, batch and serving rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking.index import ItemIndex
from nightrank.ranking.topk import TopK

CHUNK_ROWS = 4096  # users or items ranked per call: bounds the memory of one unit of work


@dataclass(frozen=True)
class Ranker:
    """user_vectors: float32 (n_users, d). seen: CSR (n_users, n_items) to leave out, or None."""

    index: ItemIndex
    user_vectors: NDArray[np.float32]
    seen: csr_matrix | None

    def rank(self, users: slice, k: int) -> TopK:
        """The k best items of a slice of users, without what they have seen."""
        return self.index.top_k(
            self.user_vectors[users], k, exclude=None if self.seen is None else self.seen[users]
        )


def chunks(rank: Callable[[slice, int], TopK], rows: slice, k: int) -> Iterator[tuple[int, TopK]]:
    """(first row, TopK) for consecutive chunks of a slice of rows; a single empty one for an empty slice."""
    for start in range(rows.start, max(rows.stop, rows.start + 1), CHUNK_ROWS):
        yield start, rank(slice(start, min(start + CHUNK_ROWS, rows.stop)), k)
