"""Who is ranked, over what: the lists and whole orders of an evaluation, in chunks of users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.quality.rank_auc import rank_auc
from nightrank.ranking import ItemIndex, TopK
from nightrank.ranking.ranker import CHUNK_ROWS

CHUNK_PLACES = 1 << 22  # of lists that are held at a time, where k is large: 32 MB

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """users: int64 (n,), the rows to rank, of user_vectors (float32), seen and candidates (CSR, n_users x n_items).

    Ranked is the catalogue less what the user has seen; or, where they are given, exactly the user's candidates,
    seen or not.
    """

    index: ItemIndex
    user_vectors: NDArray[np.float32]
    users: Rows
    seen: csr_matrix
    candidates: csr_matrix | None = None

    def top_k(self, k: int) -> Iterator[tuple[Rows, TopK]]:
        """The rows of each chunk of users, and their first k; k >= 1."""
        for users in self._chunks(min(CHUNK_ROWS, max(1, CHUNK_PLACES // k))):
            vectors = self.user_vectors[users]
            if self.candidates is None:
                yield users, self.index.top_k(vectors, k, exclude=self.seen[users])
            else:
                yield users, self.index.top_k(vectors, k, allow=self.candidates[users])

    def rank_auc(self, truth: csr_matrix) -> Iterator[tuple[Rows, NDArray[np.float64]]]:
        """The rows of each chunk of users, and their rank_auc. truth: CSR (n_users, any)."""
        for users in self._chunks(CHUNK_ROWS):
            yield (
                users,
                rank_auc(
                    self.index,
                    self.user_vectors[users],
                    truth=truth[users],
                    seen=self.seen[users],
                    candidates=None if self.candidates is None else self.candidates[users],
                ),
            )

    def _chunks(self, size: int) -> Iterator[Rows]:
        for start in range(0, len(self.users), size):
            yield self.users[start : start + size]
