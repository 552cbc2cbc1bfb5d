"""rank_auc: the share of rightly ordered pairs by hand, by a plain loop over hard vectors, and by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from nightrank.errors import DataError
from nightrank.quality.rank_auc import rank_auc
from nightrank.ranking import ItemIndex
from nightrank.ranking.comparisons import PART, compare
from reference import MAKERS, Floats, allowed_items, f32, plain_score, random_cells

NAN = float("nan")


def cells(*users: list[int], n_columns: int) -> csr_matrix:
    """Stored cells, of value 0, columns in the order given."""
    indices = np.array([item for items in users for item in items], dtype=np.int32)
    indptr = np.cumsum([0] + [len(items) for items in users]).astype(np.int32)
    return csr_matrix((np.zeros(len(indices), np.float32), indices, indptr), shape=(len(users), n_columns))


def by_bias(bias: list[float], n_users: int) -> tuple[ItemIndex, Floats]:
    """A catalogue ordered by bias alone, the same for all users."""
    return ItemIndex(f32(np.zeros((len(bias), 0))), f32(bias), threads=1), f32(np.zeros((n_users, 0)))


def plain_auc(
    users: Floats,
    items: Floats,
    bias: Floats,
    *,
    truth: csr_matrix,
    seen: csr_matrix | None,
    candidates: csr_matrix | None,
) -> list[float]:
    """Pair by pair, in fractions, from the plain canonical score."""
    values = []
    for user, vector in enumerate(users.tolist()):
        relevant = set(truth.indices[truth.indptr[user] : truth.indptr[user + 1]].tolist())
        excluded = seen if candidates is None else None
        pool = allowed_items(user, len(items), exclude=excluded, allow=candidates)
        scores = {item: plain_score(vector, items[item].tolist(), float(bias[item])) for item in pool}
        others = pool - relevant
        right = Fraction(0)
        for item in relevant & pool:
            for other in others:
                right += (
                    Fraction(1, 2) if scores[item] == scores[other] else int(scores[item] > scores[other])
                )
        pairs = len(relevant) * len(others)
        values.append(float(right / pairs) if pairs else NAN)
    return values


def test_values_worked_out_by_hand() -> None:
    """Protects the definition: ties 1/2, seen items out, unknown items last, NaN without relevant or irrelevant."""
    index, users = by_bias([5, 4, 4, 3, 2, 1], 8)
    truth = cells([0], [2], [5], [1, 4], [2, 7], [], [3], [0, 1], n_columns=8)
    seen = cells([], [0], [0, 1, 2], [3], [3, 4], [1], [0, 1, 2, 4, 5], [0], n_columns=6)
    found = rank_auc(index, users, truth=truth, seen=seen)
    expected = [
        1.0,  # the first of all
        Fraction(7, 8),  # others 1 (tie), 3, 4, 5
        0.0,  # the last of 3, 4, 5
        (Fraction(3, 2) + 1) / (2 * 3),  # 1 against 0, 2, 5: wrong, tie, right; 4: wrong, wrong, right
        Fraction(3, 2) / (2 * 3),  # 2 against 0, 1, 5: tie with 1, above 5; 7 is unknown: all wrong
        NAN,  # no truth
        NAN,  # nothing irrelevant is left
        Fraction(7, 2) / (2 * 4),  # 1 against 2 (tie), 3, 4, 5; 0 was seen: last, all wrong
    ]
    np.testing.assert_allclose(found, [float(value) for value in expected], rtol=1e-15)


def test_candidates_by_hand() -> None:
    """Protects sampled evaluation: candidates alone are compared, seen ones too, each once."""
    index, users = by_bias([5, 4, 4, 3, 2, 1], 4)
    truth = cells([1], [1, 0], [0], [5], n_columns=8)
    candidates = cells([1, 2, 3, 3, 2], [5, 1, 1, 4], [0], [1, 5, 4], n_columns=6)
    seen = cells([3], [5], [], [4], n_columns=6)
    found = rank_auc(index, users, truth=truth, seen=seen, candidates=candidates)
    expected = [Fraction(3, 2) / 2, Fraction(2, 2 * 2), NAN, 0.0]
    np.testing.assert_array_equal(found, [float(value) for value in expected])


def test_popularity_is_the_oracle() -> None:
    """Protects ties without vectors: a model that knows nothing is worth exactly 1/2, the true counts exactly 1."""
    index, users = by_bias([3.0] * 40, 3)
    truth = cells([0], [5, 6, 39], [7], n_columns=40)
    assert rank_auc(index, users, truth=truth).tolist() == [0.5, 0.5, 0.5]
    counts = [2.0**24 - item for item in range(40)]
    index, users = by_bias(counts, 2)
    assert rank_auc(index, users, truth=cells([0, 1, 2], [39], n_columns=40)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
@pytest.mark.parametrize("kind", ["all", "seen", "candidates"])
def test_hard_vectors_equal_the_plain_loop(maker: Callable[..., Floats], kind: str) -> None:
    """Protects order and ties of canonical scores: cancelling, tiny, huge and equal ones, pair by pair."""
    rng = np.random.default_rng(len(maker.__name__))
    n_users, n_items, d = 11, 37, 9
    vectors, items = maker(rng, n_users, d), maker(rng, n_items, d)
    bias = f32(rng.integers(-1, 2, n_items))
    given = {
        "truth": random_cells(rng, (n_users, n_items + 3), 0.2),
        "seen": random_cells(rng, (n_users, n_items), 0.3) if kind != "all" else None,
        "candidates": random_cells(rng, (n_users, n_items), 0.4) if kind == "candidates" else None,
    }
    found = rank_auc(ItemIndex(items, bias, threads=1), vectors, **given)
    np.testing.assert_array_equal(found, plain_auc(vectors, items, bias, **given))


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees(seed: int) -> None:
    """Protects the definition itself: scikit-learn's area under the ROC curve of each user, ties among them."""
    rng = np.random.default_rng(seed)
    items, users = f32(rng.integers(-2, 3, (50, 4))), f32(rng.integers(-2, 3, (30, 4)))
    seen = rng.random((30, 50)) < 0.2
    relevant = (
        rng.random((30, 50)) < 0.1
    ) & ~seen  # a relevant item that is not ranked is not in its definition
    found = rank_auc(
        ItemIndex(items, threads=1),
        users,
        truth=csr_matrix(relevant, dtype=np.float32),
        seen=csr_matrix(seen),
    )
    scores = users @ items.T
    for user in np.flatnonzero(relevant.any(axis=1)):
        expected = roc_auc_score(relevant[user, ~seen[user]], scores[user, ~seen[user]])
        assert found[user] == pytest.approx(expected, abs=1e-12)


