"""PartitionedIndex against ItemIndex, to the bit: shares, ties across them, filters, and what is refused."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightrank.errors import DataError
from nightrank.ranking import ItemIndex, PartitionedIndex
from nightrank.ranking.filters import filters_of
from nightrank.ranking.partitions import Parts, share_bounds
from reference import assert_same, cases, f32, gaussian, random_cells, small_integers

CASES = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.data_too_large]
)


@CASES
@given(case=cases(), partitions=st.one_of(st.integers(1, 5), st.integers(6, 250)))
def test_any_number_of_shares_gives_the_bits_of_one(case: dict[str, Any], partitions: int) -> None:
    """Protects that the setting changes no answer: ties, -0.0, NaN beyond counts, k and shares beyond the items."""
    users, items, bias, k, threads = (case.pop(name) for name in ("users", "items", "bias", "k", "threads"))
    expected = ItemIndex(items, bias, threads=1).top_k(users, k, **case)
    found = PartitionedIndex(items, bias, partitions=partitions, threads=threads).top_k(users, k, **case)
    assert_same(found, expected)


@pytest.mark.parametrize("partitions", [2, 7])
def test_many_users_on_several_threads(partitions: int) -> None:
    """Protects batches beyond one chunk, in which every share has threads of its own."""
    rng = np.random.default_rng(2)
    users, items = small_integers(rng, 700, 6), small_integers(rng, 900, 6)
    seen = random_cells(rng, (700, 900), 0.05)
    index = PartitionedIndex(items, partitions=partitions, threads=4)
    assert_same(index.top_k(users, 40, exclude=seen), ItemIndex(items).top_k(users, 40, exclude=seen))


def test_ties_across_shares_go_to_the_lower_row() -> None:
    """Protects the tie rule where the same score comes from every share."""
    index = PartitionedIndex(np.ones((10, 2), np.float32), partitions=3, threads=2)
    assert index.top_k(np.ones((1, 2), np.float32), 6).item_rows.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_no_items_no_users_and_no_places() -> None:
    """Protects the empty ends: each has the shape that ItemIndex gives it."""
    for n_items, n_users, k in ((0, 2, 3), (5, 0, 3), (5, 2, 0)):
        items, users = np.ones((n_items, 2), np.float32), np.ones((n_users, 2), np.float32)
        found = PartitionedIndex(items, partitions=2, threads=2).top_k(users, k)
        assert_same(found, ItemIndex(items).top_k(users, k))


def test_shares_are_consecutive_and_even() -> None:
    """Protects the split that processes agree on by its arithmetic alone."""
    for n_items in (0, 1, 7, 64, 1_000_001):
        for partitions in (1, 2, 3, 64):
            bounds = share_bounds(n_items, partitions)
            sizes = np.diff(bounds)
            assert (bounds[0], bounds[-1], len(sizes)) == (0, n_items, partitions)
            assert sizes.max() - sizes.min() <= 1


def test_threads_are_kept_and_shared_by_callers() -> None:
    """Protects the service: queries at once neither mix their answers nor start threads of their own."""
    rng = np.random.default_rng(3)
    before = set(threading.enumerate())  # another test's index may not be collected yet
    users, items = gaussian(rng, 60, 8), gaussian(rng, 3_000, 8)
    index, expected = PartitionedIndex(items, partitions=4, threads=3), ItemIndex(items).top_k(users, 10)
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda n: index.top_k(users[n : n + 1], 10), range(60)))
        names = [thread.name for thread in set(threading.enumerate()) - before]
    for n, one in enumerate(found):
        assert_same(one, expected.rows(slice(n, n + 1)))
    assert len([name for name in names if name.startswith("nightrank-share")]) <= 2


def test_a_share_of_the_filters_survives_a_journey() -> None:
    """Protects ranking in another process: what arrives is ranked as what was sent, on read-only arrays."""
    rng = np.random.default_rng(4)
    users, items = gaussian(rng, 3, 4), gaussian(rng, 50, 4)
    seen = random_cells(rng, (3, 50), 0.3)
    for allow in (None, np.array([49, 3, 20, 21, 3]), random_cells(rng, (3, 50), 0.5)):
        bounds, filters = share_bounds(50, 3), filters_of(seen, allow)
        parts = Parts(3, 3, 9)
        for share, (first, last) in enumerate(pairwise(bounds)):
            sent = pickle.loads(pickle.dumps((users, filters.of_share(first, last))))
            ItemIndex(items[first:last], threads=1).fill(parts.of(share), sent[0], sent[1].received())
        assert_same(parts.merged(9, bounds), ItemIndex(items).top_k(users, 9, exclude=seen, allow=allow))


def test_it_survives_pickle() -> None:
    """Protects handing it to another process: prepared again there, the same answers."""
    rng = np.random.default_rng(5)
    users, items = gaussian(rng, 2, 4), gaussian(rng, 30, 4)
    index = PartitionedIndex(items, f32(gaussian(rng, 30, 1)[:, 0]), partitions=3, threads=2)
    again = pickle.loads(pickle.dumps(index))
    assert_same(again.top_k(users, 5), index.top_k(users, 5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"partitions": 0}, "partitions is 0; give 1 or more"),
        ({"threads": 0}, "threads is 0"),
        ({"item_bias": np.zeros(5, np.float32)}, "item_bias has 5 entries for 6 items"),
        ({"item_vectors": np.zeros((6, 2))}, "item_vectors is float64"),
        ({"item_vectors": f32([[0, 0]] * 5 + [[0, np.nan]])}, "not finite, first in row 5"),
        ({"item_bias": f32([0, 0, 0, 0, np.inf, 0])}, "item_bias holds a value that is not finite, first in row 4"),
    ],
)  # fmt: skip
def test_wrong_items_are_refused_as_a_whole(change: dict[str, Any], said: str) -> None:
    """Protects messages: rows are counted in the catalogue, not within a share."""
    given: dict[str, Any] = {"item_vectors": np.zeros((6, 2), np.float32), "partitions": 3} | change
    with pytest.raises(DataError, match=said):
        PartitionedIndex(given.pop("item_vectors"), **given)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"k": -1}, "k is -1"),
        ({"user_vectors": f32([[np.nan, 0]])}, "user_vectors holds a value that is not finite"),
        ({"user_vectors": f32([[0, 0, 0]])}, "user_vectors have 3 columns, item_vectors 2"),
        ({"allow": np.array([6])}, "allow names rows outside 0..5"),
        ({"exclude": np.array([1])}, "exclude holds int64 and is no"),
        ({"exclude": random_cells(np.random.default_rng(0), (1, 2), 1.0)}, "exclude has shape"),
    ],
)
def test_wrong_queries_are_refused_as_item_index_does(query: dict[str, Any], said: str) -> None:
    """Protects compiled code from rows that are not there, whichever share they would fall in."""
    given: dict[str, Any] = {"user_vectors": np.zeros((1, 2), np.float32), "k": 3} | query
    items = np.zeros((6, 2), np.float32)
    for index in (ItemIndex(items), PartitionedIndex(items, partitions=3)):
        with pytest.raises(DataError, match=said):
            index.top_k(**given)
