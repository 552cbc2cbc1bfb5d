"""The canonical score, on which order and ties are judged.

score = float32( sum over columns, in order, in float64, of u[c] * v[c]; then + item_bias )

The product of two float32 is exact in float64, and the sum runs in one fixed order with one rounding per
step, so the score of a pair depends on its vectors alone: not on the batch, the threads or the CPU at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import inner, reordered
from nightrank.ranking.selection import key_of


@reordered
def _dot(user: NDArray[np.float64], item: NDArray[np.float32]) -> float:
    total = 0.0
    for column in range(user.shape[0]):
        total += user[column] * np.float64(item[column])
    return total


@inner
def in_order(user: NDArray[np.float64], item: NDArray[np.float32], bias: np.float32) -> np.float32:
    """The canonical score by its definition."""
    total = 0.0
    for column in range(user.shape[0]):
        total += user[column] * np.float64(item[column])
    return np.float32(total + bias)


@inner
def canonical_key(
    user: NDArray[np.float64], item: NDArray[np.float32], bias: np.float32, size: float
) -> np.int32:
    """The key of the canonical score (`canonical`); size: |u| |v| + |bias| or more.

    Any order of summation is within n eps * size of the canonical one. Where the score rounds to the same float32
    at both ends of that, it is the canonical score; where not (about once in 2**28 / n), the sum is done in order.
    """
    total = _dot(user, item) + bias
    error = (user.shape[0] + 8) * 4.5e-16 * size
    score = np.float32(total - error)
    if score != np.float32(total + error):
        score = in_order(user, item, bias)
    return key_of(score)
