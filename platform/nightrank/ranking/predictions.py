"""Predictions: what a model says of single (user, item) pairs, the one way that evaluation and serving ask it.

A prediction is not a ranking: the user's offset is in it, and it is not rounded to float32. What is on no scale
(link `none`) comes back as the bare score; whether that may be called a rating or a probability is the caller's to
judge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

CHUNK_PAIRS = 4096  # whose vectors are gathered at a time: 16 MB in float64 for 256 columns on both sides


def predict(  # noqa: PLR0913  a model is four arrays, and which pairs of it
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    *,
    item_bias: NDArray[np.float32],
    user_offset: NDArray[np.float32],
    user_rows: NDArray[np.integer],
    item_rows: NDArray[np.integer],
    link: str,
    bounds: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """link(score + user_offset) of n pairs, float64 (n,), finite.

    score: the float64 sum of the products in column order, then item_bias; not rounded. The order is fixed, so a
    pair's prediction depends on its own vectors alone, to the bit. user_rows, item_rows: integers (n,), trusted to
    be in range; item row -1 is an item that the model does not know, whose score is 0 (for ratings centred per user:
    the user's mean). link: `identity`, `none`: as it is; `logistic`: 1 / (1 + exp(-x)). bounds: what the result is
    cut to, where the model has them.
    """
    sums = np.empty(len(user_rows))
    for start in range(0, len(user_rows), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        sums[part] = _scores(
            user_vectors, item_vectors, item_bias=item_bias, users=user_rows[part], items=item_rows[part]
        )
    sums += user_offset[user_rows]
    result: NDArray[np.float64] = expit(sums) if link == "logistic" else sums
    return result if bounds is None else np.clip(result, *bounds)


def _scores(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    *,
    item_bias: NDArray[np.float32],
    users: NDArray[np.integer],
    items: NDArray[np.integer],
) -> NDArray[np.float64]:
    totals = np.zeros(len(users))
    known = np.flatnonzero(items >= 0)
    left = user_vectors[users[known]].astype(np.float64).T.copy()
    right = item_vectors[items[known]].astype(np.float64).T.copy()
    sums = np.zeros(len(known))
    for user_column, item_column in zip(left, right, strict=True):
        sums += user_column * item_column  # exact products, one rounding per sum
    totals[known] = sums + item_bias[items[known]]
    return totals
