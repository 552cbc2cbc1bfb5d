"""Bootstrap intervals of metrics that are means over users, or ratios of sums over them.

All metrics share the same resamples of users, in one pass; what is no ratio of sums over users has no interval here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
TOGETHER = 8  # resamples per pass over the users: their weights are 64 bytes a user

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric: its value, NaN where it is not defined, and the interval, None for what is no mean over users."""

    value: float
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: null for a value that is not defined."""
        found = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if x is None or math.isnan(x) else x for name, x in found.items()}


@dataclass(frozen=True)
class UserSums:
    """What each user adds to a metric: it is (sum of sums) / (sum of counts), the root of that where `is_root`.

    sums: float64 (n_users,), finite. counts: float64 (n_users,), 0 where the metric is not defined for a user.
    """

    sums: Values
    counts: Values
    is_root: bool = False

    @classmethod
    def of_values(cls, values: Values) -> UserSums:
        """Of a mean over users: one value each, NaN where not defined."""
        is_defined = ~np.isnan(values)
        return cls(sums=np.where(is_defined, values, 0.0), counts=is_defined.astype(np.float64))

    def values(self) -> Values:
        """The metric of each user alone: float64 (n_users,), NaN where not defined."""
        return _ratios(self.sums, self.counts, is_root=self.is_root)


def estimates(columns: Mapping[str, UserSums], users: NDArray[np.int64], *, seed: int) -> dict[str, Estimate]:
    """The metrics over `users`, each with its 95% percentile interval over 1,000 resamples of them.

    columns: by metric, of n_users or more rows. users: int64 (n,), rows, the users who are drawn from, n at a time,
    with replacement. A resample in which a metric is defined for nobody is passed over for that metric.
    The same users and seed draw the same resamples, whatever metrics are asked for. O(1000 n (1 + metrics)).

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    if not columns:
        return {}
    sums = np.column_stack([column.sums[users] for column in columns.values()])
    counts = np.column_stack([column.counts[users] for column in columns.values()])
    totals = resampled(np.hstack([sums, counts]), seed=seed)
    found = {}
    for place, (name, column) in enumerate(columns.items()):
        drawn = _ratios(totals[:, place], totals[:, place + len(columns)], is_root=column.is_root)
        value = _ratios(sums[:, place].sum(), counts[:, place].sum(), is_root=column.is_root)
        found[name] = Estimate(float(value), *_interval(drawn))
    return found


def difference(one: UserSums, other: UserSums, users: NDArray[np.int64], *, seed: int) -> Estimate:
    """A metric of one model less that of another, with its 95% interval, paired: both over the same resamples.

    one, other: of the same users, whose rows `users` are drawn as in `estimates`.
    """
    columns = [column[users] for side in (one, other) for column in (side.sums, side.counts)]
    totals = resampled(np.column_stack(columns), seed=seed)

    def less(rows: Values) -> Values:
        left = _ratios(rows[:, 0], rows[:, 1], is_root=one.is_root)
        return left - _ratios(rows[:, 2], rows[:, 3], is_root=other.is_root)

    value = less(np.array([[column.sum() for column in columns]]))
    return Estimate(float(value[0]), *_interval(less(totals)))


def resampled(rows: Values, *, seed: int, resamples: int = RESAMPLES) -> Values:
    """The sums of n rows drawn from n with replacement, once per resample: float64 (resamples, columns).

    rows: float64 (n, columns), n >= 1. Memory: some weights per row, not per row and resample.
    """
    rng, n = np.random.default_rng(seed), len(rows)
    totals = np.empty((resamples, rows.shape[1]))
    for start in range(0, resamples, TOGETHER):
        stop = min(start + TOGETHER, resamples)
        drawn = np.empty((stop - start, n))
        for weights in drawn:
            weights[:] = np.bincount(rng.integers(0, n, n), minlength=n)
        totals[start:stop] = drawn @ rows
    return totals


def _ratios(sums: Values, counts: Values, *, is_root: bool) -> Values:
    ratios = sums / np.where(counts > 0, counts, np.nan)
    return np.sqrt(ratios) if is_root else ratios


def _interval(drawn: Values) -> tuple[float, float]:
    """The percentiles; NaN where the metric is not defined in any resample."""
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return math.nan, math.nan
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
