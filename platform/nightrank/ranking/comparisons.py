"""Comparisons: how many other items a user's target items beat, by canonical score, over the whole catalogue.

For measures of the whole order (area under the ROC curve), which a top-k cannot answer. Every pair is scored
canonically, so ties are those of the ranking, to the bit; nothing is sorted, and nothing of users x items is kept.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.compiled import compiled, inner
from nightrank.ranking.arguments import Cells
from nightrank.ranking.canonical import canonical_key
from nightrank.ranking.index import ItemIndex
from nightrank.ranking.packing import readonly

TOGETHER = 8  # users who share one pass over the item vectors: 1.3 MB of keys for 41k items
PART = 256  # users of one unit of work
LEFT_OUT = np.int32(2**31 - 1)  # above the key of every score, so never beaten and never tied


class _Items(NamedTuple):
    """vectors, bias: of the catalogue. norms: float64, of the vectors."""

    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    norms: NDArray[np.float64]


class _Pool(NamedTuple):
    """By user; a single offset in `excluded` or `allowed` says that there are none such lists."""

    targets: Cells
    excluded: Cells
    allowed: Cells


class _Group(NamedTuple):
    """The users in hand: vectors (float64) and their norms; keys: int32 (TOGETHER, n_items), of the scores."""

    vectors: NDArray[np.float64]
    norms: NDArray[np.float64]
    keys: NDArray[np.int32]


class Comparisons(NamedTuple):
    """int64 (n,) each. wins, ties: pairs of a target and another item that it beats or ties with. others: how many
    other items the user's pool holds."""

    wins: NDArray[np.int64]
    ties: NDArray[np.int64]
    others: NDArray[np.int64]


def compare(
    index: ItemIndex,
    user_vectors: NDArray[np.float32],
    *,
    targets: csr_matrix,
    exclude: csr_matrix | None = None,
    allow: csr_matrix | None = None,
) -> Comparisons:
    """Each user's targets against the rest of the user's pool: the catalogue, or `allow`, less `exclude`.

    user_vectors: float32 (n, d). targets: CSR (n, any); targets outside the pool, or beyond the catalogue, are
    passed over, here and among the others. exclude, allow: CSR (n, n_items), stored cells count, whatever their
    value; an item in `allow` twice counts once. O(n n_items (d + targets)); with `allow`, d is paid for its cells
    alone. Memory: some rows of n_items integers per thread. Raises DataError as `ItemIndex.top_k` does.
    """
    index.check_query(user_vectors, 0, exclude=exclude, allow=allow)
    users = readonly(np.ascontiguousarray(user_vectors, dtype=np.float32))
    vectors = np.ascontiguousarray(index.item_vectors)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    items = _Items(readonly(vectors), readonly(np.ascontiguousarray(index.item_bias)), norms)
    result = Comparisons(*(np.zeros(len(users), dtype=np.int64) for _ in range(3)))
    pool = _Pool(_whole(targets), _whole(exclude), _whole(allow))

    def run(start: int) -> None:
        stop = min(start + PART, len(users))
        _compare(users, items, pool, result, start, stop)

    with ThreadPoolExecutor(index.threads) as threads:
        list(threads.map(run, range(0, len(users), PART)))
    return result


def _whole(cells: csr_matrix | None) -> Cells:
    """A single offset says that there are none."""
    if cells is None:
        return Cells(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    return Cells(cells.indptr.astype(np.int64), cells.indices.astype(np.int32))


@compiled
def _compare(
    users: NDArray[np.float32], items: _Items, pool: _Pool, result: Comparisons, start: int, stop: int
) -> None:
    """Users `start` to before `stop`, some at a time."""
    group = _Group(
        np.empty((TOGETHER, users.shape[1])),
        np.empty(TOGETHER),
        np.empty((TOGETHER, len(items.bias)), dtype=np.int32),
    )
    for first in range(start, stop, TOGETHER):
        n = min(TOGETHER, stop - first)
        for i in range(n):
            group.vectors[i] = users[first + i]
            group.norms[i] = np.sqrt((group.vectors[i] * group.vectors[i]).sum())
        if len(pool.allowed.offsets) > 1:
            _score_allowed(group, items, pool.allowed, first, n)
        else:
            for item in range(len(items.bias)):
                for i in range(n):
                    _score(group, items, i, item)
        if len(pool.excluded.offsets) > 1:
            _leave_out(group, pool.excluded, first, n)
        for i in range(n):
            _count(group.keys[i], pool.targets, first + i, result)


@inner
def _score(group: _Group, items: _Items, i: int, item: int) -> None:
    size = group.norms[i] * items.norms[item] + abs(np.float64(items.bias[item]))
    group.keys[i, item] = canonical_key(group.vectors[i], items.vectors[item], items.bias[item], size)


@inner
def _score_allowed(group: _Group, items: _Items, allowed: Cells, first: int, n: int) -> None:
    for i in range(n):
        for item in range(len(items.bias)):
            group.keys[i, item] = LEFT_OUT
        for place in range(allowed.offsets[first + i], allowed.offsets[first + i + 1]):
            _score(group, items, i, allowed.items[place])


@inner
def _leave_out(group: _Group, excluded: Cells, first: int, n: int) -> None:
    for i in range(n):
        for place in range(excluded.offsets[first + i], excluded.offsets[first + i + 1]):
            group.keys[i, excluded.items[place]] = LEFT_OUT


@compiled
def _count(keys: NDArray[np.int32], targets: Cells, user: int, result: Comparisons) -> None:
    """Take the targets out of the pool, then hold each against what is left."""
    n_items, n = len(keys), 0
    own = np.empty(targets.offsets[user + 1] - targets.offsets[user], dtype=np.int32)
    for place in range(targets.offsets[user], targets.offsets[user + 1]):
        item = targets.items[place]
        if 0 <= item < n_items and keys[item] != LEFT_OUT:
            own[n] = keys[item]
            keys[item] = LEFT_OUT
            n += 1
    left_out = np.int32(0)
    for item in range(n_items):
        left_out += np.int32(keys[item] == LEFT_OUT)
    result.others[user] = n_items - left_out
    for t in range(n):
        key, below, equal = own[t], np.int32(0), np.int32(0)
        for item in range(n_items):
            below = np.int32(below + np.int32(keys[item] < key))
            equal = np.int32(equal + np.int32(keys[item] == key))
        result.wins[user] += below
        result.ties[user] += equal
