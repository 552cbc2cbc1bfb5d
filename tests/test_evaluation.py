"""evaluate(): all metrics from one ranking, its oracle, and who counts."""

from __future__ import annotations

import json
from fractions import Fraction
from math import log2
from unittest.mock import patch

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from evaluated import LIKED, RANKED, ask, assert_equal, dense, popularity_case, random_case
from nightrank.models.factor_model import factor_model
from nightrank.quality import lists as lists_module
from nightrank.quality.lists import Lists
from nightrank.quality.metrics import METRICS
from nightrank.quality.names import parse_metrics
from nightrank.quality.rank_auc import rank_auc
from nightrank.ranking import ItemIndex
from reference import f32

NAN = float("nan")
NO_MEAN = {"coverage@3", "gini@3", "auc", "logloss", "accuracy"}
ALL = RANKED + ",rmse,mae,auc,accuracy"


# Values


def test_popularity_is_the_oracle() -> None:
    """Protects the whole chain by hand: lists [1 2 3], [2 3] and [0 1 2] against truths {1}, {3, new}, {1, 2}."""
    found = ask(
        "recall@2,map@2,rank_auc,coverage@1,gini@1,novelty@2,mean_popularity@3,recall@1", popularity_case()
    )
    assert (found.n_counted, found.n_without_truth) == (3, 1)
    by_user = {
        "recall@2": [1, Fraction(1, 2), NAN, Fraction(1, 2)],
        "recall@1": [1, 0, NAN, 0],
        "map@2": [1, Fraction(1, 2) / 2, NAN, Fraction(1, 2) / 2],
        # user 1: 3 ties with 2, the unknown item is wrong; user 3: 1 and 2 are both below 0
        "rank_auc": [1, Fraction(1, 2) / 2, NAN, 0],
        # 3, 2, 1 and 1 of 4 train users have items 0 to 3
        "novelty@2": [(1 + 2) / 2, (2 + 2) / 2, NAN, (log2(4 / 3) + 1) / 2],
        "mean_popularity@3": [Fraction(2 + 1 + 1, 3), 1, NAN, Fraction(3 + 2 + 1, 3)],
    }
    for name, expected in by_user.items():
        column = np.array([float(value) for value in expected])
        np.testing.assert_allclose(found.per_user[name], column, rtol=1e-15)
        assert found.metrics[name].value == pytest.approx(np.nanmean(column), rel=1e-15)
    assert found.metrics["coverage@1"].value == 3 / 4  # items 1, 2 and 0 come first
    assert found.metrics["gini@1"].value == float(Fraction(-3 * 0 - 1 + 1 + 3, 4 * 3))
    assert found.per_user.keys() == by_user.keys()


def test_values_of_a_rating_model_by_hand() -> None:
    """Protects rmse, mae and the labels in one call: offsets in, unknown items at the user's mean."""
    model = factor_model(
        "svd",
        {},
        users=f32([[1], [0], [2]]),
        items=f32([[1], [-1]]),
        user_offset=f32([3, 4, 1]),
        link="identity",
    )
    train = dense([[1, 0], [0, 1], [1, 1]])
    truth = dense([[0, 4, 5], [5, 0, 0], [0, 0, 0]])  # predicted 2 and 3; 4; nobody
    found = ask("rmse,mae,auc,accuracy", {"model": model, "train": train, "truth": truth}, rule=LIKED)
    values = {name: estimate.value for name, estimate in found.metrics.items()}
    expected = {"rmse": np.sqrt((4 + 4 + 1) / 3), "mae": (2 + 2 + 1) / 3, "accuracy": 1 / 3}
    assert values == pytest.approx(
        {name: float(value) for name, value in expected.items()} | {"auc": NAN}, nan_ok=True
    )
    np.testing.assert_allclose(found.per_user["rmse"], [2, 1, NAN], rtol=1e-15)
    np.testing.assert_allclose(found.per_user["mae"], [2, 1, NAN], rtol=1e-15)
    assert found.per_user.keys() == {"rmse", "mae"}
    assert (found.metrics["rmse"].low, found.metrics["rmse"].high) == (1.0, 2.0)
    assert (found.n_counted, found.n_without_truth) == (2, 1)


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_what_it_is_alone(seed: int) -> None:
    """Protects one ranking for all: each metric equals its own function over its own search."""
    case = random_case(seed)
    model, train, truth = case["model"], case["train"], case["truth"]
    found = ask(ALL, case, rule=LIKED)
    index = ItemIndex(model.item_vectors, model.item_bias, threads=1)
    for name in METRICS:
        spec = next(spec for spec in parse_metrics(ALL) if spec.name == name)
        alone = METRICS[name](index.top_k(model.user_vectors, spec.k or 0, exclude=train), truth)
        np.testing.assert_array_equal(found.per_user[str(spec)], alone)
    np.testing.assert_array_equal(
        found.per_user["rank_auc"], rank_auc(index, model.user_vectors, truth=truth, seen=train)
    )
    for name, estimate in found.metrics.items():
        assert ask(name, case, rule=LIKED).metrics[name].value == estimate.value


