"""Metrics of predicted values: predictions to the bit, values by hand as fractions, and scikit-learn's opinion."""

from __future__ import annotations

from fractions import Fraction
from math import exp, log
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    roc_auc_score,
)

from nightrank.config.rules import parse_rule
from nightrank.models import FactorModel
from nightrank.models.factor_model import factor_model
from nightrank.quality.values import accuracy, auc, error_sums, held_out_pairs, label_value, logloss
from nightrank.ranking.predictions import CHUNK_PAIRS, predict
from reference import MAKERS, f32

NAN = float("nan")
LIKED = parse_rule("weight>=4")


def made(link: Any = "identity", **arrays: Any) -> FactorModel:
    """Two users and three items: scores 1 3 -1 and 3 1 0 with the bias, offsets 3 and 2."""
    given = {
        "users": f32([[1, 0], [0, 2]]),
        "items": f32([[1, 1], [2, 0], [-1, 0]]),
        "item_bias": f32([0, 1, 0]),
        "user_offset": f32([3, 2]),
    }
    return factor_model("svd", {}, link=link, **given | arrays)


def predicted(model: FactorModel, users: Any, items: Any, *, link: str | None = None) -> Any:
    return predict(
        model.user_vectors,
        model.item_vectors,
        item_bias=model.item_bias,
        user_offset=model.user_offset,
        user_rows=np.asarray(users, dtype=np.int64),
        item_rows=np.asarray(items, dtype=np.int64),
        link=model.link if link is None else link,
    )


def random_model(rng: np.random.Generator, link: Any) -> FactorModel:
    return made(
        link,
        users=f32(rng.standard_normal((40, 6))),
        items=f32(rng.standard_normal((30, 6))),
        item_bias=f32(rng.standard_normal(30)),
        user_offset=f32(rng.standard_normal(40) + (3 if link == "identity" else 0)),
    )


# Predictions


def test_predictions_by_hand() -> None:
    """Protects the law: score, then the user's offset; an unknown item is worth the offset alone."""
    found = predicted(made(), [0, 0, 0, 1, 1, 1, 0, 1], [0, 1, 2, 0, 1, 2, -1, -1])
    assert found.dtype == np.float64
    assert found.tolist() == [4, 6, 2, 4, 3, 2, 3, 2]
    probability = predicted(made("logistic"), [0, 1], [2, -1])
    np.testing.assert_allclose(probability, [1 / (1 + exp(-2))] * 2, rtol=1e-15)
    assert predicted(made("none"), [1], [1]).tolist() == [3]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_predictions_are_the_sum_in_column_order(maker: Any) -> None:
    """Protects one answer everywhere, to the bit: a plain float64 loop, for the hardest vectors, in any batch."""
    rng = np.random.default_rng(2)
    model = made(
        users=maker(rng, 5, 7),
        items=maker(rng, 6, 7),
        item_bias=f32(rng.standard_normal(6)),
        user_offset=f32(rng.standard_normal(5)),
    )
    n = CHUNK_PAIRS + 3
    users, items = rng.integers(0, 5, n), rng.integers(-1, 6, n)
    found = predicted(model, users, items)
    for place in [*range(20), *range(CHUNK_PAIRS - 3, n)]:
        user, item, total = users[place], items[place], 0.0
        if item >= 0:
            for u, v in zip(
                model.user_vectors[user].tolist(), model.item_vectors[item].tolist(), strict=True
            ):
                total += u * v
            total += float(model.item_bias[item])
        assert found[place] == total + float(model.user_offset[user])
        assert predicted(model, [user], [item]).tolist() == [found[place]]


def test_predictions_of_nothing() -> None:
    """Protects the edges: no pairs, unknown items alone, and vectors without columns."""
    assert predicted(made(), [], []).shape == (0,)
    bare = made(users=f32(np.zeros((2, 0))), items=f32(np.zeros((3, 0))))
    assert predicted(bare, [0, 1, 1], [1, 1, -1]).tolist() == [4, 3, 2]


def test_far_logits_are_certain_without_a_warning() -> None:
    """Protects the service from overflow: a logit of a thousand is a probability of 1 or 0."""
    model = made("logistic", user_offset=f32([1000, -1000]))
    assert predicted(model, [0, 1], [-1, -1]).tolist() == [1.0, 0.0]


# Errors

# user 0: item 0 (predicted 4) was 5, item 1 (6) was 4, unknown item 4 (3) was 1; user 1: item 1 (3) was 3.5
TRUTH = csr_matrix((f32([5, 4, 1, 3.5]), ([0, 0, 0, 1], [0, 1, 4, 1])), shape=(2, 5))


