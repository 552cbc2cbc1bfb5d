"""rank_auc: the area under the ROC curve of each user's whole order, over the catalogue or over candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking import ItemIndex
from nightrank.ranking.comparisons import compare


def rank_auc(
    index: ItemIndex,
    user_vectors: NDArray[np.float32],
    *,
    truth: csr_matrix,
    seen: csr_matrix | None = None,
    candidates: csr_matrix | None = None,
) -> NDArray[np.float64]:
    """Per user the share of (relevant, irrelevant) pairs that the score orders rightly, float64 (n,).

    The irrelevant: the items of the catalogue that are neither `seen` nor in the truth, or those of `candidates`
    (of which `seen` takes nothing away). Ties, of canonical scores, count one half. A relevant item that is not
    among what is ranked (seen, no candidate, or beyond the catalogue) stays in the truth and counts as ranked last:
    all its pairs are wrong. NaN where there is nothing relevant or nothing irrelevant.

    user_vectors: float32 (n, d). truth: CSR (n, any), distinct stored cells are relevant. seen, candidates: CSR
    (n, n_items), stored cells count. O(n n_items d); memory does not grow with users x items.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, section 4.1 and its
    evaluation; ties as in Fawcett, "An introduction to ROC analysis", 2006, section 7.
    """
    found = compare(
        index,
        user_vectors,
        targets=truth,
        exclude=seen if candidates is None else None,
        allow=candidates,
    )
    pairs = np.diff(truth.indptr).astype(np.int64) * found.others
    result: NDArray[np.float64] = (found.wins + found.ties / 2) / np.where(pairs > 0, pairs, np.nan)
    return result
