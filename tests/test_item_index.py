"""ItemIndex is exact: rows, counts and score bits equal a plain loop, whatever the vectors and the filters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nightrank.ranking import ItemIndex, packing
from nightrank.ranking import index as index_module
from reference import (
    F32,
    MAKERS,
    Floats,
    assert_exact,
    f32,
    gaussian,
    nearly_equal,
    random_cells,
    skewed,
    small_integers,
)

# Exactness


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("d", [0, 1, 2, 7, 33])
def test_every_kind_of_vector_equals_the_loop(
    make: Callable[[np.random.Generator, int, int], Floats], d: int
) -> None:
    """Protects exactness: rows, counts and score bits for ties, cancellation, tiny and overflowing scores."""
    rng = np.random.default_rng(d)
    for n_users, n_items, k in ((5, 23, 4), (3, 40, 40), (4, 6, 9), (1, 1, 1), (7, 64, 1)):
        users, items = make(rng, n_users, d), make(rng, n_items, d)
        scale = float(np.abs(items).max(initial=1.0))
        for bias in (None, f32(np.clip(rng.standard_normal(n_items) * scale, -F32.max, F32.max))):
            assert_exact(users, items, bias, k)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_every_filter_equals_the_loop(
    make: Callable[[np.random.Generator, int, int], Floats], seed: int
) -> None:
    """Protects filters: excluded cells (zeros too), shared rows, own cells, and each of both with exclude."""
    rng = np.random.default_rng(seed)
    users, items, bias = make(rng, 6, 5), make(rng, 30, 5), gaussian(rng, 30, 1)[:, 0]
    shape = (6, 30)
    for k in (1, 5, 31):
        exclude = random_cells(rng, shape, 0.4)
        rows = rng.integers(0, 30, 12)  # repeats, any order
        own = random_cells(rng, shape, 0.3)
        for filters in (
            {"exclude": exclude},
            {"allow": rows},
            {"allow": own},
            {"allow": rows, "exclude": exclude},
            {"allow": own, "exclude": exclude},
        ):
            assert_exact(users, items, bias, k, **filters)


def test_a_large_catalogue_equals_the_loop() -> None:
    """Protects the screening at its real size: thousands of near-ties, of which float32 misorders some."""
    rng = np.random.default_rng(2)
    users, items = nearly_equal(rng, 4, 48), nearly_equal(rng, 4000, 48)
    found = assert_exact(users, items, None, 10)
    by_float32 = np.argsort(-(users @ items.T), axis=1, kind="stable")[:, :10]
    assert (by_float32 != found.item_rows).any()


def test_ties_that_float32_loses_below_its_range() -> None:
    """Protects the screening's margin for underflow: one sum of 32 x 1.4 steps, one of 16 x 2.8, is a tie."""
    step = 2.0**-149  # what float32 can tell apart there; its products round to 1 and to 3 steps
    items = f32([[1.4 * 2.0**-75] * 32, [2.8 * 2.0**-75] * 16 + [0.0] * 16])
    users = f32([[2.0**-74] * 32])
    found = assert_exact(users, items, None, 1)
    assert found.item_rows.tolist() == [[0]]
    assert found.scores.tolist() == [[45 * step]]
    assert abs(float((users @ items.T)[0, 0]) - 45 * step) > 2 * step


def test_near_ties_under_a_large_bias() -> None:
    """Protects the screening's margin for the bias: sums half a step off it, rounded apart by float32."""
    rng = np.random.default_rng(11)
    step = 2.0**-23
    users, items = nearly_equal(rng, 200, 48), nearly_equal(rng, 60, 48)
    items *= f32(step / 2 / (users[0].astype(float) @ items[0])) * rng.choice(f32([-1, 1]), (60, 1))
    bias = np.full(60, 1 + step, dtype=np.float32)
    for k in (1, 10, 40):
        assert_exact(users, items, bias, k)


