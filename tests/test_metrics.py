"""Metrics and gates: values worked out by hand, a second implementation, and what a gate refuses."""

from __future__ import annotations

import re
from fractions import Fraction
from math import log2
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nightrank.errors import DataError
from nightrank.quality.gates import quality_gate, structure_gate
from nightrank.quality.metrics import METRICS, hits
from nightrank.ranking import ItemIndex, TopK

NAN = float("nan")


def lists(*users: list[int], k: int) -> TopK:
    """A TopK of k places from lists of at most k item rows."""
    result = TopK.empty(len(users), k)
    for user, items in enumerate(users):
        result.item_rows[user, : len(items)] = items
        result.scores[user, : len(items)] = -np.arange(len(items), dtype=np.float32)
        result.counts[user] = len(items)
    return result


def truth_of(*users: list[int], n_columns: int) -> csr_matrix:
    """Stored cells are relevant, a stored zero too; columns in the order given."""
    indices = np.array([item for items in users for item in items], dtype=np.int32)
    indptr = np.cumsum([0] + [len(items) for items in users]).astype(np.int32)
    return csr_matrix(
        (np.arange(len(indices), dtype=np.float32), indices, indptr), shape=(len(users), n_columns)
    )


# Five users, k = 4, a catalogue of 6 items; columns 6 and 7 are items that only the truth knows.
ANSWERS = lists([0, 1, 2, 3], [5, 0, 4, 1], [2, 3], [0, 1, 2, 3], [3, 2, 1, 0], k=4)
TRUTH = truth_of([1, 3, 5], [4, 1, 0, 5, 2], [3, 7, 6], [4, 6], [], n_columns=8)
#                ranks 2, 4   ranks 1 to 4      rank 2     none    no truth
GAIN = {rank: 1 / log2(rank + 1) for rank in range(1, 5)}
EXPECTED: dict[str, list[float | Fraction]] = {
    "precision": [Fraction(2, 4), Fraction(4, 4), Fraction(1, 4), Fraction(0), NAN],
    "recall": [Fraction(2, 3), Fraction(4, 5), Fraction(1, 3), Fraction(0), NAN],
    "hr": [Fraction(1), Fraction(1), Fraction(1), Fraction(0), NAN],
    "mrr": [Fraction(1, 2), Fraction(1, 1), Fraction(1, 2), Fraction(0), NAN],
    "map": [
        (Fraction(1, 2) + Fraction(2, 4)) / 3,
        (Fraction(1, 1) + Fraction(2, 2) + Fraction(3, 3) + Fraction(4, 4)) / 4,
        Fraction(1, 2) / 3,
        Fraction(0),
        NAN,
    ],
    "ndcg": [
        (GAIN[2] + GAIN[4]) / (GAIN[1] + GAIN[2] + GAIN[3]),
        1.0,
        GAIN[2] / (GAIN[1] + GAIN[2] + GAIN[3]),
        0.0,
        NAN,
    ],
}

metrics = pytest.mark.parametrize("metric", sorted(METRICS))


def plain(metric: str, answer: list[int], relevant: set[int], k: int) -> float:
    """The definitions once more, rank by rank, in plain Python."""
    if not relevant:
        return NAN
    hit_ranks = [rank for rank, item in enumerate(answer, start=1) if item in relevant]
    if metric == "precision":
        return len(hit_ranks) / k
    if metric == "recall":
        return len(hit_ranks) / len(relevant)
    if metric == "hr":
        return 1.0 if hit_ranks else 0.0
    if metric == "mrr":
        return 1 / hit_ranks[0] if hit_ranks else 0.0
    reachable = min(k, len(relevant))
    if metric == "map":
        return sum(n / rank for n, rank in enumerate(hit_ranks, start=1)) / reachable
    assert metric == "ndcg"
    return sum(1 / log2(rank + 1) for rank in hit_ranks) / sum(
        1 / log2(rank + 1) for rank in range(1, reachable + 1)
    )


@metrics
def test_values_worked_out_by_hand(metric: str) -> None:
    """Protects each definition on five users: short list, truth beyond the catalogue, no hit, no truth."""
    found = METRICS[metric](ANSWERS, TRUTH)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [float(value) for value in EXPECTED[metric]], rtol=1e-15)


def test_every_metric_is_worked_out() -> None:
    """Protects the tests above from a metric that they do not know."""
    assert EXPECTED.keys() == METRICS.keys()


