"""Bootstrap intervals: small cases whose distribution is known exactly, the normal approximation, and the seed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from nightrank.quality.intervals import RESAMPLES, Estimate, UserSums, estimates, resampled

NAN = float("nan")


def everybody(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


def mean_of(values: NDArray[np.float64], *, seed: int = 0) -> Estimate:
    return estimates({"m": UserSums.of_values(values)}, everybody(len(values)), seed=seed)["m"]


def test_resamples_follow_the_exact_distribution() -> None:
    """Protects the draw: with three users there are 27 equally likely resamples, and each sum comes that often."""
    rows = np.array([[1.0], [10.0], [100.0]])
    exact: dict[float, float] = {}
    for drawn in product(rows[:, 0], repeat=3):
        exact[sum(drawn)] = exact.get(sum(drawn), 0) + 1 / 27
    sums, counts = np.unique(resampled(rows, seed=1, resamples=27_000), return_counts=True)
    assert sums.tolist() == sorted(exact)
    for total, count in zip(sums, counts, strict=True):
        expected = exact[total] * 27_000
        assert abs(count - expected) < 5 * np.sqrt(expected)


def test_the_normal_approximation() -> None:
    """Protects level and width: for the mean of 2,000 users, the interval is the mean +- 1.96 standard errors."""
    values = np.random.default_rng(3).exponential(size=2000)
    found = mean_of(values)
    error = values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean(), rel=1e-14)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_coverage_of_the_interval() -> None:
    """Protects the promise of 95%: over 200 samples of 100 users, the true mean lies within about as often."""
    rng = np.random.default_rng(4)
    samples = [mean_of(rng.standard_normal(100), seed=seed) for seed in range(200)]
    inside = sum(found.low <= 0 <= found.high for found in samples)  # type: ignore[operator]
    assert 180 <= inside <= 199


def test_the_ratio_and_its_root() -> None:
    """Protects rmse and mae: sums over users divided by counts over users, resampled together."""
    sums, counts = np.array([8.0, 1.0, 0.0]), np.array([2.0, 1.0, 0.0])
    found = estimates(
        {"mae": UserSums(sums, counts), "rmse": UserSums(sums, counts, is_root=True)}, everybody(2), seed=0
    )
    assert (found["mae"].value, found["mae"].low, found["mae"].high) == (9 / 3, 1.0, 4.0)
    assert (found["rmse"].value, found["rmse"].low, found["rmse"].high) == (np.sqrt(3), 1.0, 2.0)
    np.testing.assert_array_equal(UserSums(sums, counts, is_root=True).values(), [2, 1, NAN])


def test_a_seed_draws_the_same_users_for_every_metric() -> None:
    """Protects comparisons: the interval of a metric depends on seed and users, not on what else was asked for."""
    rng = np.random.default_rng(5)
    first, second = UserSums.of_values(rng.random(50)), UserSums.of_values(rng.random(50))
    together = estimates({"a": first, "b": second}, everybody(50), seed=7)
    alone = estimates({"b": second}, everybody(50), seed=7)
    assert estimates({"a": first, "b": second}, everybody(50), seed=7) == together
    for name in ("value", "low", "high"):
        assert getattr(alone["b"], name) == pytest.approx(getattr(together["b"], name), rel=1e-12)
    other = estimates({"b": second}, everybody(50), seed=8)["b"]
    assert other.value == alone["b"].value
    assert (other.low, other.high) != (alone["b"].low, alone["b"].high)


def test_users_in_whom_a_metric_is_not_defined() -> None:
    """Protects means from NaN: such users are drawn like all, and add to neither sum nor count."""
    found = mean_of(np.array([NAN, 1.0, 3.0, NAN]))
    assert found.value == 2.0
    assert (found.low, found.high) == (1.0, 3.0)
    nowhere = mean_of(np.array([NAN, NAN]))
    assert all(np.isnan([nowhere.value, nowhere.low, nowhere.high]))  # type: ignore[list-item]
    assert nowhere.as_dict() == {"value": None, "low": None, "high": None}


def test_users_who_are_not_drawn_from_do_not_count() -> None:
    """Protects the population: rows beyond `users` change nothing."""
    column = UserSums.of_values(np.array([9.0, 1.0, 9.0, 2.0]))
    found = estimates({"m": column}, np.array([1, 3]), seed=0)["m"]
    assert (found.value, found.low, found.high) == (1.5, 1.0, 2.0)


def test_one_user_and_no_metric() -> None:
    """Protects the edges: one user's interval is a point, nothing asked is nothing answered."""
    assert mean_of(np.array([0.25])) == Estimate(0.25, 0.25, 0.25)
    assert estimates({}, everybody(3), seed=0) == {}
    assert RESAMPLES == 1000
