"""ItemIndex: rows, counts and score bits equal a plain loop, whatever the batch, the threads or the layout."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

import nightrank.ranking.index as index_module
from nightrank.errors import DataError
from nightrank.ranking import ItemIndex, TopK
from nightrank.ranking.similar import SimilarItems

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


def assert_exact(
    users: Floats, items: Floats, bias: Floats | None, k: int, *, threads: int = 1, **filters: Any
) -> TopK:
    found = ItemIndex(items, bias, threads=threads).top_k(users, k, **filters)
    assert_same(found, plain_top_k(users, items, bias, k, **filters))
    return found


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


@pytest.mark.parametrize("seed", range(150))
def test_random_cases_equal_the_loop(seed: int) -> None:
    """Protects exactness where nobody thought of it: shapes, vectors, filters and threads drawn at random."""
    rng = np.random.default_rng(1000 + seed)
    n_users, n_items, d = int(rng.integers(0, 9)), int(rng.integers(1, 50)), int(rng.integers(0, 12))
    of_users, of_items = (MAKERS[i] for i in rng.integers(0, len(MAKERS), 2))
    filters: dict[str, Any] = {}
    if rng.random() < 0.5:
        filters["exclude"] = random_cells(rng, (n_users, n_items), float(rng.choice([0.1, 0.5, 0.95, 1.0])))
    if rng.random() < 0.5:
        shared = rng.random() < 0.5
        filters["allow"] = (
            rng.integers(0, n_items, int(rng.integers(0, 2 * n_items))).astype(rng.choice(["i4", "i8", "u2"]))
            if shared
            else random_cells(rng, (n_users, n_items), float(rng.choice([0.0, 0.3, 1.0])))
        )
    assert_exact(
        of_users(rng, n_users, d),
        of_items(rng, n_items, d),
        None if rng.random() < 0.3 else of_items(rng, n_items, 1)[:, 0],
        int(rng.integers(0, n_items + 4)),
        threads=int(rng.integers(1, 4)),
        **filters,
    )


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


def test_many_blocks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects block bounds: blocks of one user and candidates one by one change nothing."""
    rng = np.random.default_rng(3)
    users, items, bias = small_integers(rng, 37, 6), small_integers(rng, 50, 6), gaussian(rng, 50, 1)[:, 0]
    exclude, own = random_cells(rng, (37, 50), 0.3), random_cells(rng, (37, 50), 0.6)
    index = ItemIndex(items, bias, threads=3)
    whole = index.top_k(users, 7, exclude=exclude, allow=own)
    assert_same(whole, plain_top_k(users, items, bias, 7, exclude=exclude, allow=own))
    for block_bytes in (1, 4 * 50 * 5):
        monkeypatch.setattr(index_module, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(index_module, "CANDIDATE_BYTES", block_bytes)
        assert_same(index.top_k(users, 7, exclude=exclude, allow=own), whole)


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


# Edges


@pytest.mark.parametrize("k", [0, 3])
def test_no_users_and_k_0_have_empty_answers(k: int) -> None:
    """Protects the shapes of empty answers: (n, k) also for n = 0 and k = 0."""
    index = ItemIndex(f32(np.ones((4, 2))), threads=2)
    for n in (0, 2):
        found = index.top_k(f32(np.ones((n, 2))), k)
        assert found.item_rows.shape == found.scores.shape == (n, k)
        assert found.counts.tolist() == [k] * n


@pytest.mark.parametrize("d", [0, 3])
def test_no_items_have_empty_answers(d: int) -> None:
    """Protects the empty catalogue: counts of 0, rows of -1, scores of NaN."""
    found = ItemIndex(f32(np.ones((0, d)))).top_k(f32(np.ones((2, d))), 2, exclude=csr_matrix((2, 0)))
    assert found.counts.tolist() == [0, 0]
    assert found.item_rows.tolist() == [[-1, -1]] * 2
    assert np.isnan(found.scores).all()


def test_all_excluded_and_nothing_allowed() -> None:
    """Protects the user who has seen everything: an empty list, while others keep theirs."""
    rng = np.random.default_rng(4)
    users, items = gaussian(rng, 3, 4), gaussian(rng, 8, 4)
    seen = np.zeros((3, 8))
    seen[1] = 1
    found = assert_exact(users, items, None, 3, exclude=csr_matrix(seen))
    assert found.counts.tolist() == [3, 0, 3]
    for nothing in (np.array([], dtype=np.int32), np.array([]), csr_matrix((3, 8))):
        found = ItemIndex(items, threads=1).top_k(users, 3, allow=nothing)
        assert found.counts.tolist() == [0, 0, 0]
        assert (found.item_rows == -1).all()
        assert np.isnan(found.scores).all()


def test_row_0_is_an_item_like_any_other() -> None:
    """Protects against truthiness: item row 0 can be best, excluded and the only one allowed."""
    users, items = f32([[1.0]]), f32([[3], [2], [1]])
    index = ItemIndex(items, threads=1)
    first = csr_matrix(([0.0], [0], [0, 1]), shape=(1, 3))  # a stored zero excludes too
    assert index.top_k(users, 2).item_rows.tolist() == [[0, 1]]
    assert index.top_k(users, 2, exclude=first).item_rows.tolist() == [[1, 2]]
    assert index.top_k(users, 2, allow=first).item_rows.tolist() == [[0, -1]]
    assert index.top_k(users, 2, allow=np.array([0])).item_rows.tolist() == [[0, -1]]
    assert index.top_k(users, 2, allow=np.array([0]), exclude=first).item_rows.tolist() == [[-1, -1]]


# The same answer anywhere


def test_one_user_alone_equals_the_batch() -> None:
    """Protects live == batch: float vectors, each user alone, to the bit."""
    rng = np.random.default_rng(5)
    users, items, bias = gaussian(rng, 80, 31), gaussian(rng, 700, 31), gaussian(rng, 700, 1)[:, 0]
    exclude = random_cells(rng, (80, 700), 0.1)
    index = ItemIndex(items, bias, threads=2)
    batch = index.top_k(users, 25, exclude=exclude)
    for user in range(80):
        alone = index.top_k(users[user : user + 1], 25, exclude=exclude[user])
        assert_same(alone, batch.rows(slice(user, user + 1)))


@pytest.mark.parametrize("threads", [None, 1, 2, 3, 7, 200])
def test_threads_and_order_of_users_change_nothing(threads: int | None) -> None:
    """Protects workers of any size and any order of arrival: the same bits for each user."""
    rng = np.random.default_rng(6)
    users, items, bias = skewed(rng, 90, 24), skewed(rng, 500, 24), gaussian(rng, 500, 1)[:, 0]
    exclude = random_cells(rng, (90, 500), 0.1)
    one = ItemIndex(items, bias, threads=1).top_k(users, 20, exclude=exclude)
    index = ItemIndex(items, bias, threads=threads)
    assert_same(index.top_k(users, 20, exclude=exclude), one)
    order = rng.permutation(90)
    shuffled = index.top_k(users[order], 20, exclude=exclude[order])
    assert_same(shuffled, TopK(*(array[order] for array in one)))


def test_a_huge_user_in_the_batch_changes_nobody_else() -> None:
    """Protects neighbours: one user whose scores overflow leaves the others' answers as they were."""
    rng = np.random.default_rng(7)
    users, items = gaussian(rng, 6, 9), gaussian(rng, 40, 9)
    quiet = ItemIndex(items, threads=1).top_k(users, 5)
    users[3] = np.sign(users[3]) * f32(F32.max / 4)
    loud = assert_exact(users, items, None, 5)
    assert np.isinf(loud.scores[3]).any()
    others = np.arange(6) != 3
    assert_same(TopK(*(array[others] for array in loud)), TopK(*(array[others] for array in quiet)))


def test_smaller_k_is_the_head_of_larger_k() -> None:
    """Protects stored lists: the first k of a longer list are the k best, so `k=` may cut."""
    rng = np.random.default_rng(8)
    index = ItemIndex(small_integers(rng, 60, 3), threads=1)
    users = small_integers(rng, 10, 3)
    longest = index.top_k(users, 60)
    for k in (1, 2, 17, 59):
        found = index.top_k(users, k)
        np.testing.assert_array_equal(found.item_rows, longest.item_rows[:, :k])


def test_read_only_mapped_and_strided_inputs(tmp_path: Path) -> None:
    """Protects vectors as a release holds them: memory maps, read-only and strided arrays give the same bits."""
    rng = np.random.default_rng(9)
    users, items, bias = gaussian(rng, 7, 6), gaussian(rng, 30, 6), gaussian(rng, 30, 1)[:, 0]
    exclude = random_cells(rng, (7, 30), 0.4)
    expected = plain_top_k(users, items, bias, 5, exclude=exclude)

    def mapped(name: str, array: NDArray[Any]) -> NDArray[Any]:
        np.save(tmp_path / name, array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    cells = csr_matrix(
        tuple(mapped(name, getattr(exclude, name)) for name in ("data", "indices", "indptr")), shape=(7, 30)
    )
    from_files = ItemIndex(mapped("items", items), mapped("bias", bias), threads=2)
    assert_same(from_files.top_k(mapped("users", users), 5, exclude=cells), expected)

    wide_users, wide_items = np.repeat(users, 2, axis=1)[:, ::2], np.asfortranarray(items)
    wide_bias = np.repeat(bias, 3)[::3]
    for array in (wide_users, wide_items, wide_bias):
        assert not array.flags.c_contiguous
    strided = ItemIndex(wide_items, wide_bias, threads=1)
    assert_same(strided.top_k(wide_users, 5, exclude=exclude), expected)


def test_inputs_are_left_alone() -> None:
    """Protects shared arrays: ranking writes to none of its inputs."""
    rng = np.random.default_rng(10)
    users, items, bias = huge(rng, 5, 4), huge(rng, 20, 4), gaussian(rng, 20, 1)[:, 0]
    exclude, rows = random_cells(rng, (5, 20), 0.3), rng.integers(0, 20, 9)
    inputs = [users, items, bias, rows, exclude.data, exclude.indices, exclude.indptr]
    before = [array.copy() for array in inputs]
    ItemIndex(items, bias, threads=2).top_k(users, 4, exclude=exclude, allow=rows)
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)


# Refusals


def test_wrong_dtypes_and_shapes_are_refused_by_name() -> None:
    """Protects callers from silent casts: the message names the array, what it is and what it should be."""
    good = f32(np.ones((3, 2)))
    index = ItemIndex(good, threads=1)
    for bad in (good.astype(np.float64), good.astype(np.float16), good.astype(int), good.astype(">f4")):
        found = re.escape(str(bad.dtype))
        with pytest.raises(DataError, match=rf"item_vectors is {found}.*expected float32 with 2"):
            ItemIndex(bad)
        with pytest.raises(DataError, match=rf"user_vectors is {found}.*expected float32 with 2"):
            index.top_k(bad, 1)
        with pytest.raises(DataError, match=rf"item_bias is {found}.*expected float32 with 1"):
            ItemIndex(good, bad[:, 0])
    with pytest.raises(DataError, match=r"item_vectors is float32 with 1 dimensions"):
        ItemIndex(good[0])
    with pytest.raises(DataError, match=r"user_vectors is float32 with 1 dimensions"):
        index.top_k(good[0], 1)
    with pytest.raises(DataError, match=r"item_bias is float32 with 2 dimensions"):
        ItemIndex(good, good)
    with pytest.raises(DataError, match=r"item_bias has 2 entries for 3 items"):
        ItemIndex(good, f32([1, 2]))
    with pytest.raises(DataError, match=r"user_vectors have 3 columns, item_vectors 2"):
        index.top_k(f32(np.ones((1, 3))), 1)
    with pytest.raises(DataError, match=r"k is -1"):
        index.top_k(good, -1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(value: float) -> None:
    """Protects the order: NaN has none, so it is refused with the array and the first bad row."""
    bad = f32(np.ones((4, 2)))
    bad[2, 1] = bad[3, 0] = value
    good = f32(np.ones((4, 2)))
    with pytest.raises(DataError, match=r"item_vectors holds .*not finite, first in row 2"):
        ItemIndex(bad)
    with pytest.raises(DataError, match=r"item_bias holds .*not finite, first in row 2"):
        ItemIndex(good, bad[:, 1])
    with pytest.raises(DataError, match=r"user_vectors holds .*not finite, first in row 2"):
        ItemIndex(good, threads=1).top_k(bad, 1)


def test_wrong_filters_are_refused_by_name() -> None:
    """Protects from a filter that filters nothing: shapes, dense masks, other sparse kinds, rows out of range."""
    index = ItemIndex(f32(np.ones((3, 2))), threads=1)
    users = f32(np.ones((2, 2)))
    for name in ("exclude", "allow"):
        for shape in ((2, 4), (3, 3), (1, 3)):
            with pytest.raises(DataError, match=rf"{name} has shape .*expected users x items, 2 x 3"):
                index.top_k(users, 1, **{name: csr_matrix(shape)})
        for cells in (csr_array((2, 3)), csr_matrix((2, 3)).tocsc(), np.ones((2, 3)), np.ones(3, dtype=bool)):
            with pytest.raises(DataError, match=rf"{name} .*expected csr_matrix"):
                index.top_k(users, 1, **{name: cells})
    for rows in ([3], [-1], [0, 7]):
        with pytest.raises(DataError, match=r"allow names rows outside 0\.\.2"):
            index.top_k(users, 1, allow=np.array(rows))


# Similar items


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
