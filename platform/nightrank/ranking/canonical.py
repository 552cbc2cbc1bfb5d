"""The canonical score, on which order and ties are judged.

score = float32( sum over columns, in order, in float64, of u[c] * v[c]; then + item_bias )

The product of two float32 is exact in float64, and the sum runs in one fixed order with one rounding per
step, so the score of a pair depends on its vectors alone: not on the batch, the threads or the BLAS at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def canonical_scores(
    users: NDArray[np.float32], items: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores float32 (n,) of n pairs: users (n, d), items (n, d), bias (n,). O(n d)."""
    total = np.zeros(len(users), dtype=np.float64)
    for column in range(users.shape[1]):
        total += users[:, column].astype(np.float64) * items[:, column]
    total += bias
    with np.errstate(over="ignore"):  # beyond float32 the rounded score is infinite, which still orders
        result: NDArray[np.float32] = total.astype(np.float32)
    return result


def screening_error(n_columns: int) -> float:
    """A factor e: a float32 BLAS product plus bias and the canonical score of a pair differ by at most
    e * (|u| |v| + |bias|), in any order of summation, with or without fused multiply-add.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 3.1: an inner product
    of length n has error gamma_n |u|.|v|, gamma_n = n eps / (1 - n eps); |u|.|v| <= |u| |v| (Cauchy-Schwarz).
    Two more roundings for the bias and the final float32, doubled to be safe against norms rounded down.
    """
    steps = (n_columns + 3) * float(np.finfo(np.float32).eps)
    return 2.0 * steps / (1.0 - steps)
