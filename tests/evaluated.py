"""Small cases for evaluate(), and how tests ask it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from nightrank.config.rules import parse_rule
from nightrank.models.factor_model import factor_model
from nightrank.quality.evaluation import Evaluation, evaluate
from nightrank.quality.names import parse_metrics
from reference import f32

LIKED = parse_rule("weight>=4")
RANKED = "recall@3,ndcg@3,map@3,precision@2,hr@1,mrr@3,rank_auc,coverage@3,novelty@3,gini@3,mean_popularity@3"


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
