"""Ranking metrics with binary relevance, one value per user.

Textbook definitions, each with its source. Each function takes the TopK of n users and the truth, CSR (n, any) whose
stored cells are relevant, and returns float64 (n,): NaN for users without truth. Ranks beyond a user's count are
misses. Truth beyond the catalogue counts as missed. IIR: Manning, Raghavan and Schuetze, "Introduction to Information
Retrieval", 2008, chapter 8.

What needs the whole order is in `rank_auc`, what looks at the lists alone in `exposure`, what compares predicted
values in `values`; `evaluation` asks for any of them by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking.topk import TopK

Values = NDArray[np.float64]


def hits(topk: TopK, truth: csr_matrix) -> NDArray[np.bool_]:
    """bool (n, k): is the item at this rank relevant?"""
    n_columns = np.int64(max(truth.shape[1], int(topk.item_rows.max(initial=0)) + 1))
    users = np.arange(len(topk.counts), dtype=np.int64)
    relevant = np.repeat(users, np.diff(truth.indptr)) * n_columns + truth.indices
    answered = users[:, None] * n_columns + topk.item_rows
    result: NDArray[np.bool_] = np.isin(answered, relevant) & (topk.item_rows >= 0)
    return result


def _sizes(truth: csr_matrix) -> Values:
    sizes: Values = np.diff(truth.indptr).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return sizes


def precision(topk: TopK, truth: csr_matrix) -> Values:
    """Relevant among the k, divided by k, however short the list. Source: IIR 8.4."""
    result: Values = hits(topk, truth).sum(axis=1) / topk.item_rows.shape[1] + 0.0 * _sizes(truth)
    return result


def recall(topk: TopK, truth: csr_matrix) -> Values:
    """Relevant among the k, divided by all relevant. Source: IIR 8.4."""
    result: Values = hits(topk, truth).sum(axis=1) / _sizes(truth)
    return result


def hr(topk: TopK, truth: csr_matrix) -> Values:
    """Hit rate: 1 where any of the k is relevant. Source: Deshpande and Karypis, TOIS 2004, for one relevant item."""
    result: Values = hits(topk, truth).any(axis=1) + 0.0 * _sizes(truth)
    return result


def mrr(topk: TopK, truth: csr_matrix) -> Values:
    """1 / rank of the first relevant item, 0 without one among the k. Source: Voorhees, TREC-8, 1999."""
    found = hits(topk, truth)
    return np.where(found.any(axis=1), 1.0 / (found.argmax(axis=1) + 1), 0.0) + 0.0 * _sizes(truth)


def map(topk: TopK, truth: csr_matrix) -> Values:
    """Average precision: the sum of precision at each hit, divided by min(k, relevant), which k places can hold.

    Source: IIR 8.4, cut at k as in McFee et al., "The Million Song Dataset Challenge", 2012 (trec_eval's map_cut
    divides by all relevant).
    """
    found = hits(topk, truth)
    ranks = np.arange(1, found.shape[1] + 1)
    total = (found * found.cumsum(axis=1) / ranks).sum(axis=1)
    result: Values = total / np.minimum(_sizes(truth), found.shape[1])
    return result


def ndcg(topk: TopK, truth: csr_matrix) -> Values:
    """Discounted gain of the hits, divided by that of a perfect list of k.

    Source: Jarvelin and Kekalainen, TOIS 2002, with gain 1 and the discount log2(rank + 1) of Burges et al., 2005.
    """
    found = hits(topk, truth)
    discounts = 1.0 / np.log2(np.arange(2, found.shape[1] + 2))
    reachable = np.minimum(np.diff(truth.indptr), found.shape[1])
    best = np.concatenate([[np.nan], discounts.cumsum()])[reachable]  # NaN: no truth, nothing to divide by
    result: Values = (found @ discounts) / best
    return result


METRICS: dict[str, Callable[[TopK, csr_matrix], Values]] = {
    "ndcg": ndcg,
    "recall": recall,
    "map": map,
    "precision": precision,
    "hr": hr,
    "mrr": mrr,
}
