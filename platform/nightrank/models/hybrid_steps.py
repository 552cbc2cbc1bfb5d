"""Compiled: the steps of hybrid, a batch of drawn pairs at a time, in two phases that any number of threads shares.

`choose`: for some pairs (user, positive item) of a batch, each with a random stream of its own, a negative item and
how hard to pull the two apart, all by the vectors as they are when the batch begins. `pull`: the pairs' steps, one
after the other, in some of the columns. No column has a say in another's step, so threads that share the columns,
like threads that share the pairs before, give the bits of one thread. A batch of one pair is plain stochastic
gradient descent.

Rates are adaptive by coordinate (AdaGrad: Duchi, Hazan, Singer 2011): a slope s adds s^2 to the coordinate's sum of
squares, and moves it by rate * s / sqrt(sum). Sums start at 1, as in Kula's LightFM, or more: the first steps of a
rare feature are as small as its slopes, where a start at 0 would make them `rate` long whatever was learned. A
feature that both items have with the same value has no slope, and is not touched.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled, inlined, reordered

Floats = NDArray[np.float32]

NONE = -1
MARGIN = np.float32(1.0)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Side(NamedTuple):
    """The features of users or of items, as in a CSR with sorted columns: those of row i from offsets[i] (int64) to
    offsets[i + 1] of features (int32) and values (float32)."""

    offsets: NDArray[np.int64]
    features: NDArray[np.int32]
    values: Floats


class Table(NamedTuple):
    """vectors: float32 (n_features, width), improved in place, and squares, of the same shape, their AdaGrad sums.
    The width is d for users and d + 1 for items: the last column of items is the bias, beside a 1 in every user."""

    vectors: Floats
    squares: Floats


class Pairs(NamedTuple):
    """What is observed. offsets: int64 (n_users + 1,), items: int32 (nnz,), as in a CSR with sorted columns; users:
    int32 (nnz,), weights: float32 (nnz,). order: the pairs of an epoch as they are drawn, the only one written to.
    pool: int32, the items that a negative is drawn from, uniformly."""

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    users: NDArray[np.int32]
    weights: Floats
    order: NDArray[np.integer]
    pool: NDArray[np.int32]


class Batch(NamedTuple):
    """What `choose` leaves of a batch's pairs. negatives: int32, an item's row or NONE. pulls, losses: float32."""

    negatives: NDArray[np.int32]
    pulls: Floats
    losses: Floats


class Task(NamedTuple):
    """All that the steps read and write. rank_weights: float32, of a WARP step by the number of draws that it took,
    from 1; as many draws are made at most, for BPR too. is_warp: else BPR. n_most: features of an item at most."""

    users: Side
    items: Side
    user_table: Table
    item_table: Table
    pairs: Pairs
    batch: Batch
    rank_weights: Floats
    is_warp: bool
    n_most: int
    rate: np.float32
    reg: np.float32


class Memory(NamedTuple):
    """A thread's own. user, gap: (width,), the user and the positive less the negative item. features, values: what
    the two items differ in."""

    user: Floats
    gap: Floats
    features: NDArray[np.int32]
    values: Floats


@inlined
def mixed(state: np.uint64) -> np.uint64:
    """64 random bits of a counter: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@inlined
def below(bits: np.uint64, n: int) -> np.int64:
    """A number from 0 to n - 1, n < 2^32, of 64 random bits."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@compiled
def draw(weights: Floats, order: NDArray[np.integer], key: np.uint64) -> None:
    """Fill `order` with pairs, as many as there are, each in proportion to its weight, in random order.

    Systematic sampling: n w / (sum of w) times, rounded up or down; with equal weights every pair exactly once.
    weights: float32 (n,), above 0. order: (n,), of integers.
    """
    n, total, is_equal = weights.shape[0], 0.0, True
    for pair in range(n):
        total += np.float64(weights[pair])
        is_equal &= weights[pair] == weights[0]
    first = np.float64(mixed(key) >> np.uint64(11)) * 2.0**-53
    pair, reached = 0, np.float64(weights[0])
    for place in range(n):
        wanted = (np.float64(place) + first) / n * total
        while not is_equal and reached < wanted and pair < n - 1:
            pair += 1
            reached += np.float64(weights[pair])
        order[place] = place if is_equal else pair
    for place in range(n - 1, 0, -1):
        other = below(mixed(key + np.uint64(place) * _GOLDEN), place + 1)
        order[place], order[other] = order[other], order[place]


@compiled
def choose(task: Task, key: np.uint64, start: int, first: int, last: int) -> None:
    """Pairs first to last of the batch that begins at `start` of the order: their negatives, pulls and losses."""
    user = np.empty(task.item_table.vectors.shape[1], dtype=np.float32)
    for place in range(first, last):
        _choose(task, user, place, task.pairs.order[start + place], key + np.uint64(start + place) * _GOLDEN)


@inlined
def _choose(task: Task, vector: Floats, place: int, pair: int, key: np.uint64) -> None:
    pairs, batch = task.pairs, task.batch
    user, n = pairs.users[pair], pairs.pool.shape[0]
    d = task.user_table.vectors.shape[1]
    _sum(task.users, task.user_table.vectors, user, 0, vector[:d])
    vector[d] = np.float32(1.0)
    own = _score(task.items, task.item_table.vectors, pairs.items[pair], vector)
    batch.negatives[place] = NONE
    batch.losses[place] = np.float32(0.0)
    state = mixed(key)
    for n_draws in range(1, task.rank_weights.shape[0] + 1):
        state += _GOLDEN
        item = pairs.pool[below(mixed(state), n)]
        gap = own - _score(task.items, task.item_table.vectors, item, vector)
        if task.is_warp and gap >= MARGIN:
            continue
        if _holds(pairs.items[pairs.offsets[user] : pairs.offsets[user + 1]], item):
            continue
        batch.negatives[place] = item
        if task.is_warp:
            batch.pulls[place] = task.rank_weights[n_draws - 1]
            batch.losses[place] = task.rank_weights[n_draws - 1] * (MARGIN - gap)
        else:
            batch.pulls[place] = 1.0 / (1.0 + math.exp(gap))
            batch.losses[place] = max(-gap, np.float32(0.0)) + math.log1p(math.exp(-abs(gap)))
        return


@inlined
def _holds(items: NDArray[np.int32], item: int) -> bool:
    """Is the item among sorted items?"""
    low, high = 0, items.shape[0]
    while low < high:
        middle = (low + high) // 2
        if items[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < items.shape[0] and bool(items[low] == item)


@inlined
def _sum(side: Side, vectors: Floats, row: int, first: int, result: Floats) -> None:
    """A row's sum of feature vectors, in as many columns, from `first` on, as the result has."""
    for column in range(result.shape[0]):
        result[column] = np.float32(0.0)
    for cell in range(side.offsets[row], side.offsets[row + 1]):
        vector = vectors[side.features[cell]]
        _add(vector[first : first + result.shape[0]], side.values[cell], result)


