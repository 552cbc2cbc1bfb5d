"""ItemIndex at its edges: empty answers, the same bits whatever batch, threads or layout, and its refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

from nightrank.errors import DataError
from nightrank.ranking import ItemIndex, TopK
from reference import (
    F32,
    assert_exact,
    assert_same,
    f32,
    gaussian,
    huge,
    plain_top_k,
    random_cells,
    skewed,
    small_integers,
)

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
