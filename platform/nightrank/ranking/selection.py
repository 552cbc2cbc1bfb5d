"""Scores as integers that order alike, and selection among them by counting: compiled, no sort, no branches.

A float32 becomes an int32 key by turning the bits of negative numbers round (Herf, "Radix tricks", 2001); -0.0 is
made 0.0 first, since the two tie. The k-th largest of a few hundred keys is found by halving the range of keys and
counting, a loop without a branch that vectorises; quickselect took five times as long (its branches are a coin toss).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import inner

NO_BOUND = np.int32(-(2**31))  # below every key


@inner
def key_of(score: np.float32) -> np.int32:
    """The key of a score that is not NaN."""
    bits = np.int32(np.float32(score + np.float32(0.0)).view(np.int32))
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@inner
def score_of(key: np.int32) -> np.float32:
    """The score of a key."""
    bits = np.int32(key)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@inner
def just_below(key: np.int32) -> np.float64:
    """The float32 below a score: what rounds to the score, or to more, is above it. Finite or -inf."""
    return np.float64(np.nextafter(score_of(key), np.float32(-np.inf)))


@inner
def _count(keys: NDArray[np.int32], least: np.int32) -> np.int32:
    total = np.int32(0)
    for i in range(keys.shape[0]):
        total = np.int32(total + np.int32(keys[i] >= least))
    return total


@inner
def kth_largest(keys: NDArray[np.int32], k: int) -> np.int32:
    """The k-th largest of `keys`; 1 <= k <= len(keys)."""
    low = high = np.int64(keys[0])
    for i in range(keys.shape[0]):
        low, high = min(low, np.int64(keys[i])), max(high, np.int64(keys[i]))
    high += 1
    while high - low > 1:
        middle = (low + high) >> 1
        reached = _count(keys, np.int32(middle))
        if reached >= k:
            low = middle
            if reached == k:
                break
        else:
            high = middle
    found = np.int32(2**31 - 1)
    for i in range(keys.shape[0]):
        found = np.int32(min(found, keys[i])) if keys[i] >= low else found
    return found


@inner
def keep(
    low: NDArray[np.int32], high: NDArray[np.int32], places: NDArray[np.int32], n: int, least: np.int32
) -> int:
    """Move the candidates whose upper key reaches `least` to the front, in order; how many they are."""
    kept = 0
    for i in range(n):
        one_low, one_high, place = low[i], high[i], places[i]
        low[kept], high[kept], places[kept] = one_low, one_high, place
        kept += one_high >= least
    return kept


@inner
def sort(values: NDArray[np.integer]) -> None:
    """Ascending, in place: Shell sort with Ciura's gaps (2001). Most lists are of dozens; numpy's sort, as numba has
    it, allocates."""
    for gap in (8858, 3937, 1750, 701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, values.shape[0]):
            value, place = values[i], i
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
