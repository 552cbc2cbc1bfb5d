"""TopK: the one shape of a ranked answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TopK(NamedTuple):
    """The best items of n users, by score descending, then row ascending.

    item_rows: int32 (n, k), -1 beyond counts. scores: float32 (n, k), NaN beyond counts, canonical
    (nightrank.ranking.canonical). counts: int32 (n,), how many items there really are.
    """

    item_rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]

    @classmethod
    def empty(cls, n: int, k: int) -> TopK:
        """All absent: to be filled in."""
        return cls(
            item_rows=np.full((n, k), -1, dtype=np.int32),
            scores=np.full((n, k), np.nan, dtype=np.float32),
            counts=np.zeros(n, dtype=np.int32),
        )

    def rows(self, users: slice) -> TopK:
        """A view of some users' answers."""
        return TopK(self.item_rows[users], self.scores[users], self.counts[users])

    def cut(self, k: int) -> TopK:
        """The first k places of every answer: what a search for k would give, k up to the width."""
        return TopK(self.item_rows[:, :k], self.scores[:, :k], np.minimum(self.counts, np.int32(k)))