@inlined
def _add(vector: Floats, value: np.float32, result: Floats) -> None:
    for column in range(result.shape[0]):
        result[column] += value * vector[column]


@inlined
def _score(side: Side, vectors: Floats, row: int, user: Floats) -> np.float32:
    total = np.float32(0.0)
    for cell in range(side.offsets[row], side.offsets[row + 1]):
        total += side.values[cell] * _dot(vectors[side.features[cell]], user)
    return total


@reordered
def _dot(a: Floats, b: Floats) -> np.float32:
    total = np.float32(0.0)
    for column in range(a.shape[0]):
        total += a[column] * b[column]
    return total


@compiled
def pull(task: Task, start: int, n: int, first: int, last: int) -> None:
    """The steps of a batch of n pairs that begins at `start` of the order, in columns first to last of the items."""
    memory = Memory(
        np.empty(last - first, dtype=np.float32),
        np.empty(last - first, dtype=np.float32),
        np.empty(2 * task.n_most, dtype=np.int32),
        np.empty(2 * task.n_most, dtype=np.float32),
    )
    for place in range(n):
        if task.batch.negatives[place] != NONE:
            _pull(task, memory, place, task.pairs.order[start + place], first)


@inlined
def _pull(task: Task, memory: Memory, place: int, pair: int, first: int) -> None:
    users, (vectors, squares) = task.users, task.item_table
    user, pull, width = task.pairs.users[pair], task.batch.pulls[place], memory.user.shape[0]
    of_user = min(task.user_table.vectors.shape[1], first + width) - first  # columns, without the biases' 1
    memory.user[width - 1] = np.float32(1.0)
    _sum(users, task.user_table.vectors, user, first, memory.user[:of_user])
    n = _difference(task.items, task.pairs.items[pair], task.batch.negatives[place], memory)
    memory.gap[:] = np.float32(0.0)
    for i in range(n):
        _add(vectors[memory.features[i]][first : first + width], memory.values[i], memory.gap)
    for i in range(n):
        part = vectors[memory.features[i]][first : first + width]
        sums = squares[memory.features[i]][first : first + width]
        _move(part, sums, memory.user, pull * memory.values[i], task.rate, task.reg)
    for cell in range(users.offsets[user], users.offsets[user + 1]):
        part = task.user_table.vectors[users.features[cell]][first : first + of_user]
        sums = task.user_table.squares[users.features[cell]][first : first + of_user]
        _move(part, sums, memory.gap, pull * users.values[cell], task.rate, task.reg)


@inlined
def _difference(items: Side, positive: int, negative: int, memory: Memory) -> int:
    """The features in which the two items differ, and by how much; how many there are."""
    left, left_end = items.offsets[positive], items.offsets[positive + 1]
    right, right_end = items.offsets[negative], items.offsets[negative + 1]
    n = 0
    while left < left_end or right < right_end:
        value = np.float32(0.0)
        if right == right_end or (left < left_end and items.features[left] <= items.features[right]):
            feature = items.features[left]
        else:
            feature = items.features[right]
        if left < left_end and items.features[left] == feature:
            value += items.values[left]
            left += 1
        if right < right_end and items.features[right] == feature:
            value -= items.values[right]
            right += 1
        if value != np.float32(0.0):
            memory.features[n] = feature
            memory.values[n] = value
            n += 1
    return n


@inlined
def _move(
    values: Floats, squares: Floats, towards: Floats, pull: np.float32, rate: np.float32, reg: np.float32
) -> None:
    for column in range(values.shape[0]):
        slope = reg * values[column] - pull * towards[column]
        squares[column] += slope * slope
        values[column] -= np.divide(
            rate * slope, math.sqrt(squares[column])
        )  # `/` looks for 0: not vectorised
