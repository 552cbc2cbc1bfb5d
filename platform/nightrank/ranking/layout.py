"""Vectors of any length as points on a plane, for people to look at: near by cosine stays near, by t-SNE.

t-SNE (van der Maaten, Hinton 2008; Barnes-Hut, van der Maaten 2014) is scikit-learn's, imported where it is called:
nothing that serves or scores loads it. Distances between far groups, and the axes, mean nothing. Refuses to be a
ranking: what is near on the plane is a hint, the exact neighbours are `SimilarItems`.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nightrank.ranking.similar import unit_rows

ITERATIONS = 1000
PERPLEXITY = 30.0  # neighbours that a point minds, as in the paper and scikit-learn
FEWEST = 4  # so few points have no neighbourhoods to keep: they are laid out by their principal components
OnIteration = Callable[[int, int], None]


def flat_layout(
    vectors: NDArray[np.float32], *, seed: int, on_iteration: OnIteration | None = None
) -> NDArray[np.float32]:
    """Points on a plane, float32 (n, 2), finite, centred, the farthest at most 1 from the centre in x and y.

    vectors: float32 (n, d), d at least 1, no row of zeros; their lengths do not count. seed: the same one gives the
    same bytes with the same versions; it starts from the principal components, so it matters little.
    on_iteration: told now and then how many of how many iterations are done. On one thread, so that nothing depends
    on their number: 2,000 points take some 6 s, and the time grows a little faster than n.
    """
    units = unit_rows(vectors)
    start = _principal(units)
    if len(units) < FEWEST:
        return _scaled(start)
    from sklearn.manifold import TSNE  # a second, which only a map takes

    plane = TSNE(
        n_components=2,
        perplexity=min(PERPLEXITY, (len(units) - 1) / 3),
        init=(1e-4 * start).astype(
            np.float32
        ),  # as small as scikit-learn's own: the groups part by themselves
        learning_rate="auto",
        max_iter=ITERATIONS,
        random_state=seed,
        n_jobs=1,
        verbose=0 if on_iteration is None else 2,
    )
    said = (
        contextlib.nullcontext() if on_iteration is None else contextlib.redirect_stdout(_Heard(on_iteration))
    )
    with threadpool_limits(1), said:
        return _scaled(plane.fit_transform(units))


class _Heard(io.TextIOBase):
    """Where scikit-learn prints its progress, which it tells in no other way; what is not understood is dropped."""

    def __init__(self, on_iteration: OnIteration) -> None:
        self._on_iteration = on_iteration

    def write(self, text: str) -> int:
        """Pass on the number of the iteration, where the text has one."""
        found = re.search(r"Iteration (\d+)", text)
        if found is not None:
            self._on_iteration(int(found[1]), ITERATIONS)
        return len(text)


def _principal(units: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first two principal components, float64 (n, 2), the first of standard deviation 1, signs decided.

    Of a matrix of rank 1 or 0, the other column is zeros.
    """
    centred = units.astype(np.float64) - units.mean(axis=0, dtype=np.float64)
    with threadpool_limits(1):
        directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    directions = directions * np.where(directions.sum(axis=0) < 0, -1.0, 1.0)
    found = np.zeros((len(units), 2))
    found[:, : directions.shape[1]] = centred @ directions
    spread = found[:, 0].std()
    return found / spread if spread > 0 else found


def _scaled(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Centred between the extremes, one scale for both axes."""
    wide = points.astype(np.float64)
    low, high = wide.min(axis=0), wide.max(axis=0)
    half = float((high - low).max()) / 2
    scaled: NDArray[np.float32] = ((wide - (low + high) / 2) / (half if half > 0 else 1.0)).astype(np.float32)
    return scaled
