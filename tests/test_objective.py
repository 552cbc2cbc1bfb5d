"""The objective of a job: rmse and logloss of pairs as values of users, held against evaluate() and plain sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluated import LIKED, ask, random_case
from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split
from nightrank.errors import DataError
from nightrank.quality.gates import quality_gate
from nightrank.quality.intervals import resampled
from nightrank.quality.objective import Objective, gain, gain_estimate, value_estimate, value_of

LINKS = {"rmse": "identity", "logloss": "logistic"}
losses = pytest.mark.parametrize("metric", ["rmse", "logloss"])


def split_of(case: dict[str, Any]) -> Split:
    n_users, n_items = case["train"].shape
    ids = [ids_from_arrays([np.arange(n, dtype=np.int64)]) for n in (n_users, n_items)]
    train = Interactions(*ids, user_items=case["train"], times=None)
    return Split(train=train, truth=case["truth"], n_unknown_users=0)


def values_of(metric: str, seed: int = 0) -> tuple[dict[str, Any], Objective, np.ndarray]:
    case, objective = random_case(seed, link=LINKS[metric]), Objective(metric, label=LIKED)
    split = split_of(case)
    return case, objective, objective.per_user(case["model"], split, truth=objective.truth(split), threads=1)


@losses
def test_the_mean_of_the_values_is_the_metric_over_pairs(metric: str) -> None:
    """The sweep's rmse and logloss are those of `nightrank evaluate`, items unknown to the model among the pairs."""
    case, _, values = values_of(metric)
    assert value_of(values, metric=metric) == pytest.approx(
        ask(metric, case, rule=LIKED).metrics[metric].value, rel=1e-12
    )
    assert np.isnan(values).tolist() == (np.diff(case["truth"].indptr) == 0).tolist()


def test_the_interval_of_rmse_is_that_of_evaluate() -> None:
    """A user of many pairs weighs as much in a resample as in the mean, so both commands show one interval."""
    case, objective, values = values_of("rmse")
    found = value_estimate(values, metric="rmse", shares=objective.shares(case["truth"]), seed=0)
    expected = ask("rmse", case, seed=0).metrics["rmse"]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@losses
def test_a_gain_is_positive_where_the_loss_is_smaller_and_its_interval_is_paired(metric: str) -> None:
    """Both are resampled together: the interval is that of the difference in each resample, by a plain loop."""
    case, objective, before = values_of(metric)
    after = 0.81 * before
    shares = objective.shares(case["truth"])
    found = gain_estimate(after, before, metric=metric, shares=shares, seed=3)
    assert found.value == pytest.approx(gain(after, before, metric=metric))
    factor = 0.1 if metric == "rmse" else 0.19
    assert found.value == pytest.approx(factor * value_of(before, metric=metric))
    counted = np.flatnonzero(~np.isnan(before))
    sums = resampled(np.column_stack([before[counted], shares[counted]]), seed=3)
    drawn = sums[:, 0] / sums[:, 1]
    gains = factor * (np.sqrt(drawn) if metric == "rmse" else drawn)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])), rel=1e-9)


def test_the_gate_lets_a_smaller_loss_pass() -> None:
    """Protects the sign in the gate: its figures are the metric's own, its change is positive where it improved."""
    case, objective, before = values_of("rmse")
    shares = objective.shares(case["truth"])
    given = {"metric": "rmse", "min_change": 0.0, "baseline_recipe": {}, "shares": shares}
    better, worse = quality_gate(0.81 * before, before, **given), quality_gate(before, 0.81 * before, **given)
    assert (better.passed, worse.passed) == (True, False)
    assert better.candidate == pytest.approx(0.9 * better.baseline)
    assert better.change == pytest.approx(-worse.change)
    assert 0 < better.change_low < better.change < better.change_high


def test_bounds_cut_what_rmse_sees() -> None:
    """A model with bounds is measured by what it answers; its scores and their order stay as they are."""
    case, objective, wide = values_of("rmse")
    model = case["model"]
    object.__setattr__(model, "bounds", (2.0, 4.0))
    split = split_of(case)
    cut = objective.per_user(model, split, truth=split.truth, threads=1)
    assert value_of(cut, metric="rmse") < value_of(wide, metric="rmse")
    assert value_of(cut, metric="rmse") == pytest.approx(ask("rmse", case).metrics["rmse"].value)


def test_logloss_without_a_rule_is_refused() -> None:
    """There is no probability of an unnamed class."""
    case = random_case(link="logistic")
    split = split_of(case)
    with pytest.raises(DataError, match="logloss needs labels"):
        Objective("logloss").per_user(case["model"], split, truth=split.truth, threads=1)


def test_bounds_leave_the_order_alone() -> None:
    """auc takes what was not cut: two predictions above the largest rating still have an order."""
    case = random_case()
    uncut = ask("auc", case, rule=LIKED).metrics["auc"].value
    object.__setattr__(case["model"], "bounds", (3.4, 3.6))
    assert ask("auc", case, rule=LIKED).metrics["auc"].value == uncut
    lists = ask("ndcg@3", case).metrics["ndcg@3"].value
    object.__setattr__(case["model"], "bounds", None)
    assert ask("ndcg@3", case).metrics["ndcg@3"].value == lists
