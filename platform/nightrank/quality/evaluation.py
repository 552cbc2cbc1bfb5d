"""Evaluation: rank the whole catalogue less what train has seen, and score it against the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.rules import Rule
from nightrank.data.splits import Split
from nightrank.models import FactorModel
from nightrank.quality.metrics import METRICS
from nightrank.ranking import ItemIndex
from nightrank.ranking.ranker import Ranker, chunks


def relevant_truth(split: Split, rule: Rule | None) -> csr_matrix:
    """The held-out pairs that count: all, or those whose weight the rule accepts."""
    if rule is None:
        return split.truth
    users = np.repeat(np.arange(split.truth.shape[0]), np.diff(split.truth.indptr))
    keep = rule.holds(split.truth.data)
    return csr_matrix(
        (split.truth.data[keep], (users[keep], split.truth.indices[keep])), shape=split.truth.shape
    )


def per_user(
    model: FactorModel, split: Split, *, metric: str, k: int, truth: csr_matrix, threads: int
) -> NDArray[np.float64]:
    """metric@k of every user of the split, float64 (n_train_users,), NaN for users without truth."""
    ranker = Ranker(
        index=ItemIndex(model.item_vectors, model.item_bias, threads=threads),
        user_vectors=model.user_vectors,
        seen=split.train.user_items,
    )
    values = np.full(len(model.user_vectors), np.nan)
    for start, topk in chunks(ranker.rank, slice(0, len(model.user_vectors)), k):
        users = slice(start, start + len(topk.counts))
        values[users] = METRICS[metric](topk, truth[users])
    return values