@pytest.mark.parametrize(
    "sizes",
    [
        {"CHUNK_BYTES": 1},
        {"MOST_USERS": 16, "PARTS": 1},
        {"HEAD_STRIPS": (), "BLOCK_STRIPS": 1},
        {"HEAD_STRIPS": (2,), "BLOCK_STRIPS": 3},
        {"FEW": 1},
        {"FEW": 10**6},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_biased", [False, True])
def test_sizes_of_blocks_and_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any], is_biased: bool
) -> None:
    """Protects every bound that goes by block or chunk, and both ways to rank a list of allowed items."""
    rng = np.random.default_rng(3)
    users, items = small_integers(rng, 37, 6), np.vstack([skewed(rng, 150, 6), small_integers(rng, 200, 6)])
    bias = gaussian(rng, 350, 1)[:, 0] if is_biased else None
    exclude, own = random_cells(rng, (37, 350), 0.3), random_cells(rng, (37, 350), 0.3)
    shared = rng.permutation(350)[:120]
    for name, value in sizes.items():
        monkeypatch.setattr(packing if "STRIPS" in name else index_module, name, value)
    for k, allow in ((7, None), (7, own), (30, shared), (200, own)):
        assert_exact(users, items, bias, k, threads=3, exclude=exclude, allow=allow)


# Worked examples


def test_ties_go_to_the_lower_row() -> None:
    """Protects the tie rule by hand: equal scores in row order, at the cut-off too."""
    items = f32([[1], [2], [1], [2], [2], [0]])
    found = ItemIndex(items, threads=1).top_k(f32([[1], [-1], [0]]), 4)
    assert found.item_rows.tolist() == [[1, 3, 4, 0], [5, 0, 2, 1], [0, 1, 2, 3]]
    assert found.scores.tolist() == [[2, 2, 2, 1], [0, -1, -1, -2], [0, 0, 0, 0]]


def test_order_is_judged_on_the_rounded_score() -> None:
    """Protects the canonical value: sums that differ in float64 and round to one float32 are a tie."""
    items = f32([[1, 2.0**-30], [1, 2.0**-29], [1, 2.0**-23]])
    found = ItemIndex(items, threads=1).top_k(f32([[1, 1]]), 3)
    assert found.item_rows.tolist() == [[2, 0, 1]]
    assert found.scores.tolist() == [[1 + 2.0**-23, 1, 1]]


def test_bias_is_added_last() -> None:
    """Protects the one law's order of sums: (a + b) + bias in float64, then float32."""
    big, small = 2.0**60, 1.0
    found = ItemIndex(f32([[big, small]]), f32([-big]), threads=1).top_k(f32([[1, 1]]), 1)
    assert found.scores.tolist() == [[0.0]]  # bias first would give big - big + 1 = 1
    assert (big + small) - big == 0.0


def test_bias_can_dominate_and_stand_alone() -> None:
    """Protects popularity: with no columns, or with vectors of no weight, the bias alone orders."""
    bias = f32([3, 9, 1e30, -5, 9])
    expected = [2, 1, 4, 0, 3]
    for d, scale in ((0, 0.0), (3, 0.0), (3, 1e-20)):
        items = f32(np.full((5, d), scale))
        found = assert_exact(f32(np.ones((2, d))), items, bias, 5)
        assert found.item_rows.tolist() == [expected, expected]


def test_scores_beyond_float32_are_infinite_and_ordered() -> None:
    """Protects huge vectors: +inf first, -inf last and still answered, ties by row, no warning."""
    items = f32([[-F32.max], [F32.max], [1.0], [F32.max], [-1.0]])
    found = assert_exact(f32([[F32.max]]), items, None, 6)
    assert found.item_rows.tolist() == [[1, 3, 2, 4, 0, -1]]
    assert found.scores[0, :5].tolist() == [math.inf, math.inf, float(F32.max), -float(F32.max), -math.inf]
    assert found.counts.tolist() == [5]


def test_the_lowest_float32_is_a_score_like_any_other() -> None:
    """Protects from sentinels: items scored -3.4e38 are answered, and are not mistaken for excluded ones."""
    items = f32([[-1], [-1 + 2.0**-24], [-1], [-1]])
    exclude = csr_matrix(([1.0], [0], [0, 1]), shape=(1, 4))
    for k in (1, 2, 3, 4):
        assert_exact(f32([[F32.max]]), items, None, k)
        found = assert_exact(f32([[F32.max]]), items, None, k, exclude=exclude)
        assert found.counts.tolist() == [min(k, 3)]
