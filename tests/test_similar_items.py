"""SimilarItems: cosines equal a plain loop, whole or in parts, and what has no direction has no list."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from nightrank.ranking.similar import SimilarItems
from reference import MAKERS, Floats, assert_same, f32, plain_top_k, zeros


def plain_units(vectors: Floats) -> Floats:
    """Each row divided by its float64 length, rounded once; zero rows stay zero."""
    units = np.zeros_like(vectors)
    for row, vector in enumerate(vectors.tolist()):
        squares = 0.0
        for value in vector:
            squares += value * value
        length = math.sqrt(squares)
        if length > 0:
            units[row] = [np.float32(value / length) for value in vector]
    return units


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("k", [1, 6, 40])
def test_similar_items_equal_the_loop(
    make: Callable[[np.random.Generator, int, int], Floats], k: int
) -> None:
    """Protects similar items: cosines of all others, itself left out, zero vectors nowhere."""
    vectors = make(np.random.default_rng(12), 30, 4)
    vectors[[0, 7]] = 0.0
    units = plain_units(vectors)
    directed = np.flatnonzero(units.any(axis=1))
    itself = csr_matrix(np.eye(30))
    expected = plain_top_k(units, units, None, k, exclude=itself, allow=directed)
    for array, absent in zip(expected, (-1, np.nan, 0), strict=True):
        array[~units.any(axis=1)] = absent
    found = SimilarItems(vectors, threads=2).rank(slice(0, 30), k)
    assert_same(found, expected)
    assert found.counts[[0, 7]].tolist() == [0, 0]
    assert not np.isin([0, 7], found.item_rows).any()
    assert not (found.item_rows == np.arange(30)[:, None]).any()


def test_similar_items_in_parts_equal_the_whole() -> None:
    """Protects the parts that batch ranks: any slices give the same bits as one, an empty slice nothing."""
    vectors = zeros(np.random.default_rng(13), 41, 8)
    similar = SimilarItems(vectors, threads=1)
    whole = similar.rank(slice(0, 41), 5)
    for start, stop in ((0, 1), (1, 17), (17, 41), (41, 41)):
        assert_same(similar.rank(slice(start, stop), 5), whole.rows(slice(start, stop)))


def test_similar_items_ignore_length() -> None:
    """Protects cosine: direction alone counts, so a long vector is no better than a short one."""
    vectors = f32([[1, 0], [100, 1], [1, 1], [0, 5], [-1, 0], [0, 0]])
    found = SimilarItems(vectors, threads=1).rank(slice(0, 6), 4)
    assert found.item_rows[0].tolist() == [1, 2, 3, 4]
    assert found.scores[0].tolist() == [f32(100 / np.sqrt(10001)), f32(1 / np.sqrt(2)), 0, -1]
    assert found.counts.tolist() == [4, 4, 4, 4, 4, 0]


@pytest.mark.parametrize("shape", [(3, 0), (3, 2), (0, 2)])
def test_no_direction_at_all(shape: tuple[int, int]) -> None:
    """Protects popularity's similar items: without any direction every list is empty."""
    found = SimilarItems(f32(np.zeros(shape))).rank(slice(0, shape[0]), 2)
    assert found.counts.tolist() == [0] * shape[0]
    assert (found.item_rows == -1).all()