@metrics
@pytest.mark.parametrize("seed", range(5))
def test_random_cases_equal_a_second_implementation(metric: str, seed: int) -> None:
    """Protects against a slip in the array code: 60 random users, lists and truths of any length."""
    rng = np.random.default_rng(seed)
    n_items, k = int(rng.integers(1, 30)), int(rng.integers(1, 12))
    n_columns = n_items + int(rng.integers(0, 5))
    answers = [rng.permutation(n_items)[: rng.integers(0, min(k, n_items) + 1)].tolist() for _ in range(60)]
    relevant = [rng.permutation(n_columns)[: rng.integers(0, n_columns + 1)].tolist() for _ in range(60)]
    relevant[0] = []
    expected = [plain(metric, a, set(r), k) for a, r in zip(answers, relevant, strict=True)]
    found = METRICS[metric](lists(*answers, k=k), truth_of(*relevant, n_columns=n_columns))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    finite = found[~np.isnan(found)]
    assert (finite >= 0).all()
    assert (finite <= 1 + 1e-15).all()
    assert np.isnan(found[0])


@metrics
@pytest.mark.parametrize("n_relevant", [1, 3, 4, 9])
def test_a_perfect_list_is_worth_1(metric: str, n_relevant: int) -> None:
    """Protects the normalisation: all places hold relevant items, or all relevant items come first."""
    k = 4
    best = list(range(n_relevant))
    answer = lists([*best, 20, 21, 22][:k], k=k)
    found = METRICS[metric](answer, truth_of(best, n_columns=30))[0]
    if metric == "precision":
        assert found == min(k, n_relevant) / k
    elif metric == "recall":
        assert found == min(k, n_relevant) / n_relevant
    else:
        assert found == pytest.approx(1, abs=1e-15)


@metrics
def test_a_user_alone_equals_the_batch(metric: str) -> None:
    """Protects evaluation in chunks: a user's value depends on nobody else in the call."""
    batch = METRICS[metric](ANSWERS, TRUTH)
    for user in range(5):
        alone = METRICS[metric](ANSWERS.rows(slice(user, user + 1)), TRUTH[user])
        np.testing.assert_allclose(alone, batch[user : user + 1], rtol=1e-15)


@metrics
def test_no_users_and_no_truth(metric: str) -> None:
    """Protects the edges: no users give no values, a truth without cells gives NaN, without a warning."""
    assert METRICS[metric](TopK.empty(0, 3), csr_matrix((0, 5))).shape == (0,)
    assert np.isnan(METRICS[metric](lists([0], [1], k=3), csr_matrix((2, 5)))).all()
    assert METRICS[metric](TopK.empty(1, 3), truth_of([2], n_columns=5)).tolist() == [0.0]


def test_hits_keep_users_apart() -> None:
    """Protects the pairing of rows: absent places and last columns never hit a neighbour's truth."""
    answers = lists([4], [0], [4, 0], k=2)
    truth = truth_of([0], [4], [0, 4], n_columns=5)
    assert hits(answers, truth).tolist() == [[False, False], [False, False], [True, True]]
    narrow = truth_of([0], [1], [1, 0], n_columns=2)  # narrower than the rows answered
    assert hits(answers, narrow).tolist() == [[False, False], [False, False], [False, True]]


