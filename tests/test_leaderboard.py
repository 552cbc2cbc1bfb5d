"""The leaderboard: the order of trials, its columns, and what the table for people says."""

from __future__ import annotations

import math

import pytest

from nightrank.batch.leaderboard import leaderboard, lines, ranked
from swept import METRIC, TEST, record, sweep


def test_done_comes_before_stopped_before_failed() -> None:
    """Protects the order: best first, but a trial stopped early never stands above one that ended."""
    table = leaderboard(sweep()[::-1], metric=METRIC)
    assert table["rank"].to_pylist() == [1, 2, 3, 4, 5, 6, 7]
    assert table["value"].to_pylist() == [0.07, 0.069, 0.05, 0.03, 0.09, 0.02, None]
    assert table["state"].to_pylist() == ["done"] * 4 + ["stopped"] * 2 + ["failed"]


def test_columns_have_their_types() -> None:
    """Protects those who read the file: names and types of the columns, also where nothing is in them."""
    expected = (
        "rank int32, trial string, family string, params string, origin string, state string, metric string, "
        "value double, "
        "low double, high double, change double, chosen bool, epochs int32, fit_s double, rank_s double, seed int64, "
        "reason string"
    )
    for records in ([], sweep()):
        schema = leaderboard(records, metric=METRIC).schema
        assert ", ".join(f"{field.name} {field.type}" for field in schema) == expected
    row = leaderboard(sweep(), metric=METRIC).to_pylist()[1]
    assert (row["params"], row["epochs"], row["chosen"]) == (
        '{"epochs": 8, "factors": 32, "reg": 0.01}',
        8,
        True,
    )


def test_ties_go_to_the_cheaper() -> None:
    """Protects the order from the order of arrival: of equal values fewer factors come first, then fewer epochs."""
    costs = [(64, 8), (32, 16), (32, 8)]
    tied = [record("als", 0.05, params={"factors": factors, "epochs": epochs}) for factors, epochs in costs]
    found = [(one["params"]["factors"], one["params"]["epochs"]) for one in ranked(tied, metric=METRIC)]
    assert found == sorted(costs)


def test_nan_is_a_value_that_is_not_there() -> None:
    """Protects sorting and readers from a NaN that a diverged trial left: it is null, and last of its state."""
    table = leaderboard([record("als", math.nan), record("svd", 0.01)], metric=METRIC)
    assert table["value"].to_pylist() == [0.01, None]
    assert table["low"].null_count == 1


def test_the_table_for_people() -> None:
    """Protects the end of `nightrank sweep`: a row per trial with interval and seconds, the mark, why one failed."""
    shown = lines(sweep(), metric=METRIC, min_change=-0.002, test=TEST)
    assert shown[0].split()[:2] == ["rank", METRIC]
    assert "0.0690 (0.0640 to 0.0740)     1.25  done     * als" in shown[2]
    assert "stopped" in shown[5]
    assert "ModelFitError: NaN in factors" in shown[8]
    assert max(len(line) for line in shown) <= 118
    starts = {line.index("als") for line in shown[1:3]}
    assert len(starts) == 1


def test_the_table_says_why_the_chosen_one_was_chosen() -> None:
    """Protects honesty: the rule, what it cost on validation, and the test figure against popularity are all said."""
    said = " ".join(" ".join(lines(sweep(), metric=METRIC, min_change=-0.002, test=TEST)).split())
    assert (
        "among trials within gate.min_change (-0.002) of the best, the cheapest: fewer factors, then fewer"
        in said
    )
    assert "its mean difference to the best, per user, is -0.0010." in said
    assert "ndcg@10 0.0712 (0.0655 to 0.0771); popularity 0.0301 (0.0262 to 0.0340)" in said
    assert "+0.0411 (+0.0362 to +0.0460), better beyond the noise; 943 users." in said
    noisy = {**TEST, "change": {"value": 0.001, "low": -0.002, "high": 0.004}}
    assert "within the noise" in " ".join(lines(sweep(), metric=METRIC, min_change=-0.002, test=noisy))


@pytest.mark.parametrize("records", [[], [record("als", None, state="failed", reason=None, history=[])]])
def test_a_sweep_without_a_winner_has_a_table_too(records: list[dict[str, object]]) -> None:
    """Protects the report of a sweep in which all failed: no mark, no test figure, no error."""
    shown = lines(records, metric=METRIC, min_change=-0.002)
    assert not [line for line in shown if "chosen" in line]
    assert len(shown) == 1 + 2 * len(records)


def test_of_losses_the_smallest_stands_first() -> None:
    """Protects readers of a sweep by rmse: figures as they are, best first, and what a gain is, in words."""
    records = [
        record("mean", 0.98, params={}, origin="baseline"),
        record("svd", 0.95, params={"factors": 8}, chosen=True, change=-0.01),
        record("fm", 0.94, change=0.0),
    ]
    assert leaderboard(records, metric="rmse")["value"].to_pylist() == [0.94, 0.95, 0.98]
    test = {"metric": "rmse", "value": 0.95, "low": 0.94, "high": 0.96, "n_users": 9}
    test |= {"baseline": {"family": "mean", "value": 0.98, "low": 0.97, "high": 0.99}}
    test |= {"change": {"value": 0.03, "low": 0.02, "high": 0.04}}
    said = " ".join(" ".join(lines(records, metric="rmse", min_change=-0.02, test=test)).split())
    assert "its rmse is 0.0100 above the best's." in said
    assert (
        "rmse 0.9500 (0.9400 to 0.9600); mean 0.9800 (0.9700 to 0.9900); gain, by which it is smaller,"
        in said
    )
    assert "+0.0300 (+0.0200 to +0.0400), better beyond the noise" in said
