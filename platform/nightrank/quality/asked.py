"""What an evaluation was asked, checked before anything is ranked: shapes, links, rules, candidates.

Every refusal says what was found, what was expected and what to do; nothing is repaired on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.rules import Rule
from nightrank.errors import DataError, SettingsError
from nightrank.models import FactorModel
from nightrank.quality.names import MetricSpec

# The links whose predictions a metric can be computed of; a metric that is not here takes any.
LINKS = {
    "rmse": ("identity",),
    "mae": ("identity",),
    "logloss": ("logistic",),
    "accuracy": ("identity", "logistic"),
}
_MEANING = {"none": "scores on no scale", "identity": "ratings", "logistic": "probabilities"}


@dataclass(frozen=True)
class Held:
    """Held-out pairs, CSR (n_users, n_items + n_new). pairs: all, with their weights. relevant: those that count as
    relevant in rankings. users: int64, rows of those who have a pair that some metric counts; ranked: of those who
    have a relevant one."""

    pairs: csr_matrix
    relevant: csr_matrix
    users: NDArray[np.int64]
    ranked: NDArray[np.int64]


def relevant_pairs(truth: csr_matrix, rule: Rule | None) -> csr_matrix:
    """The held-out pairs that count: those of a weight above 0, or those whose weight the rule accepts."""
    users = np.repeat(np.arange(truth.shape[0]), np.diff(truth.indptr))
    keep = truth.data > 0 if rule is None else rule.holds(truth.data)
    if keep.all():
        return truth
    return csr_matrix((truth.data[keep], (users[keep], truth.indices[keep])), shape=truth.shape)


def check_specs(specs: Sequence[MetricSpec], *, rule: Rule | None, link: str | None = None) -> None:
    """Raises SettingsError for a metric that the model's link cannot give, or that lacks the rule for its labels.

    link: of the model, where it is known already.
    """
    if not specs:
        raise SettingsError('no metric was asked for; name some, such as "recall@20,rmse"')
    for spec in specs:
        links = LINKS.get(spec.name)
        if link is not None and links is not None and link not in links:
            expected = " or ".join(_MEANING[one] for one in links)
            raise SettingsError(
                f"{spec} needs a model that predicts {expected}, and this one gives {_MEANING[link]} (link {link}); "
                f"leave {spec} out, or choose a model that does"
            )
        if spec.needs_rule and rule is None:
            raise SettingsError(
                f'{spec} needs labels; give the rule that makes them of the weights, such as "weight>=4"'
            )


def held_out(truth: csr_matrix, *, specs: Sequence[MetricSpec], relevant: Rule | None) -> Held:
    """The pairs and users that the metrics look at. Raises DataError where there are none."""
    truth = distinct(truth, name="truth")
    counting = relevant_pairs(truth, relevant)
    has_relevant = np.diff(counting.indptr) > 0
    is_ranking = any(_is_ranking(spec) for spec in specs)
    is_value = not all(_is_ranking(spec) for spec in specs)
    has_pair = np.diff(truth.indptr) > 0
    if not (has_relevant if is_ranking else has_pair).any():
        raise DataError(
            f"none of the {truth.shape[0]} users has a held-out pair that counts, so there is nothing to measure: "
            "check that the test data is of users and weights that the train data and the rule know"
        )
    return Held(
        pairs=truth,
        relevant=counting,
        users=np.flatnonzero((has_relevant & is_ranking) | (has_pair & is_value)),
        ranked=np.flatnonzero(has_relevant & is_ranking),
    )


def check_shapes(model: FactorModel, *, train: csr_matrix, truth: csr_matrix) -> None:
    """Raises DataError unless train is users x items of the model, and truth has those users and items first."""
    n_users, n_items = len(model.user_vectors), len(model.item_vectors)
    if train.shape != (n_users, n_items):
        raise DataError(
            f"train has shape {train.shape}; expected users x items of the model, {n_users, n_items}"
        )
    if truth.shape[0] != n_users or truth.shape[1] < n_items:
        raise DataError(
            f"truth has shape {truth.shape}; expected a row for each of {n_users} users, and {n_items} columns or "
            "more: those of the model's items, then those of items that it does not know"
        )


def checked_candidates(candidates: csr_matrix, *, held: Held, n_items: int) -> csr_matrix:
    """The candidates, each once, columns sorted. Raises DataError for ones that cannot tell good from bad."""
    n_users = held.pairs.shape[0]
    if candidates.shape != (n_users, n_items):
        raise DataError(
            f"candidates have shape {candidates.shape}; expected users x items of the catalogue, {n_users, n_items}"
        )
    cells = csr_matrix(
        (np.ones(len(candidates.indices), np.bool_), candidates.indices.copy(), candidates.indptr.copy()),
        shape=candidates.shape,
    )
    cells.sum_duplicates()  # the engine promises nothing of repeats
    without = held.ranked[np.diff(cells.indptr)[held.ranked] == 0]
    if len(without):
        raise DataError(
            f"{len(without)} of {len(held.ranked)} users with held-out items have no candidate that is in the "
            f"catalogue, first the one in row {without[0]}; add some, or take them out of the test data"
        )
    known = held.relevant[:, :n_items]
    ones = csr_matrix((np.ones(known.nnz, np.bool_), known.indices, known.indptr), shape=known.shape)
    if len(held.ranked) and cells.multiply(ones).nnz == 0:
        raise DataError(
            "no candidate is a held-out item of its user, so every ranking would be worth 0; list each user's "
            "held-out items among that user's candidates"
        )
    return cells


def _is_ranking(spec: MetricSpec) -> bool:
    return spec.kind in ("ranked", "exposure", "order")


def distinct(cells: csr_matrix, *, name: str) -> csr_matrix:
    """The cells of a CSR, columns sorted. Raises DataError where one is there twice: it would count twice."""
    if cells.has_canonical_format:
        return cells
    own = cells.copy()
    own.sort_indices()
    own.has_canonical_format = False
    own.sum_duplicates()
    if own.nnz != cells.nnz:
        raise DataError(f"{name} holds {cells.nnz - own.nnz} pairs twice; combine them first")
    return own
