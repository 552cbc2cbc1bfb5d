"""The objective: what recipes are compared by, as one value of every user, so that two of them can be paired.

A ranking metric (ndcg@10) is a mean over users. rmse and logloss are means over pairs: a user's value is then the sum
of their pairs' losses (squared error, -ln p) times users / pairs, so that the plain mean of the values is the loss of
a pair, whose root is the rmse. Values are shown as they are; where they are compared, larger is better: `gain`
turns losses around.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit

from nightrank.config.rules import Rule
from nightrank.data.splits import Split
from nightrank.errors import DataError
from nightrank.models import FactorModel
from nightrank.quality.evaluation import per_user, relevant_truth
from nightrank.quality.intervals import Estimate, UserSums, difference, estimates
from nightrank.quality.names import is_loss
from nightrank.quality.values import held_out_pairs, labels_of, log_losses, user_sums

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """metric: ndcg, rmse and so on. k: of a ranking, None for a loss. relevant: which held-out pairs count in a
    ranking. label: what the probabilities of logloss are of."""

    metric: str
    k: int | None = None
    relevant: Rule | None = None
    label: Rule | None = None

    @property
    def name(self) -> str:
        """Such as ndcg@10 or rmse."""
        return self.metric if self.k is None else f"{self.metric}@{self.k}"

    def truth(self, split: Split) -> csr_matrix:
        """The held-out pairs that count: of a ranking the relevant ones, of a loss all."""
        return split.truth if is_loss(self.metric) else relevant_truth(split, self.relevant)

    def per_user(self, model: FactorModel, split: Split, *, truth: csr_matrix, threads: int) -> Values:
        """The value of every user of the split, float64 (n_train_users,), NaN for users without truth.

        truth: as of `truth`. Items that the model does not know are missed in a ranking, and predicted by the user's
        offset alone. Raises DataError for logloss without a label.
        """
        if self.k is not None:
            return per_user(model, split, metric=self.metric, k=self.k, truth=truth, threads=threads)
        pairs = held_out_pairs(model, truth)
        if self.metric == "rmse":
            losses = np.square(pairs.ratings - pairs.weights)
        elif self.label is None:
            raise DataError("logloss needs labels; give the rule that makes them, such as label: weight>=4")
        else:
            losses = log_losses(expit(pairs.logits), labels_of(pairs, self.label))
        sizes = np.diff(truth.indptr)
        sums = user_sums(pairs, losses, n_users=len(sizes)) * (np.count_nonzero(sizes) / max(1, truth.nnz))
        return np.where(sizes > 0, sums, np.nan)

    def shares(self, truth: csr_matrix) -> Values | None:
        """What each user counts in a mean over pairs: their pairs, in units of the mean; None: all the same."""
        if not is_loss(self.metric):
            return None
        sizes = np.diff(truth.indptr)
        shares: Values = sizes * (np.count_nonzero(sizes) / max(1, truth.nnz))
        return shares


def value_of(values: Values, *, metric: str) -> float:
    """The metric of users' values (NaN: not counted), as it is shown."""
    mean = float(np.nanmean(values))
    return float(np.sqrt(mean)) if metric == "rmse" else mean


def gain(candidate: Values, baseline: Values, *, metric: str) -> float:
    """How much better the candidate is: the mean paired difference per user; of a loss the difference of the two."""
    if not is_loss(metric):
        return float(np.nanmean(candidate - baseline))
    return value_of(baseline, metric=metric) - value_of(candidate, metric=metric)


def value_estimate(values: Values, *, metric: str, shares: Values | None, seed: int) -> Estimate:
    """The metric with its 95% bootstrap interval over users. shares: of `Objective.shares`."""
    counted = np.flatnonzero(~np.isnan(values))
    return estimates({"value": _sums(values, metric, shares)}, counted, seed=seed)["value"]


def gain_estimate(
    candidate: Values, baseline: Values, *, metric: str, shares: Values | None, seed: int
) -> Estimate:
    """`gain` with its 95% bootstrap interval, paired over the users whom both count."""
    counted = np.flatnonzero(~(np.isnan(candidate) | np.isnan(baseline)))
    if not is_loss(metric):
        return estimates({"gain": UserSums.of_values(candidate - baseline)}, counted, seed=seed)["gain"]
    before, after = (_sums(values, metric, shares) for values in (baseline, candidate))
    return difference(before, after, counted, seed=seed)


def _sums(values: Values, metric: str, shares: Values | None) -> UserSums:
    found = UserSums.of_values(values)
    counts = found.counts if shares is None else np.where(np.isnan(values), 0.0, shares)
    return UserSums(found.sums, counts, is_root=metric == "rmse")
