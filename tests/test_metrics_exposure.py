"""Metrics of what lists look like: coverage, gini, novelty, mean_popularity, by hand and once more plainly."""

from __future__ import annotations

from fractions import Fraction
from math import log2

import numpy as np
import pytest

from nightrank.quality.exposure import coverage, exposure, gini, mean_popularity, novelty
from nightrank.ranking import ItemIndex, TopK

NAN = float("nan")


def lists(*users: list[int], k: int) -> TopK:
    """A TopK of k places from lists of at most k item rows."""
    result = TopK.empty(len(users), k)
    for user, items in enumerate(users):
        result.item_rows[user, : len(items)] = items
        result.scores[user, : len(items)] = -np.arange(len(items), dtype=np.float32)
        result.counts[user] = len(items)
    return result


# Four users, k = 3, a catalogue of 6: items 0 to 3 are shown 3, 2, 1, 1 times, items 4 and 5 never.
ANSWERS = lists([0, 1, 2], [0, 1], [0, 3], [], k=3)
ITEM_USERS = np.array([8, 4, 2, 1, 16, 0])  # train users of each item, of 16


def plain_gini(counts: list[int]) -> Fraction:
    """Half the mean absolute difference of all ordered pairs, over the mean."""
    n, total = len(counts), sum(counts)
    return Fraction(sum(abs(a - b) for a in counts for b in counts), 2 * n * total)


def test_exposure_by_hand() -> None:
    """Protects the counts: absent places count for no item."""
    assert exposure(ANSWERS, 6).tolist() == [3, 2, 1, 1, 0, 0]
    assert exposure(TopK.empty(0, 3), 2).tolist() == [0, 0]


def test_coverage_by_hand() -> None:
    """Protects coverage: 4 of 6 items are in somebody's list, 3 of 6 in the first two places."""
    assert coverage(exposure(ANSWERS, 6)) == 4 / 6
    assert coverage(exposure(ANSWERS.cut(2), 6)) == 3 / 6
    assert np.isnan(coverage(np.zeros(0, dtype=np.int64)))


def test_gini_by_hand() -> None:
    """Protects the Gini index: (-1*1 + 1*1 + 3*2 + 5*3) / (6 * 7) over counts 0 0 1 1 2 3."""
    assert gini(exposure(ANSWERS, 6)) == pytest.approx(float(Fraction(-1 + 1 + 6 + 15, 6 * 7)), rel=1e-15)
    assert plain_gini([3, 2, 1, 1, 0, 0]) == Fraction(21, 42)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5, 5], 0.0), ([0, 0, 9, 0], 3 / 4), ([7], 0.0), ([0, 0], NAN), ([], NAN)],
)
def test_gini_at_its_ends(counts: list[int], expected: float) -> None:
    """Protects the scale: 0 for all equal, (n - 1) / n for one item alone, NaN where nothing is shown."""
    np.testing.assert_equal(gini(np.array(counts, dtype=np.int64)), expected)


@pytest.mark.parametrize("seed", range(5))
def test_gini_equals_the_mean_difference(seed: int) -> None:
    """Protects the sorted form against the definition by pairs, and gini from the scale and order of counts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 20, rng.integers(1, 40)).astype(np.int64)
    counts[0] = 1
    expected = float(plain_gini(counts.tolist()))
    assert gini(counts) == pytest.approx(expected, abs=1e-14)
    assert gini(3 * rng.permutation(counts)) == pytest.approx(expected, abs=1e-14)


def test_novelty_by_hand() -> None:
    """Protects novelty in bits over the list's own length: 8 of 16 users are 1 bit, 4 are 2, 1 is 4."""
    found = novelty(ANSWERS, ITEM_USERS, n_train_users=16)
    np.testing.assert_array_equal(found, [(1 + 2 + 3) / 3, (1 + 2) / 2, (1 + 4) / 2, NAN])
    known_to_all = novelty(lists([4], k=1), ITEM_USERS, n_train_users=16)
    assert known_to_all.tolist() == [0.0]


def test_novelty_of_an_item_that_nobody_has() -> None:
    """Protects means from infinity: an item without train users is as novel as one with a single one."""
    assert novelty(lists([5], k=1), ITEM_USERS, n_train_users=16).tolist() == [log2(16)]


def test_mean_popularity_by_hand() -> None:
    """Protects the unit: a count of train users, not a share, over the list's own length."""
    found = mean_popularity(ANSWERS, ITEM_USERS)
    np.testing.assert_array_equal(found, [(8 + 4 + 2) / 3, (8 + 4) / 2, (8 + 1) / 2, NAN])


def test_popularity_is_the_oracle() -> None:
    """Protects the chain from counts to lists: the most popular items for all are the least novel lists there are."""
    index = ItemIndex(np.zeros((6, 0), dtype=np.float32), ITEM_USERS.astype(np.float32), threads=1)
    topk = index.top_k(np.zeros((5, 0), dtype=np.float32), 2)
    assert exposure(topk, 6).tolist() == [5, 0, 0, 0, 5, 0]
    assert coverage(exposure(topk, 6)) == 2 / 6
    assert gini(exposure(topk, 6)) == pytest.approx(float(Fraction(2, 3)), rel=1e-15)
    assert mean_popularity(topk, ITEM_USERS).tolist() == [(16 + 8) / 2] * 5
    assert novelty(topk, ITEM_USERS, n_train_users=16).tolist() == [(0 + 1) / 2] * 5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_cut_is_a_shorter_search(k: int) -> None:
    """Protects one ranking for many k: the first k of a long list are the answer to a search for k, ties too."""
    rng = np.random.default_rng(1)
    index = ItemIndex(rng.integers(-1, 2, (7, 3)).astype(np.float32), threads=1)
    users = rng.integers(-1, 2, (20, 3)).astype(np.float32)
    for found, expected in zip(index.top_k(users, 9).cut(k), index.top_k(users, k), strict=True):
        np.testing.assert_array_equal(found, expected)
