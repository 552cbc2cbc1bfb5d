"""PartitionedIndex: the same answers as ItemIndex, from shares of the catalogue that are ranked side by side.

Each share is an ItemIndex over consecutive item rows. The scores are canonical, so the best of the shares' best are
the best of all, to the bit. They are merged place by place from the heads of the lists; nothing is sorted. What cuts
a query and merges answers serves shares in other processes too.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.compiled import compiled
from nightrank.errors import DataError
from nightrank.ranking.filters import check_finite, check_query, checked_items, filters_of
from nightrank.ranking.index import ItemIndex, own_cpus
from nightrank.ranking.topk import TopK


class PartitionedIndex:
    """The catalogue in `partitions` shares, ready to be ranked; otherwise as ItemIndex, errors included.

    threads: how many rank a query, the caller's among them; they are kept. None: as many as CPUs this process may run
    on. There may be more partitions than items.
    """

    def __init__(
        self,
        item_vectors: NDArray[np.float32],
        item_bias: NDArray[np.float32] | None = None,
        *,
        partitions: int,
        threads: int | None = None,
    ) -> None:
        if partitions < 1:
            raise DataError(f"partitions is {partitions}; give 1 or more")
        bias = checked_items(item_vectors, item_bias, threads=threads)
        check_finite(item_vectors, name="item_vectors")
        check_finite(bias, name="item_bias")
        self.item_vectors, self.item_bias = item_vectors, bias
        self.threads = own_cpus() if threads is None else threads
        self.bounds = share_bounds(len(bias), partitions)
        each = max(1, self.threads // partitions)
        self._shares = [
            (ItemIndex(item_vectors[first:last], bias[first:last], threads=each), first, last)
            for first, last in pairwise(self.bounds)
        ]
        self._others = min(self.threads, partitions) - 1
        self._pool = ThreadPoolExecutor(self._others, "nightrank-share") if self._others else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Prepared again where it is unpickled: CPUs differ."""
        again = partial(PartitionedIndex, partitions=len(self._shares), threads=self.threads)
        return again, (self.item_vectors, self.item_bias)

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """As ItemIndex.top_k, to the bit."""
        k = operator.index(k)
        check_query(user_vectors, k, self.item_vectors.shape, exclude=exclude, allow=allow)
        filters = filters_of(exclude, allow)
        parts = Parts(len(self._shares), len(user_vectors), min(k, len(self.item_vectors)))

        def rank(group: int) -> None:
            for place in range(group, len(self._shares), self._others + 1):
                index, first, last = self._shares[place]
                index.fill(parts.of(place), user_vectors, filters.of_share(first, last))

        others = [] if self._pool is None else [self._pool.submit(rank, 1 + n) for n in range(self._others)]
        rank(0)
        for other in others:
            other.result()
        return parts.merged(k, self.bounds)


class Parts:
    """What shares answer, to be filled in: item rows counted within each share."""

    def __init__(self, n_shares: int, n_users: int, k: int) -> None:
        self._rows = np.full((n_shares, n_users, k), -1, dtype=np.int32)
        self._scores = np.full((n_shares, n_users, k), np.nan, dtype=np.float32)
        self._counts = np.zeros((n_shares, n_users), dtype=np.int32)

    def of(self, share: int) -> TopK:
        """A view of one share's answer."""
        return TopK(self._rows[share], self._scores[share], self._counts[share])

    def merged(self, k: int, bounds: Sequence[int]) -> TopK:
        """The k best of all shares; share p has the item rows bounds[p] to bounds[p + 1]. O(users shares k)."""
        result = TopK.empty(self._rows.shape[1], k)
        starts = np.array(bounds[:-1], dtype=np.int32)
        _merge(self._rows, self._scores, self._counts, starts, *result)
        return result


def share_bounds(n_items: int, partitions: int) -> list[int]:
    """The first row of every share, and n_items: partitions + 1 bounds, sizes that differ by one at most."""
    return [n_items * share // partitions for share in range(partitions + 1)]


@compiled
def _merge(
    rows: NDArray[np.int32],
    scores: NDArray[np.float32],
    counts: NDArray[np.int32],
    starts: NDArray[np.int32],
    best_rows: NDArray[np.int32],
    best_scores: NDArray[np.float32],
    best_counts: NDArray[np.int32],
) -> None:
    """Rows ascend with the shares, so of equal scores that of the first share comes first."""
    n_shares = rows.shape[0]
    heads = np.zeros(n_shares, dtype=np.int64)
    for user in range(rows.shape[1]):
        heads[:] = 0
        for place in range(best_rows.shape[1]):
            best = -1
            for share in range(n_shares):
                if heads[share] < counts[share, user] and (
                    best < 0 or scores[share, user, heads[share]] > scores[best, user, heads[best]]
                ):
                    best = share
            if best < 0:
                break
            best_rows[user, place] = rows[best, user, heads[best]] + starts[best]
            best_scores[user, place] = scores[best, user, heads[best]]
            best_counts[user] += 1
            heads[best] += 1
