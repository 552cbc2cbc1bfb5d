"""evaluate() on candidates, and what it refuses: links, missing rules, data that does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from evaluated import LIKED, RANKED, ask, assert_equal, popularity_case, random_case
from nightrank.config.rules import parse_rule
from nightrank.errors import DataError, SettingsError
from nightrank.models import FactorModel
from nightrank.models.factor_model import factor_model
from nightrank.quality.evaluation import evaluate
from reference import f32, random_cells

NAN = float("nan")

# Candidates


def test_a_candidate_twice_counts_once_in_a_large_catalogue() -> None:
    """Protects short lists of candidates, which are scored one by one: the second listing takes no place."""
    model = factor_model(
        "popularity", {}, users=f32([[]]), items=f32(np.zeros((300, 0))), item_bias=f32(np.arange(300))
    )
    case = {
        "model": model,
        "train": csr_matrix((f32([1]), ([0], [0])), shape=(1, 300)),
        "truth": csr_matrix((f32([1]), ([0], [7])), shape=(1, 300)),
    }
    candidates = csr_matrix(
        (np.ones(4, dtype=bool), np.array([9, 9, 7, 3]), np.array([0, 4])), shape=(1, 300)
    )
    found = ask("mrr@3,rank_auc,mean_popularity@3", case, candidates=candidates)
    assert {name: estimate.value for name, estimate in found.metrics.items()} == {
        "mrr@3": 1 / 2,
        "rank_auc": 1 / 2,
        "mean_popularity@3": 0.0,
    }
    again = csr_matrix((np.ones(256, dtype=bool), np.full(256, 7), np.array([0, 256])), shape=(1, 300))
    assert ask("recall@1", case, candidates=again).metrics["recall@1"].value == 1.0


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
            "seen twice": {"train": twice[:, :25]},
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
        ("seen twice", r"train holds 1 pairs twice"),
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
