"""ItemIndex as a plain loop: what its rows, counts and score bits must equal, and vectors that are hard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking import ItemIndex, TopK
from nightrank.ranking import index as index_module

Floats = NDArray[np.float32]
F32 = np.finfo(np.float32)
SUBNORMAL = float(F32.smallest_subnormal)


def f32(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float32)


# The plain loop


def plain_score(user: list[float], item: list[float], bias: float) -> np.float32:
    """The float64 sum of the products in column order, the bias last, rounded once."""
    total = 0.0
    for u, v in zip(user, item, strict=True):
        total += u * v
    with np.errstate(over="ignore"):
        return np.float32(total + bias)


def allowed_items(
    user: int, n_items: int, *, exclude: csr_matrix | None, allow: NDArray[np.integer] | csr_matrix | None
) -> set[int]:
    def stored(cells: csr_matrix) -> set[int]:
        return set(cells.indices[cells.indptr[user] : cells.indptr[user + 1]].tolist())

    items = set(range(n_items))
    if isinstance(allow, csr_matrix):
        items &= stored(allow)
    elif allow is not None:
        items &= {int(row) for row in allow}
    return items if exclude is None else items - stored(exclude)


def plain_top_k(
    users: Floats,
    items: Floats,
    bias: Floats | None,
    k: int,
    *,
    exclude: csr_matrix | None = None,
    allow: NDArray[np.integer] | csr_matrix | None = None,
) -> TopK:
    rows = np.full((len(users), k), -1, dtype=np.int32)
    scores = np.full((len(users), k), np.nan, dtype=np.float32)
    counts = np.zeros(len(users), dtype=np.int32)
    plain_items = items.tolist()
    plain_bias = [0.0] * len(items) if bias is None else bias.tolist()
    for user, vector in enumerate(users.tolist()):
        left = allowed_items(user, len(items), exclude=exclude, allow=allow)
        scored = [(plain_score(vector, plain_items[item], plain_bias[item]), item) for item in left]
        best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:k]
        counts[user] = len(best)
        for rank, (score, item) in enumerate(best):
            rows[user, rank], scores[user, rank] = item, score
    return TopK(rows, scores, counts)


def assert_same(found: TopK, expected: TopK) -> None:
    """Rows, counts and the bits of the scores; NaN is one value."""
    assert [array.dtype for array in found] == [np.int32, np.float32, np.int32]
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.item_rows, expected.item_rows)
    absent = np.isnan(expected.scores)
    np.testing.assert_array_equal(np.isnan(found.scores), absent)
    np.testing.assert_array_equal(
        found.scores.view(np.uint32)[~absent], expected.scores.view(np.uint32)[~absent]
    )


@contextmanager
def float32_sums() -> Iterator[None]:
    """Indexes made inside sum in float32, as on a CPU without the int8 instruction."""
    with patch.object(index_module, "has_exact_product", lambda: False):
        yield


def assert_exact(
    users: Floats, items: Floats, bias: Floats | None, k: int, *, threads: int = 1, **filters: Any
) -> TopK:
    """Both kinds of sums give what the plain loop gives."""
    expected = plain_top_k(users, items, bias, k, **filters)
    assert_same(ItemIndex(items, bias, threads=threads).top_k(users, k, **filters), expected)
    with float32_sums():
        assert_same(ItemIndex(items, bias, threads=threads).top_k(users, k, **filters), expected)
    return expected


# Inputs


def random_cells(rng: np.random.Generator, shape: tuple[int, int], share: float) -> csr_matrix:
    """Random stored cells, half of them explicit zeros, columns of a row in any order."""
    mask = rng.random(shape) < share
    indices = np.concatenate([rng.permutation(np.flatnonzero(row)) for row in mask] or [np.zeros(0, int)])
    indptr = np.r_[0, np.cumsum(mask.sum(axis=1))]
    values = rng.integers(0, 2, len(indices)).astype(np.float32)
    return csr_matrix((values, indices.astype(np.int32), indptr.astype(np.int32)), shape=shape)


def gaussian(rng: np.random.Generator, n: int, d: int) -> Floats:
    return f32(rng.standard_normal((n, d)))


def small_integers(rng: np.random.Generator, n: int, d: int) -> Floats:
    return f32(rng.integers(-2, 3, (n, d)))


def skewed(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Norms over nine decades, as a few popular items have."""
    return f32(gaussian(rng, n, d) * 10.0 ** rng.uniform(-6, 3, (n, 1)))


def nearly_equal(rng: np.random.Generator, n: int, d: int) -> Floats:
    """One direction with the last bits changed: float32 products order such items at random."""
    base = np.broadcast_to(rng.uniform(0.5, 1.0, d), (n, d)).astype(np.float32)
    return f32(base * (1 + rng.integers(-3, 4, (n, d)) * 2.0**-23))


def cancelling(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Large terms that cancel: the score is what is left in the last bits."""
    half = gaussian(rng, n, d) * 1000
    half[:, 1::2] = -half[:, : d // 2 * 2 : 2] * f32(1 + 2.0**-20)
    return f32(half)


def duplicates(rng: np.random.Generator, n: int, d: int) -> Floats:
    return gaussian(rng, 3, d)[rng.integers(0, 3, n)]


def zeros(rng: np.random.Generator, n: int, d: int) -> Floats:
    return f32(gaussian(rng, n, d) * (rng.random((n, 1)) < 0.5))


def subnormal(rng: np.random.Generator, n: int, d: int) -> Floats:
    return f32(rng.integers(-4, 5, (n, d)) * SUBNORMAL)


def tiny(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Products near the least float32: a float32 product loses them, the float64 sum does not."""
    return f32(gaussian(rng, n, d) * 2.0**-73)


def huge(rng: np.random.Generator, n: int, d: int) -> Floats:
    """Products beyond float32, both signs: some scores are infinite."""
    return f32(gaussian(rng, n, d) * 10.0 ** rng.uniform(17, 21, (n, 1)))


def largest(rng: np.random.Generator, n: int, d: int) -> Floats:
    return f32(rng.choice([F32.max, -F32.max, 1.0, 0.5, SUBNORMAL, 0.0], (n, d)))


MAKERS: list[Callable[[np.random.Generator, int, int], Floats]] = [
    gaussian,
    small_integers,
    skewed,
    nearly_equal,
    cancelling,
    duplicates,
    zeros,
    subnormal,
    tiny,
    huge,
    largest,
]


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes, kinds of vectors (of users and items apart), a bias, filters, k and threads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_users, n_items, d = draw(st.integers(0, 12)), draw(st.integers(1, 220)), draw(st.integers(0, 10))
    of_users, of_items, of_bias = (draw(st.sampled_from(MAKERS)) for _ in range(3))
    case: dict[str, Any] = {
        "users": of_users(rng, n_users, d),
        "items": of_items(rng, n_items, d),
        "bias": of_bias(rng, n_items, 1)[:, 0] if draw(st.booleans()) else None,
        "k": draw(st.one_of(st.integers(0, 12), st.integers(0, n_items + 4))),
        "threads": draw(st.integers(1, 3)),
    }
    if draw(st.booleans()):
        case["exclude"] = random_cells(rng, (n_users, n_items), draw(st.sampled_from([0.02, 0.5, 0.95, 1.0])))
    kind = draw(st.sampled_from(["none", "shared", "own"]))
    if kind == "shared":
        some = rng.integers(0, n_items, draw(st.integers(0, 2 * n_items)))
        case["allow"] = some.astype(draw(st.sampled_from(["i4", "i8", "u2"])))
    elif kind == "own":
        case["allow"] = random_cells(rng, (n_users, n_items), draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])))
    return case