def test_intervals_hold_the_value_and_are_null_for_what_is_no_mean() -> None:
    """Protects `--json`: low <= value <= high over users, null for the five that are no mean over users."""
    found = ask(ALL, random_case(), rule=LIKED)
    assert list(found.metrics) == ALL.split(",")
    for name, estimate in found.metrics.items():
        if name in NO_MEAN:
            assert (estimate.low, estimate.high) == (None, None)
        else:
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < estimate.value < estimate.high
    assert found.per_user.keys() == found.metrics.keys() - NO_MEAN
    answer = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert answer["users"] == {"counted": found.n_counted, "without_truth": found.n_without_truth}
    assert answer["metrics"]["gini@3"]["low"] is None


# Who counts


def test_chunks_and_threads_change_no_bit() -> None:
    """Protects bounded memory: users in chunks of 7, long lists in smaller ones, and 3 threads give the same bits."""
    case = random_case(4)
    expected = ask(ALL, case, rule=LIKED)
    with patch.object(lists_module, "CHUNK_ROWS", 7):
        assert_equal(ask(ALL, case, rule=LIKED), expected)
    with patch.object(lists_module, "CHUNK_PLACES", 6):
        assert_equal(ask(ALL, case, rule=LIKED, threads=3), expected)


def test_long_lists_are_ranked_for_fewer_users_at_a_time() -> None:
    """Protects memory from a large k: a chunk holds so many places, or one user."""
    lists = Lists(
        index=ItemIndex(f32(np.zeros((9, 0))), threads=1),
        user_vectors=f32(np.zeros((50, 0))),
        users=np.arange(50),
        seen=csr_matrix((50, 9), dtype=np.float32),
    )
    with patch.object(lists_module, "CHUNK_PLACES", 12):
        sizes = {k: [topk.item_rows.shape for _, topk in lists.top_k(k)] for k in (3, 5, 100)}
    assert sizes == {3: [(4, 3)] * 12 + [(2, 3)], 5: [(2, 5)] * 25, 100: [(1, 100)] * 50}


def test_a_user_alone_has_the_value_of_the_batch() -> None:
    """Protects every user from the others: the same values as a model of that one user gives."""
    case = random_case(5)
    names = "recall@3,ndcg@3,rank_auc,rmse,mae"
    batch = ask(names, case)
    for user in np.flatnonzero(np.diff(case["truth"].indptr))[:8]:
        one, model = slice(user, user + 1), case["model"]
        alone = {
            "model": factor_model(
                "svd",
                {},
                users=model.user_vectors[one],
                items=model.item_vectors,
                item_bias=model.item_bias,
                user_offset=model.user_offset[one],
                link="identity",
            ),
            "train": case["train"][one],
            "truth": case["truth"][one],
        }
        for name, estimate in ask(names, alone).metrics.items():
            assert estimate.value == pytest.approx(batch.per_user[name][user], rel=1e-15, nan_ok=True)


def test_the_seed_moves_intervals_alone() -> None:
    """Protects comparisons: equal seeds give equal answers, another seed other intervals and the same values."""
    case = random_case(6)
    first, again, other = (ask(RANKED, case, seed=seed) for seed in (1, 1, 2))
    assert_equal(first, again)
    assert first.metrics["ndcg@3"].value == other.metrics["ndcg@3"].value
    assert first.metrics["ndcg@3"].low != other.metrics["ndcg@3"].low


def test_relevant_is_for_rankings_alone() -> None:
    """Protects rmse from a rule for rankings: it keeps all pairs, while recall loses what is not liked."""
    case = random_case(7)
    liked = case["truth"].copy()
    liked.data[liked.data < 4] = 0
    liked.eliminate_zeros()
    found = ask("recall@3,rank_auc,coverage@3,rmse", case, relevant=LIKED)
    for name in ("recall@3", "rank_auc", "coverage@3"):
        assert found.metrics[name].value == ask(name, case | {"truth": liked}).metrics[name].value
    assert found.metrics["rmse"].value == ask("rmse", case).metrics["rmse"].value
    assert found.n_counted == ask("rmse", case).n_counted > ask("recall@3", case, relevant=LIKED).n_counted


def test_k_beyond_the_catalogue() -> None:
    """Protects long lists: everything left is ranked, precision still divides by k."""
    case = random_case(8)
    found = ask("recall@1000,precision@1000", case)
    known = case["truth"][:, :25]
    users = np.diff(case["truth"].indptr) > 0
    np.testing.assert_array_equal(
        found.per_user["recall@1000"][users],
        np.diff(known.indptr)[users] / np.diff(case["truth"].indptr)[users],
    )
    np.testing.assert_array_equal(
        found.per_user["precision@1000"][users], np.diff(known.indptr)[users] / 1000
    )


def test_progress_counts_users_through_all_rankings() -> None:
    """Protects long evaluations from silence: it ends at what it announced, a pass for lists and one for orders."""
    case, told = random_case(9), []
    with patch.object(lists_module, "CHUNK_ROWS", 20):
        found = ask(RANKED, case, progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {2 * found.n_counted}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == 2 * found.n_counted
