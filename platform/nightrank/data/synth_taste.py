"""Taste as a mixture of topics: what both makers of synthetic events draw from.

P(item | user) = sum over topics r of P(r | user) P(item | r): a matrix of as many ranks as there are topics, not
negative, like the count matrices that factorisations are fitted to. An event costs one draw of a topic and one
of an item, so a million events take about a second whatever the catalogue's size. No BLAS is called: sums run in
one order on any number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import SettingsError

Floats = NDArray[np.float64]

START_S = 1_735_689_600  # 2025-01-01 00:00:00 UTC: fixed, since a clock would break "the same bytes twice"
N_DAYS = 90
DAY_S = 86_400


def check_count(option: str, value: int, *, low: int, high: int, cure: str) -> None:
    """Raise SettingsError where a number of the command line is outside low..high."""
    if not low <= value <= high:
        raise SettingsError(f"{option}: found {value:,}, expected {low:,} to {high:,}; {cure}")


def stream(seed: int, *path: int) -> np.random.Generator:
    """The random stream of one part of a data set: seed and path alone decide what it gives."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


def zipf(n: int, *, shift: float, rng: np.random.Generator) -> Floats:
    """Popularities 1 / (rank + shift), float64 (n,), in random order: an id does not tell its rank.

    Zipf's law with Mandelbrot's shift, which bounds the head: without it one item of 1,000 draws 13% of all events,
    where catalogues have about 1%.
    """
    weights: Floats = 1.0 / (1.0 + shift + rng.permutation(n).astype(np.float64))
    return weights


def cumulative(weights: Floats) -> Floats:
    """The cumulative shares of each row of `weights` (rows, n), 1 added from row to row: float64 (rows * n,).

    Flat, so that one search answers draws from different rows.
    """
    sums = np.cumsum(weights, axis=1)
    sums /= sums[:, -1:]
    sums += np.arange(len(sums))[:, None]
    flat: Floats = sums.reshape(-1)
    return flat


def draw(shares: Floats, *, n: int, rows: NDArray[np.int64], chance: Floats) -> NDArray[np.int64]:
    """One of 0..n-1 for each of `rows` and each of `chance` (uniform in 0..1), from `cumulative` shares."""
    found = np.searchsorted(shares, rows + chance, side="right")
    drawn: NDArray[np.int64] = np.clip(found - rows * n, 0, n - 1)  # a sum that rounds up to the next row
    return drawn


def draw_one_of(shares: Floats, *, chance: Floats) -> NDArray[np.int64]:
    """The same from a single row."""
    drawn: NDArray[np.int64] = np.minimum(np.searchsorted(shares, chance, side="right"), len(shares) - 1)
    return drawn


def mixture(rng: np.random.Generator, shape: float, *, size: tuple[int, int]) -> NDArray[np.float32]:
    """Dirichlet shares (size), float32, each row's sum 1: the smaller `shape`, the fewer topics a row likes."""
    shares = rng.standard_gamma(shape, size=size, dtype=np.float32)
    shares += np.float32(1e-6)  # a row of zeros has no shares
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