def test_one_user_many_users_and_threads_agree_to_the_bit() -> None:
    """Protects evaluation in chunks: who else is in the call, and how many threads, changes no bit."""
    rng = np.random.default_rng(4)
    n_users, n_items = PART + 13, 20
    users, items = f32(rng.standard_normal((n_users, 5))), f32(rng.standard_normal((n_items, 5)))
    truth, seen = random_cells(rng, (n_users, n_items + 2), 0.2), random_cells(rng, (n_users, n_items), 0.2)
    whole = rank_auc(ItemIndex(items, threads=1), users, truth=truth, seen=seen)
    shared = rank_auc(ItemIndex(items, threads=3), users, truth=truth, seen=seen)
    np.testing.assert_array_equal(shared, whole)
    for user in (0, 7, 8, PART - 1, PART, n_users - 1):
        one = slice(user, user + 1)
        alone = rank_auc(ItemIndex(items, threads=1), users[one], truth=truth[one], seen=seen[one])
        np.testing.assert_array_equal(alone, whole[one])


def test_reversing_the_score_reverses_the_value() -> None:
    """Protects the treatment of ties: with no unknown items, the value of -score is 1 less that of the score."""
    rng = np.random.default_rng(5)
    users, items = f32(rng.integers(-2, 3, (25, 3))), f32(rng.integers(-2, 3, (30, 3)))
    truth = random_cells(rng, (25, 30), 0.2)
    found = rank_auc(ItemIndex(items, threads=1), users, truth=truth)
    turned = rank_auc(ItemIndex(items, threads=1), -users, truth=truth)
    np.testing.assert_allclose(found + turned, 1, rtol=1e-15)


def test_no_users_and_no_items() -> None:
    """Protects the edges: no users give no values, an empty catalogue gives NaN, a duplicate target counts once."""
    index, users = by_bias([1, 2, 3], 1)
    assert rank_auc(index, users[:0], truth=csr_matrix((0, 3))).shape == (0,)
    assert np.isnan(rank_auc(*by_bias([], 1), truth=cells([0], n_columns=1))).all()
    found = compare(index, users, targets=cells([2, 2, 1], n_columns=3))
    assert [column.tolist() for column in found] == [[2], [0], [1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": csr_matrix((2, 4))}, r"exclude has shape \(2, 4\); expected users x items, 2 x 3"),
        ({"candidates": csr_matrix((1, 3))}, r"allow has shape \(1, 3\)"),
        ({"user_vectors": f32(np.zeros((2, 1)))}, r"user_vectors have 1 columns, item_vectors 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    """Protects compiled code from following rows and columns that are not there."""
    index, users = by_bias([1, 2, 3], 2)
    given = {"user_vectors": users, "truth": cells([0], [1], n_columns=3)} | change
    with pytest.raises(DataError, match=message):
        rank_auc(index, **given)
