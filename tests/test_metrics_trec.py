"""trec_eval, the reference implementation of the field (NIST), on random cases: a second opinion on ranking metrics.

Where its definition differs the difference is undone openly here: its map_cut divides by all relevant items, ours by
what k places can hold, and its recip_rank looks at the whole run, so it is given the first k alone.
"""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from scipy.sparse import csr_matrix

from nightrank.quality.metrics import METRICS
from nightrank.ranking import ItemIndex

THEIRS = {
    "recall": "recall_{k}",
    "precision": "P_{k}",
    "hr": "success_{k}",
    "ndcg": "ndcg_cut_{k}",
    "map": "map_cut_{k}",
    "mrr": "recip_rank",
}


@pytest.mark.parametrize("k", [1, 5, 10, 30])
@pytest.mark.parametrize("seed", range(3))
def test_trec_eval_agrees(seed: int, k: int) -> None:
    """Protects all six definitions: truths of 1 to 15 items, some unknown, and lists shorter than k."""
    rng = np.random.default_rng(seed)
    n_users, n_items = 50, 25
    index = ItemIndex(rng.standard_normal((n_items, 4)).astype(np.float32), threads=1)
    topk = index.top_k(rng.standard_normal((n_users, 4)).astype(np.float32), k)
    relevant = [rng.permutation(n_items + 5)[: rng.integers(1, 16)] for _ in range(n_users)]
    truth = csr_matrix(
        (
            np.ones(sum(map(len, relevant)), np.float32),
            np.concatenate(relevant),
            np.cumsum([0, *map(len, relevant)]),
        ),
        shape=(n_users, n_items + 5),
    )
    qrel = {str(user): {str(item): 1 for item in items} for user, items in enumerate(relevant)}
    run = {
        str(user): {str(item): float(-rank) for rank, item in enumerate(row[:count])}
        for user, (row, count) in enumerate(zip(topk.item_rows.tolist(), topk.counts, strict=True))
    }
    names = {metric: name.format(k=k) for metric, name in THEIRS.items()}
    asked = {name.rsplit("_", 1)[0] + f".{k}" if "recip" not in name else name for name in names.values()}
    found = pytrec_eval.RelevanceEvaluator(qrel, asked).evaluate(run)
    for metric, name in names.items():
        theirs = np.array([found[str(user)][name] for user in range(n_users)])
        if metric == "map":
            theirs *= [len(items) / min(k, len(items)) for items in relevant]
        np.testing.assert_allclose(METRICS[metric](topk, truth), theirs, rtol=1e-12, err_msg=metric)


def test_every_ranking_metric_has_a_second_opinion() -> None:
    """Protects the test above from a metric that it does not know."""
    assert THEIRS.keys() == METRICS.keys()