def test_popularity_is_the_oracle() -> None:
    """Protects the chain from counts to metrics: most popular items for all, by hand over a tiny shop."""
    popularity = np.array([5, 3, 9, 3], dtype=np.float32)  # order: 2, 0, 1, 3
    seen = csr_matrix(np.array([[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=np.float32))
    topk = ItemIndex(np.zeros((4, 0), dtype=np.float32), popularity, threads=1).top_k(
        np.zeros((3, 0), dtype=np.float32), 2, exclude=seen
    )
    assert topk.item_rows.tolist() == [[0, 1], [2, 0], [-1, -1]]
    truth = truth_of([1], [0, 3], [2], n_columns=4)
    by_hand: dict[str, list[float]] = {
        "precision": [1 / 2, 1 / 2, 0],
        "recall": [1 / 1, 1 / 2, 0],
        "hr": [1, 1, 0],
        "mrr": [1 / 2, 1 / 2, 0],
        "map": [(1 / 2) / 1, (1 / 2) / 2, 0],
        "ndcg": [GAIN[2] / GAIN[1], GAIN[2] / (GAIN[1] + GAIN[2]), 0],
    }
    for metric, expected in by_hand.items():
        np.testing.assert_allclose(METRICS[metric](topk, truth), expected, rtol=1e-15)


# The quality gate


def decide(candidate: list[float], baseline: list[float], *, min_change: float = 0.0) -> Any:
    return quality_gate(
        np.array(candidate, dtype=np.float64),
        np.array(baseline, dtype=np.float64),
        metric="ndcg@10",
        min_change=min_change,
        baseline_recipe={"model": "popularity"},
    )


@pytest.mark.parametrize(
    ("candidate", "min_change", "passed"),
    [
        ([0.75, 0.5], 0.0, True),
        ([0.25, 0.5], 0.0, False),
        ([0.5, 0.5], 0.0, True),
        ([0.25, 0.5], -0.125, True),  # exactly the least change
        ([0.25, 0.5], -0.124, False),
        ([0.75, 0.5], 0.125, True),
        ([0.75, 0.5], 0.126, False),
    ],
)
def test_quality_gate_by_the_mean_difference(candidate: list[float], min_change: float, passed: bool) -> None:
    """Protects sign and threshold: candidate less baseline, absolute, exactly min_change passes."""
    decision = decide(candidate, [0.5, 0.5], min_change=min_change)
    assert decision.passed is passed
    assert decision.change == (candidate[0] - 0.5) / 2
    assert (decision.candidate, decision.baseline) == ((candidate[0] + 0.5) / 2, 0.5)


def test_quality_gate_counts_paired_users_alone() -> None:
    """Protects the pairing: a user with NaN on either side is in no mean and in no count."""
    decision = decide([1.0, NAN, 0.5, NAN], [0.5, 0.0, NAN, NAN])
    assert decision.n_users == 1
    assert (decision.candidate, decision.baseline, decision.change) == (1.0, 0.5, 0.5)
    lone = decide([NAN, 0.25, 1.0], [0.0, 0.5, NAN])
    assert (lone.passed, lone.change) == (False, -0.25)


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_quality_gate_without_users_is_closed(values: list[float]) -> None:
    """Protects what is in service: nothing measured is no reason to replace it, however low the bar."""
    with pytest.raises(DataError, match=r"no user has relevant held-out items"):
        decide(values, values, min_change=-1.0)


def test_quality_decision_as_a_dictionary() -> None:
    """Protects gate.json and the manifest: names that others read."""
    assert decide([0.75], [0.5], min_change=-0.002).as_dict() == {
        "passed": True,
        "metric": "ndcg@10",
        "candidate": 0.75,
        "baseline": 0.5,
        "baseline_recipe": {"model": "popularity"},
        "change": 0.25,
        "change_low": 0.25,
        "change_high": 0.25,
        "min_change": -0.002,
        "n_users": 1,
        "forced": False,
    }


# The structure gate


SOUND: dict[str, Any] = {
    "users": 10,
    "expected_users": 10,
    "rows": 100,
    "empty_users": 0,
    "recommended": np.arange(130) < 5,
    "has_events": np.arange(130) < 100,
    "min_coverage": 0.05,
}


def test_structure_gate_passes_what_is_sound() -> None:
    """Protects a good night: all users, no empty list, coverage of exactly the least."""
    decision = structure_gate(**SOUND)
    assert decision.as_dict() == {
        "passed": True,
        "coverage": 5 / 100,
        "min_coverage": 0.05,
        "users": 10,
        "rows": 100,
        "empty_users": 0,
        "new_items": 30,
        "new_items_recommended": 0,
        "problems": [],
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"users": 9}, "9 users were scored, 10 are in the model"),
        ({"users": 11}, "11 users were scored, 10 are in the model"),
        ({"empty_users": 1}, "1 users have an empty list"),
        (
            {"recommended": (np.arange(130) < 4) | (np.arange(130) >= 110)},
            r"coverage is 0.0400: 4 of 100 items with events .*\(and 20 of 30 without\); .*asks for 0.05",
        ),
    ],
)
def test_structure_gate_names_each_problem(change: dict[str, Any], problem: str) -> None:
    """Protects readers from a broken release: every single defect closes the gate and is said in words."""
    decision = structure_gate(**SOUND | change)
    assert decision.passed is False
    assert len(decision.problems) == 1
    assert re.search(problem, decision.problems[0])


def test_structure_gate_names_all_problems_at_once() -> None:
    """Protects the operator from fixing one defect a night."""
    decision = structure_gate(**SOUND | {"users": 9, "empty_users": 1, "recommended": np.arange(130) < 4})
    assert len(decision.problems) == 3
    assert decision.as_dict()["problems"] == list(decision.problems)
