"""ItemIndex against a plain float64 loop over thousands of drawn cases, and the selection that it rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightrank.ranking import ItemIndex, packing, selection
from reference import (
    F32,
    assert_exact,
    assert_same,
    cases,
    f32,
    gaussian,
    nearly_equal,
    random_cells,
)

CASES = settings(
    max_examples=3_000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.data_too_large]
)


@CASES
@given(
    case=cases(), strips=st.sampled_from([(packing.HEAD_STRIPS, packing.BLOCK_STRIPS), ((), 1), ((1,), 2)])
)
def test_drawn_cases_equal_the_loop(case: dict[str, Any], strips: tuple[tuple[int, ...], int]) -> None:
    """Protects exactness where nobody thought of it: rows, counts and score bits, in both kinds of sums."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "HEAD_STRIPS", strips[0])
        patch.setattr(packing, "BLOCK_STRIPS", strips[1])
        assert_exact(case.pop("users"), case.pop("items"), case.pop("bias"), case.pop("k"), **case)


@pytest.mark.parametrize("kind", ["all_equal", "two_values", "close"])
@pytest.mark.parametrize("k", [1, 10, 120])
def test_more_ties_than_a_buffer_holds(kind: str, k: int) -> None:
    """Protects full buffers: candidates that bounds cannot tell apart are settled, and ties cut by item row."""
    rng = np.random.default_rng(5)
    items = {
        "all_equal": np.ones((2_000, 4)),
        "two_values": rng.integers(1, 3, (2_000, 1)) * np.ones((2_000, 4)),
        "close": nearly_equal(rng, 2_000, 4),
    }[kind]
    assert_exact(f32(gaussian(rng, 3, 4)), f32(items), None, k, exclude=random_cells(rng, (3, 2_000), 0.1))


def test_catalogues_of_many_blocks_equal_the_loop() -> None:
    """Protects skipping at its real sizes: norms that fall make most pairs go unscreened, and nothing is lost."""
    rng = np.random.default_rng(8)
    items = f32(gaussian(rng, 6_000, 8) * rng.lognormal(0.0, 1.5, (6_000, 1)))
    users, seen = gaussian(rng, 9, 8), random_cells(np.random.default_rng(9), (9, 6_000), 0.01)
    for bias in (None, f32(rng.standard_normal(6_000)), f32(100 * rng.standard_normal(6_000))):
        for k in (1, 10, 150):
            assert_exact(users, items, bias, k, exclude=seen)
        _, screened = ItemIndex(items, bias, threads=1).search(users, 10, exclude=seen)
        assert screened < len(users) * len(items) / 2


def test_a_few_allowed_items_cost_no_scan() -> None:
    """Protects tiny allow-lists: nothing is screened for them, shared or each user's own."""
    rng = np.random.default_rng(4)
    users, items = gaussian(rng, 5, 6), gaussian(rng, 5_000, 6)
    index = ItemIndex(items, threads=1)
    for allow in (np.arange(40), random_cells(rng, (5, 5_000), 0.002)):
        found, screened = index.search(users, 7, allow=allow)
        assert screened == 0
        assert_same(found, assert_exact(users, items, None, 7, allow=allow))


def test_keys_order_as_scores_do() -> None:
    """Protects the integers that stand for scores: order, equality of zeros, and the way back."""
    scores = f32([-np.inf, F32.min, -1.5, -F32.smallest_subnormal, -0.0, 0.0, F32.tiny, 1.0, F32.max, np.inf])
    keys = [int(selection.key_of.py_func(score)) for score in scores]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) - 1
    assert [float(selection.score_of.py_func(np.int32(key))) for key in keys] == scores.tolist()


@given(keys=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=80), data=st.data())
def test_the_kth_largest_by_counting(keys: list[int], data: st.DataObject) -> None:
    """Protects selection: it is the k-th of the sorted list, whatever repeats and however far apart."""
    k = data.draw(st.integers(1, len(keys)))
    found = selection.kth_largest.py_func(np.array(keys, dtype=np.int32), k)
    assert found == sorted(keys, reverse=True)[k - 1]


@given(values=st.lists(st.integers(-(2**62), 2**62), max_size=200))
def test_the_sort_sorts(values: list[int]) -> None:
    """Protects the sort that needs no memory."""
    array = np.array(values, dtype=np.int64)
    selection.sort.py_func(array)
    assert array.tolist() == sorted(values)
