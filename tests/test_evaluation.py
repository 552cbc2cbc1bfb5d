"""evaluate(): all metrics from one ranking, who counts, what candidates mean, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from math import log2
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nightrank.config.rules import parse_rule
from nightrank.errors import DataError, SettingsError
from nightrank.models import FactorModel
from nightrank.models.factor_model import factor_model
from nightrank.quality import lists as lists_module
from nightrank.quality.evaluation import Evaluation, evaluate
from nightrank.quality.metrics import METRICS
from nightrank.quality.names import parse_metrics
from nightrank.quality.rank_auc import rank_auc
from nightrank.ranking import ItemIndex
from reference import f32, random_cells

NAN = float("nan")
LIKED = parse_rule("weight>=4")
NO_MEAN = {"coverage@3", "gini@3", "auc", "logloss", "accuracy"}
RANKED = "recall@3,ndcg@3,map@3,precision@2,hr@1,mrr@3,rank_auc,coverage@3,novelty@3,gini@3,mean_popularity@3"
ALL = RANKED + ",rmse,mae,auc,accuracy"


def dense(rows: list[list[float]]) -> csr_matrix:
    return csr_matrix(f32(rows))


def random_case(
    seed: int = 0, *, n_users: int = 60, n_items: int = 25, link: Any = "identity"
) -> dict[str, Any]:
    """A model and pairs with weights 1 to 5; some users without truth, two items that train does not know."""
    rng = np.random.default_rng(seed)
    cells = rng.random((n_users, n_items + 2))
    weights = rng.integers(1, 6, cells.shape)
    weights[::7, :] = np.where(cells[::7, :] < 0.3, weights[::7, :], 0)
    model = factor_model(
        "svd",
        {},
        users=f32(rng.standard_normal((n_users, 4))),
        items=f32(rng.standard_normal((n_items, 4))),
        item_bias=f32(rng.standard_normal(n_items)),
        user_offset=f32(rng.random(n_users) + 3),
        link=link,
    )
    return {
        "model": model,
        "train": dense(np.where(cells < 0.3, weights, 0)[:, :n_items]),
        "truth": dense(np.where((cells >= 0.3) & (cells < 0.5), weights, 0)),
    }


def ask(metrics: str, case: dict[str, Any], **given: Any) -> Evaluation:
    given = {"threads": 1} | case | given
    return evaluate(given.pop("model"), metrics=parse_metrics(metrics), **given)


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    assert found.as_dict() == expected.as_dict()
    assert found.per_user.keys() == expected.per_user.keys()
    for name, column in found.per_user.items():
        np.testing.assert_array_equal(column, expected.per_user[name])


# Values


def popularity_case() -> dict[str, Any]:
    """Four users, four items with 3, 2, 1, 0.. train users: the order is 0, 1, 2, 3 for all; item 4 is unknown."""
    train = dense([[5, 0, 0, 0], [4, 3, 0, 0], [3, 1, 2, 0], [0, 0, 0, 1]])
    model = factor_model(
        "popularity",
        {},
        users=f32(np.zeros((4, 0))),
        items=f32(np.zeros((4, 0))),
        item_bias=f32([3, 2, 1, 1]),
    )
    truth = dense([[0, 4, 0, 0, 0], [0, 0, 0, 2, 5], [0, 0, 0, 0, 0], [0, 1, 5, 0, 0]])
    return {"model": model, "train": train, "truth": truth}


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


# Candidates


def test_candidates_are_all_that_is_ranked() -> None:
    """Protects sampled evaluation: lists hold candidates alone, seen ones too; one listed twice counts once."""
    case = popularity_case()
    candidates = csr_matrix(
        (np.zeros(9, np.float32), np.array([0, 1, 1, 3, 3, 2, 1, 3, 3]), np.array([0, 3, 6, 7, 9])),
        shape=(4, 4),
    )
    found = ask("recall@1,recall@2,rank_auc,mean_popularity@9", case, candidates=candidates)
    np.testing.assert_array_equal(found.per_user["recall@1"], [0, 0, NAN, 0])  # 0 was seen, and comes first
    np.testing.assert_array_equal(found.per_user["recall@2"], [1, 1 / 2, NAN, 0])
    np.testing.assert_array_equal(found.per_user["rank_auc"], [0, 1 / 4, NAN, 0])
    np.testing.assert_array_equal(found.per_user["mean_popularity@9"], [(3 + 2) / 2, 1, NAN, 1])
    assert candidates.nnz == 9  # the caller's own is left as it is


def test_the_whole_catalogue_less_seen_as_candidates_changes_nothing() -> None:
    """Protects one meaning for both: candidates that name what is ranked anyway give the same answers."""
    case = random_case(10)
    candidates = csr_matrix(case["train"].toarray() == 0)
    assert_equal(ask(RANKED, case, candidates=candidates), ask(RANKED, case))


def test_a_counted_user_without_candidates_is_refused() -> None:
    """Protects a mean from users whom nobody could serve: how many, which row first, what to do."""
    case = random_case(11)
    candidates = csr_matrix(np.ones((60, 25), dtype=bool))
    counted = np.flatnonzero(np.diff(case["truth"].indptr))
    keep = np.ones(60, dtype=bool)
    keep[counted[[3, 9]]] = False
    candidates = csr_matrix(candidates.multiply(keep[:, None]))
    candidates.eliminate_zeros()
    message = rf"2 of {len(counted)} users .* no candidate .* row {counted[3]}; add some"
    with pytest.raises(DataError, match=message):
        ask(RANKED, case, candidates=candidates)
    assert ask("rmse", case, candidates=candidates).n_counted == len(counted)  # nothing is ranked for it


def test_candidates_without_any_held_out_item_are_refused() -> None:
    """Protects users from a table of zeros: negatives alone were handed over."""
    case = random_case(12)
    candidates = csr_matrix(case["truth"][:, :25].toarray() == 0)
    with pytest.raises(DataError, match=r"no candidate is a held-out item of its user.*list each user's"):
        ask(RANKED, case, candidates=candidates)


# What is refused


@pytest.mark.parametrize(
    ("metrics", "link", "message"),
    [
        (
            "recall@3,rmse",
            "none",
            r"rmse needs a model that predicts ratings, and this one gives scores on no scale",
        ),
        ("mae", "logistic", r"mae needs a model that predicts ratings, .* probabilities \(link logistic\)"),
        ("logloss", "identity", r"logloss needs a model that predicts probabilities"),
        ("accuracy", "none", r"accuracy needs a model that predicts ratings or probabilities"),
    ],
)
def test_a_link_that_cannot_give_a_metric_is_refused(metrics: str, link: str, message: str) -> None:
    """Protects users from a number that means nothing: the metric, what the model gives, what to do."""
    with pytest.raises(SettingsError, match=message):
        ask(metrics, random_case(link=link), rule=LIKED)


@pytest.mark.parametrize("metric", ["auc", "logloss", "accuracy"])
def test_labels_need_a_rule(metric: str) -> None:
    """Protects users from a guessed threshold."""
    link = "identity" if metric == "accuracy" else "logistic"
    with pytest.raises(SettingsError, match=rf"{metric} needs labels; give the rule .*weight>=4"):
        ask(metric, random_case(link=link))


def test_auc_takes_every_link_and_logloss_the_logistic_one() -> None:
    """Protects the permissions: each link gives what it can."""
    for link, metrics in (
        ("none", "auc"),
        ("identity", "auc,accuracy"),
        ("logistic", "auc,logloss,accuracy"),
    ):
        found = ask(metrics, random_case(link=link), rule=LIKED)
        assert all(0 < estimate.value < 10 for estimate in found.metrics.values())


def bad_case(change: str) -> dict[str, Any]:
    case = random_case()
    train, truth = case["train"], case["truth"]
    twice = csr_matrix((f32([1, 1]), np.array([3, 3]), np.r_[0, np.full(60, 2)]), shape=truth.shape)
    return (
        case
        | {
            "train": {"train": train[:, :20]},
            "users": {"truth": truth[:50]},
            "items": {"truth": truth[:, :20]},
            "empty": {"truth": csr_matrix(truth.shape, dtype=np.float32)},
            "twice": {"truth": twice},
            "wide": {"candidates": random_cells(np.random.default_rng(0), (60, 27), 0.5)},
            "strict": {"relevant": parse_rule("weight>5")},
        }[change]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train", r"train has shape \(60, 20\); expected users x items of the model, \(60, 25\)"),
        ("users", r"truth has shape \(50, 27\); expected a row for each of 60 users"),
        ("items", r"truth has shape \(60, 20\); .*25 columns or more"),
        ("empty", r"none of the 60 users has a held-out pair that counts"),
        ("strict", r"none of the 60 users has a held-out pair that counts"),
        ("twice", r"truth holds 1 pairs twice"),
        ("wide", r"candidates have shape \(60, 27\); expected users x items of the catalogue, \(60, 25\)"),
    ],
)
def test_data_that_does_not_fit_is_refused(change: str, message: str) -> None:
    """Protects against answers about other users or items: shapes, emptiness and repeats are found first."""
    with pytest.raises(DataError, match=message):
        ask("recall@3,rmse", bad_case(change))


def test_no_metric_is_refused() -> None:
    """Protects a caller from an empty answer after a long fit."""
    case = random_case()
    model: FactorModel = case.pop("model")
    with pytest.raises(SettingsError, match=r"no metric was asked for"):
        evaluate(model, metrics=(), **case)
