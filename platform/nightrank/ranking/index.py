"""ItemIndex: the exact top-k items for user vectors.

Prepared once from item vectors, asked many times. A block of users is multiplied with the catalogue in
float32; whatever could be among the k best within the proven rounding error is scored canonically
(`nightrank.ranking.canonical`) and ordered by (score descending, row ascending). So the answer is a function
of the vectors alone: block sizes, threads and BLAS cannot change a bit of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.errors import DataError
from nightrank.ranking.canonical import canonical_scores, screening_error
from nightrank.ranking.topk import TopK

BLOCK_BYTES = 8 << 20  # of float32 scores that one thread holds: in the cache that two cores share
CANDIDATE_BYTES = 32 << 20  # of gathered vectors that one thread scores canonically at a time


class ItemIndex:
    """The catalogue, ready to be ranked.

    item_vectors: float32 (n_items, d), C-contiguous; read-only arrays and memory maps are fine.
    item_bias: float32 (n_items,) or None for zeros.
    threads: how many; None: as many as CPUs this process may run on.

    Raises DataError for another dtype or shape, values that are not finite, or threads < 1.
    """

    def __init__(
        self,
        item_vectors: NDArray[np.float32],
        item_bias: NDArray[np.float32] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        n_items = len(item_vectors)
        bias = np.zeros(n_items, dtype=np.float32) if item_bias is None else item_bias
        _check(item_vectors, name="item_vectors", n_dims=2)
        _check(bias, name="item_bias", n_dims=1)
        if len(bias) != n_items:
            raise DataError(f"item_bias has {len(bias)} entries for {n_items} items; give one per item")
        self.item_vectors = item_vectors
        self.item_bias = bias
        if threads is not None and threads < 1:
            raise DataError(f"threads is {threads}; give 1 or more, or None for the CPUs of this process")
        self.threads = _cpus() if threads is None else threads
        self._norms = np.sqrt(np.einsum("ij,ij->i", item_vectors, item_vectors, dtype=np.float64))

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """The k best items of each user: item_rows (n, k), scores (n, k), counts (n,).

        user_vectors: float32 (n, d), finite. exclude: CSR (n, n_items), stored cells are left out, whatever
        their value. allow: item rows that all users may get, or CSR (n, n_items) of each user's own.
        k may exceed what is left: counts say how many there are. O(n n_items d).

        Raises DataError for a wrong dtype or shape, values that are not finite, k < 0 or rows out of range.
        """
        _check(user_vectors, name="user_vectors", n_dims=2)
        self._check_query(user_vectors, k, exclude=exclude, allow=allow)
        if allow is not None and not isinstance(allow, csr_matrix):
            return self._within(user_vectors, k, exclude=exclude, rows=np.unique(allow).astype(np.int64))
        n_items = len(self.item_vectors)
        result = TopK.empty(len(user_vectors), k)
        if k == 0 or n_items == 0 or len(user_vectors) == 0:
            return result
        size = max(1, min(BLOCK_BYTES // (4 * n_items), -(-len(user_vectors) // self.threads)))
        starts = range(0, len(user_vectors), size)

        def rank(start: int) -> None:
            users = slice(start, min(start + size, len(user_vectors)))
            _fill(
                result.rows(users),
                self._rank_block(
                    user_vectors[users], k, exclude=_rows(exclude, users), allow=_rows(allow, users)
                ),
            )

        with threadpool_limits(limits=1, user_api="blas"):
            if self.threads == 1 or len(starts) == 1:
                for start in starts:
                    rank(start)
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    list(pool.map(rank, starts))
        return result

    def _within(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None,
        rows: NDArray[np.integer],
    ) -> TopK:
        """Rank a shared allow-list alone: the rest of the catalogue is never looked at."""
        part = ItemIndex(
            np.ascontiguousarray(self.item_vectors[rows]), self.item_bias[rows], threads=self.threads
        )
        found = part.top_k(user_vectors, k, exclude=None if exclude is None else exclude[:, rows].tocsr())
        known = found.item_rows >= 0
        found.item_rows[known] = rows[found.item_rows[known]]
        return found

    def _rank_block(
        self,
        users: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None,
        allow: csr_matrix | None,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """(user, item, score) of the answer, sorted by user, then rank."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = users @ self.item_vectors.T
            scores += self.item_bias
        norms = np.sqrt(np.einsum("ij,ij->i", users, users, dtype=np.float64))
        error = screening_error(users.shape[1]) * (
            norms * self._norms.max(initial=0.0) + np.abs(self.item_bias).max(initial=0.0)
        ) + float(np.finfo(np.float32).tiny)
        if not np.isfinite(scores).all() or not np.isfinite(error).all():
            scores, error = self._wide_scores(users), np.zeros(len(users))
        _mask(scores, exclude=exclude, allow=allow)
        least = np.full(len(users), np.finfo(scores.dtype).min)
        if k < scores.shape[1]:
            kth = np.partition(scores, -k, axis=1)[:, -k]
            with np.errstate(over="ignore"):  # below the lowest float32: everything finite is kept
                least = np.maximum(np.nextafter((kth - 2.0 * error).astype(scores.dtype), -np.inf), least)
        pair_users, pair_items = np.nonzero(scores >= least[:, None])
        exact = self._canonical(users, pair_users, pair_items)
        order = np.lexsort((pair_items, -exact, pair_users))
        pair_users, pair_items, exact = pair_users[order], pair_items[order], exact[order]
        first = np.searchsorted(pair_users, np.arange(len(users)))
        best = np.arange(len(pair_users)) - first[pair_users] < k
        return pair_users[best], pair_items[best], exact[best]

    def _canonical(
        self, users: NDArray[np.float32], pair_users: NDArray[np.intp], pair_items: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        step = max(1, CANDIDATE_BYTES // (8 * max(1, users.shape[1])))
        exact = np.empty(len(pair_users), dtype=np.float32)
        for start in range(0, len(exact), step):
            part = slice(start, start + step)
            items = pair_items[part]
            exact[part] = canonical_scores(
                users[pair_users[part]], self.item_vectors[items], self.item_bias[items]
            )
        return exact

    def _wide_scores(self, users: NDArray[np.float32]) -> NDArray[np.float64]:
        """Canonical scores of all pairs, for vectors so large that float32 products overflow."""
        n_users, n_items = len(users), len(self.item_vectors)
        pairs = np.divmod(np.arange(n_users * n_items), n_items)
        exact = self._canonical(users, *pairs).reshape(n_users, n_items)
        return np.clip(exact.astype(np.float64), -1e300, 1e300)

    def _check_query(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None,
        allow: NDArray[np.integer] | csr_matrix | None,
    ) -> None:
        n_items, width = self.item_vectors.shape
        if user_vectors.shape[1] != width:
            raise DataError(f"user_vectors have {user_vectors.shape[1]} columns, item_vectors {width}")
        if k < 0:
            raise DataError(f"k is {k}; give 0 or more")
        for name, cells in (("exclude", exclude), ("allow", allow)):
            if isinstance(cells, csr_matrix):
                if cells.shape != (len(user_vectors), n_items):
                    raise DataError(
                        f"{name} has shape {cells.shape}; expected users x items, {len(user_vectors)} x {n_items}"
                    )
            elif cells is not None:
                _check_rows(np.asarray(cells), name=name, n_items=n_items)


def _cpus() -> int:
    """How many CPUs this process may run on; all of them where the system does not say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(array: NDArray[np.generic], *, name: str, n_dims: int) -> None:
    if array.dtype != np.float32 or array.ndim != n_dims:
        raise DataError(
            f"{name} is {array.dtype} with {array.ndim} dimensions; expected float32 with {n_dims}: "
            "cast once with numpy.ascontiguousarray(x, dtype=numpy.float32)"
        )
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"{name} holds a value that is not finite, first in row {bad}; refit or drop that row"
        )


def _check_rows(rows: NDArray[np.generic], *, name: str, n_items: int) -> None:
    if name == "exclude" or (rows.size and rows.dtype.kind not in "iu"):
        expected = "csr_matrix" if name == "exclude" else "csr_matrix or integer item rows"
        raise DataError(f"{name} holds {rows.dtype} and is no scipy.sparse.csr_matrix; expected {expected}")
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < n_items:
        raise DataError(f"allow names rows outside 0..{n_items - 1}")


def _mask(scores: NDArray[np.floating], *, exclude: csr_matrix | None, allow: csr_matrix | None) -> None:
    """Set what must not be answered to -inf, in place."""
    if allow is not None:
        barred = np.ones(scores.shape, dtype=bool)
        barred[_cells(allow)] = False
        scores[barred] = -np.inf
    if exclude is not None:
        scores[_cells(exclude)] = -np.inf


def _cells(cells: csr_matrix) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    return np.repeat(np.arange(cells.shape[0]), np.diff(cells.indptr)), cells.indices


def _rows(cells: csr_matrix | None, users: slice) -> csr_matrix | None:
    return None if cells is None else cells[users]


def _fill(result: TopK, answer: Sequence[NDArray[np.generic]] | tuple[NDArray[np.intp], ...]) -> None:
    users, items, scores = answer
    counts = np.bincount(users, minlength=len(result.counts))
    places = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    result.item_rows[users, places] = items
    result.scores[users, places] = scores
    result.counts[:] = counts