def test_errors_by_hand() -> None:
    """Protects rmse and mae: sums by user, items that the model does not know among them."""
    squared, absolute, counts = error_sums(held_out_pairs(made(), TRUTH), n_users=2)
    assert squared.tolist() == [1 + 4 + 4, 0.25]
    assert absolute.tolist() == [1 + 2 + 2, 0.5]
    assert counts.tolist() == [3, 1]


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees_on_errors(seed: int) -> None:
    """Protects rmse and mae against slips: scikit-learn on the plain predictions of random pairs."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, "identity")
    truth = csr_matrix(
        np.where(rng.random((40, 33)) < 0.2, rng.integers(1, 6, (40, 33)), 0).astype(np.float32)
    )
    squared, absolute, counts = error_sums(held_out_pairs(model, truth), n_users=40)
    scores = np.zeros((40, 33))
    scores[:, :30] = model.user_vectors.astype(float) @ model.item_vectors.T.astype(float) + model.item_bias
    ratings = (scores + model.user_offset[:, None])[truth.nonzero()]
    assert squared.sum() / counts.sum() == pytest.approx(mean_squared_error(truth.data, ratings), rel=1e-12)
    assert absolute.sum() / counts.sum() == pytest.approx(mean_absolute_error(truth.data, ratings), rel=1e-12)


# Labels


def labelled(name: str, model: FactorModel, truth: csr_matrix = TRUTH) -> float:
    return label_value(name, held_out_pairs(model, truth), rule=LIKED, link=model.link)


def test_label_metrics_by_hand() -> None:
    """Protects labels and offsets: two pairs are true (predicted 4 and 6), two false (3 and 3)."""
    assert labelled("auc", made()) == 1.0
    assert labelled("auc", made(user_offset=f32([3, 5]))) == float(Fraction(1 + 1 + 0 + Fraction(1, 2), 4))
    assert labelled("accuracy", made()) == 1.0
    assert labelled("accuracy", made(user_offset=f32([2.9, 3]))) == 2 / 4  # 3.9 is no 4, and 4 is one
    chances = made(
        "logistic", user_offset=f32([-4, -1])
    )  # logits -3 and -1 of the true, -4 and 0 of the false
    costs = [log(1 + exp(3)), log(1 + exp(1)), log(1 + exp(-4)), log(2)]
    assert labelled("logloss", chances) == pytest.approx(sum(costs) / 4, rel=1e-14)
    assert labelled("accuracy", chances) == 1 / 4  # a probability of exactly 1/2 predicts the label
    assert labelled("auc", chances) == float(Fraction(1 + 0 + 1 + 0, 4))


def test_auc_counts_pairs() -> None:
    """Protects ties and the edges: 1/2 for a tie, NaN where the labels are all alike."""
    labels = np.array([True, False, True, False, False])
    scores = np.array([2.0, 2.0, 1.0, 0.0, 3.0])
    assert auc(scores, labels) == pytest.approx(float((Fraction(3, 2) + 1) / 6), rel=1e-15)
    assert auc(np.zeros(5), labels) == 0.5
    for alike in (np.ones(5, dtype=bool), np.zeros(5, dtype=bool), np.zeros(0, dtype=bool)):
        assert np.isnan(auc(scores[: len(alike)], alike))


def test_logloss_is_cut_where_it_would_be_infinite() -> None:
    """Protects the mean from one certain mistake: it costs -ln(eps), 36.04, and certainty that is right nearly 0."""
    assert logloss(np.array([0.0]), np.array([True])) == pytest.approx(-log(2.0**-52), rel=1e-12)
    assert logloss(np.array([1.0]), np.array([False])) == pytest.approx(-log(2.0**-52), rel=1e-12)
    assert logloss(np.array([1.0]), np.array([True])) == pytest.approx(0, abs=1e-15)


def test_no_pairs() -> None:
    """Protects the edges: a mean over nothing is NaN, without a warning."""
    nothing = np.zeros(0, dtype=bool)
    assert np.isnan(logloss(np.zeros(0), nothing))
    assert np.isnan(accuracy(nothing, nothing))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("link", ["identity", "logistic", "none"])
def test_scikit_learn_agrees_on_labels(link: str, seed: int) -> None:
    """Protects auc, logloss and accuracy against slips: scikit-learn on the same predictions and labels."""
    rng = np.random.default_rng(seed)
    model = random_model(rng, link)
    truth = csr_matrix(
        np.where(rng.random((40, 33)) < 0.2, rng.integers(1, 6, (40, 33)), 0).astype(np.float32)
    )
    pairs = held_out_pairs(model, truth)
    labels = truth.data >= 4
    assert labelled("auc", model, truth) == pytest.approx(roc_auc_score(labels, pairs.logits), rel=1e-12)
    if link == "logistic":
        chances = 1 / (1 + np.exp(-pairs.logits))
        assert labelled("logloss", model, truth) == pytest.approx(log_loss(labels, chances), rel=1e-12)
        assert labelled("accuracy", model, truth) == accuracy_score(labels, chances >= 0.5)
    if link == "identity":
        assert labelled("accuracy", model, truth) == accuracy_score(labels, pairs.logits >= 4)


def test_a_rule_has_the_precision_of_the_weights() -> None:
    """Protects `weight>=0.7` on float32 weights: the weight 0.7 satisfies it."""
    truth = csr_matrix((f32([0.7, 0.6]), ([0, 0], [0, 1])), shape=(2, 5))
    pairs = held_out_pairs(made("none", item_bias=f32([9, 0, 0])), truth)
    assert label_value("auc", pairs, rule=parse_rule("weight>=0.7"), link="none") == 1.0
