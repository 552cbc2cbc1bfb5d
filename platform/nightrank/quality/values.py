"""Metrics of predicted values: held-out pairs of known users, each predicted by itself, nothing ranked.

rmse and mae compare a predicted rating with the held-out weight; auc, logloss and accuracy compare a prediction with
a label, which a rule such as `weight>=4` makes of the weight. A predicted rating is cut to the bounds of a model that
has them, and to no others; auc goes by order, so it takes what was not cut. rmse and mae are sums over a user's pairs
first, so that users can be resampled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit
from scipy.stats import rankdata

from nightrank.config.rules import Rule
from nightrank.models import FactorModel
from nightrank.ranking.predictions import predict

Values = NDArray[np.float64]
PROBABILITY = 0.5  # from here on a probability predicts the label
EPSILON = float(np.finfo(np.float64).eps)


class Pairs(NamedTuple):
    """Held-out pairs by user. users: int64 (n,), rows of the truth. weights, logits: float64 (n,); logits are
    score + user_offset, before the link: a rating for `identity`, a logit for `logistic`, on no scale for `none`.
    bounds: of the model."""

    users: NDArray[np.int64]
    weights: Values
    logits: Values
    bounds: tuple[float, float] | None = None

    @property
    def ratings(self) -> Values:
        """What a model of link `identity` predicts: cut to its bounds."""
        return self.logits if self.bounds is None else np.clip(self.logits, *self.bounds)


def held_out_pairs(model: FactorModel, truth: csr_matrix) -> Pairs:
    """Every stored cell of the truth, predicted.

    truth: CSR (n_users, n_items + n_new) of weights; an item at or beyond n_items, which the model does not know, has
    score 0, so it is predicted as the user's offset alone.
    """
    users = np.repeat(np.arange(truth.shape[0], dtype=np.int64), np.diff(truth.indptr))
    columns = truth.indices.astype(np.int64)
    logits = predict(
        model.user_vectors,
        model.item_vectors,
        item_bias=model.item_bias,
        user_offset=model.user_offset,
        user_rows=users,
        item_rows=np.where(columns < len(model.item_vectors), columns, -1),
        link="none",
    )
    return Pairs(users=users, weights=truth.data.astype(np.float64), logits=logits, bounds=model.bounds)


def error_sums(pairs: Pairs, *, n_users: int) -> tuple[Values, Values, Values]:
    """Per user the sums of squared and of absolute errors, and the number of pairs: float64 (n_users,) each."""
    errors = pairs.ratings - pairs.weights
    return (
        user_sums(pairs, errors * errors, n_users=n_users),
        user_sums(pairs, np.abs(errors), n_users=n_users),
        user_sums(pairs, np.ones(len(errors)), n_users=n_users),
    )


def user_sums(pairs: Pairs, values: Values, *, n_users: int) -> Values:
    """The sum of each user's pairs, float64 (n_users,), of a value for each pair."""
    return np.bincount(pairs.users, weights=values, minlength=n_users).astype(np.float64)


def auc(scores: Values, labels: NDArray[np.bool_]) -> float:
    """The share of (true, false) pairs of labels that the scores order rightly, over all pairs at once; ties 1/2.

    scores: float64 (n,), on any scale. NaN where the labels are all alike. O(n log n).
    The Mann-Whitney statistic: Hanley and McNeil, Radiology 1982; Fawcett, "An introduction to ROC analysis", 2006.
    """
    n_true = int(np.count_nonzero(labels))
    n_false = len(labels) - n_true
    if n_true == 0 or n_false == 0:
        return float("nan")
    above = rankdata(scores)[labels].sum() - n_true * (n_true + 1) / 2
    return float(above / (n_true * n_false))


def logloss(probabilities: Values, labels: NDArray[np.bool_]) -> float:
    """The mean of -ln(probability of what was so), over all pairs; NaN without pairs.

    probabilities: float64 (n,) that the label is true, first cut to [eps, 1 - eps] of float64, so that one certain
    mistake costs 36 and not infinity. Cross-entropy: Bishop, "Pattern Recognition and Machine Learning", 4.90.
    """
    return float(log_losses(probabilities, labels).mean()) if len(labels) else float("nan")


def log_losses(probabilities: Values, labels: NDArray[np.bool_]) -> Values:
    """What each pair adds to `logloss`, float64 (n,)."""
    cut = np.clip(probabilities, EPSILON, 1 - EPSILON)
    result: Values = -np.log(np.where(labels, cut, 1 - cut))
    return result


def labels_of(pairs: Pairs, rule: Rule) -> NDArray[np.bool_]:
    """bool (n,): the label that the rule makes of each held-out weight, in the weights' own precision."""
    return rule.holds(pairs.weights.astype(np.float32))


def accuracy(predicted: NDArray[np.bool_], labels: NDArray[np.bool_]) -> float:
    """The share of pairs whose predicted label is the true one; NaN without pairs."""
    return float((predicted == labels).mean()) if len(labels) else float("nan")


def label_value(name: str, pairs: Pairs, *, rule: Rule, link: str) -> float:
    """`auc`, `logloss` or `accuracy` of a model's pairs, labelled by the rule.

    Predicted labels: a probability of at least 1/2 for link `logistic`; for `identity` the rule itself, of the
    predicted rating.
    """
    labels = labels_of(pairs, rule)
    if name == "auc":
        return auc(pairs.logits, labels)
    if name == "logloss":
        return logloss(expit(pairs.logits), labels)
    if link == "logistic":
        return accuracy(expit(pairs.logits) >= PROBABILITY, labels)
    return accuracy(rule.holds(pairs.ratings), labels)
