"""ials: its solver against plain dense arithmetic in float64, and what training promises of it."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, random_array

from eventfiles import coded
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError
from nightrank.models import fit
from nightrank.models.ials import BLOCK, Objective, cells_of, gramian, loss, project, solve
from nightrank.models.products import LANES
from nightrank.models.subspace import GATHERED, TOGETHER, factorise, substitute
from pages import JOB, ROOT, rows_of

DEFAULTS = {"factors": 8, "reg": 0.003, "unobserved_weight": 0.1, "nu": 1.0, "epochs": 3}
Floats = NDArray[np.float32]

objectives = pytest.mark.parametrize(
    "objective",
    [Objective(0.05, 0.2, 0.0), Objective(0.01, 0.1, 0.5), Objective(0.003, 1.0, 1.0)],
    ids=["nu=0", "nu=0.5", "nu=1"],
)


def case(
    d: int, *, n: int = 70, n_others: int = 50, density: float = 0.2, seed: int = 0
) -> tuple[csr_matrix, Floats, Floats]:
    """Random weighted cells, rows and others; row 3 has no cells, row 5 all of them."""
    rng = np.random.default_rng(seed)
    dense = random_array((n, n_others), density=density, rng=rng).toarray()
    dense[3], dense[5] = 0.0, 1.0
    matrix = csr_matrix(dense.astype(np.float32))
    matrix.data = rng.uniform(0.3, 4.0, matrix.nnz).astype(np.float32)
    rows, others = (rng.normal(0.0, 0.3, (size, d)).astype(np.float32) for size in (n, n_others))
    return matrix, rows, others


def systems(
    matrix: csr_matrix, others: Floats, objective: Objective
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """By the loss as it is written: the left and right side of each row's least squares problem, dense, float64."""
    V, found = others.astype(np.float64), []
    for weights in matrix.toarray().astype(np.float64):
        reg = objective.reg * ((weights > 0).sum() + objective.unobserved_weight * len(V)) ** objective.nu
        left = V.T @ (weights[:, None] * V) + objective.unobserved_weight * V.T @ V + reg * np.eye(V.shape[1])
        found.append((left, V.T @ weights))
    return found


def dense_loss(matrix: csr_matrix, users: Floats, items: Floats, objective: Objective) -> float:
    """The three sums of the loss, pair by pair."""
    weights, (U, V) = (
        matrix.toarray().astype(np.float64),
        (users.astype(np.float64), items.astype(np.float64)),
    )
    predictions = U @ V.T
    total = (weights * (1.0 - predictions) ** 2).sum() + objective.unobserved_weight * (predictions**2).sum()
    for vectors, axis in ((U, 1), (V, 0)):
        n_row, n_other = (weights > 0).sum(axis=axis), weights.shape[axis]
        scale = (n_row + objective.unobserved_weight * n_other) ** objective.nu
        total += (objective.reg * scale * (vectors**2).sum(axis=1)).sum()
    return float(total)


# The half-step


@objectives
@pytest.mark.parametrize("d", [1, 7, LANES, BLOCK, BLOCK + 8, 3 * BLOCK])
def test_solve_is_one_plain_pass_over_the_blocks(d: int, objective: Objective) -> None:
    """Protects the step: each block set to its minimiser in turn, as dense float64 arithmetic does it, also where
    factors are no multiple of the block, weights are not 1, and a row has no cells or all."""
    matrix, rows, others = case(d)
    found = solve(cells_of(matrix), rows, others, gramian=gramian(others), objective=objective)
    expected = rows.astype(np.float64)
    for x, (left, right) in zip(expected, systems(matrix, others, objective), strict=True):
        for start in range(0, d, BLOCK):
            block = slice(start, start + BLOCK)
            x[block] -= np.linalg.solve(left[block, block], left[block] @ x - right[block])
    expected[3] = 0.0
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert not found[3].any()


@objectives
@pytest.mark.parametrize("d", [1, 8, BLOCK + 8])
def test_project_is_the_exact_minimiser(d: int, objective: Objective) -> None:
    """Protects fold-in: the vector of a user never seen is the dense float64 solution of training's half-step."""
    matrix, _, others = case(d)
    found = project(cells_of(matrix), others, gramian=gramian(others), objective=objective)
    expected = [np.linalg.solve(left, right) for left, right in systems(matrix, others, objective)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    assert found.dtype == np.float64
    assert not found[3].any()


@pytest.mark.parametrize("d", [8, BLOCK, BLOCK + 8])
def test_solve_repeated_comes_to_project(d: int) -> None:
    """Protects fold-in: it is what training's own steps come to."""
    matrix, rows, others = case(d)
    cells, objective = cells_of(matrix), Objective(0.05, 0.2, 1.0)
    exact = project(cells, others, gramian=gramian(others), objective=objective)
    for _ in range(200):
        rows = solve(cells, rows, others, gramian=gramian(others), objective=objective)
    np.testing.assert_allclose(rows, exact, rtol=1e-5, atol=2e-6)


def test_rows_alone_are_the_rows_of_all() -> None:
    """Protects training in row blocks: a row's bits do not depend on which rows are solved beside it, or by whom."""
    matrix, rows, others = case(BLOCK + 8, n=9 * TOGETHER + 5)
    given = {"gramian": gramian(others), "objective": Objective(0.003, 0.1, 1.0)}
    together = solve(cells_of(matrix), rows, others, **given)
    for part in (slice(0, 1), slice(4, 7), slice(TOGETHER - 1, None)):
        alone = solve(cells_of(matrix[part]), rows[part], others, **given)
        assert alone.tobytes() == together[part].tobytes()


def test_cells_of_a_slice_need_not_start_at_zero() -> None:
    """Protects row blocks cut out of a larger CSR without a copy of its cells."""
    matrix, rows, others = case(8)
    cells = cells_of(matrix)
    given = {"gramian": gramian(others), "objective": Objective(0.003, 0.1, 1.0)}
    part = cells._replace(offsets=cells.offsets[10:21])
    assert (
        solve(part, rows[10:20], others, **given).tobytes()
        == solve(cells, rows, others, **given)[10:20].tobytes()
    )
    np.testing.assert_array_equal(project(part, others, **given), project(cells, others, **given)[10:20])


@pytest.mark.parametrize("n_cells", [GATHERED - 1, GATHERED, GATHERED + 1, 5 * GATHERED + 3])
def test_rows_with_many_cells(n_cells: int) -> None:
    """Protects popular items: what is done a few cells at a time equals what is done at once."""
    rng = np.random.default_rng(n_cells)
    others = rng.normal(0.0, 0.1, (n_cells, 8)).astype(np.float32)
    matrix = csr_matrix(rng.uniform(0.5, 2.0, (2, n_cells)).astype(np.float32))
    objective, rows = Objective(0.003, 0.1, 1.0), np.zeros((2, 8), dtype=np.float32)
    found = solve(cells_of(matrix), rows, others, gramian=gramian(others), objective=objective)
    expected = [np.linalg.solve(left, right) for left, right in systems(matrix, others, objective)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_solve_changes_nothing_that_it_is_given_and_takes_read_only_arrays() -> None:
    """Protects arrays that memory maps and Ray's object store hand out."""
    matrix, rows, others = case(8)
    cells, squares = cells_of(matrix), gramian(others)
    before = [array.copy() for array in (*cells, rows, others, squares)]
    for array in (*cells, rows, others, squares):
        array.flags.writeable = False
    objective = Objective(0.003, 0.1, 1.0)
    found = solve(cells, rows, others, gramian=squares, objective=objective)
    assert found.flags.writeable
    project(cells, others, gramian=squares, objective=objective)
    for array, was in zip((*cells, rows, others, squares), before, strict=True):
        np.testing.assert_array_equal(array, was)


# Its parts


@pytest.mark.parametrize("d", [1, 63, 64, 200])
def test_gramian_is_exact_to_float64(d: int) -> None:
    """Protects large catalogues from sums in float32: values far from 0 lose nothing; any threads, same bits."""
    vectors = (100.0 + np.random.default_rng(d).normal(size=(9000, d))).astype(np.float32)
    found = gramian(vectors)
    np.testing.assert_allclose(found, vectors.astype(np.float64).T @ vectors.astype(np.float64), rtol=1e-13)
    assert found.tobytes() == gramian(vectors, threads=3).tobytes()
    np.testing.assert_array_equal(found, found.T)


@numba.njit
def cholesky(matrix: Floats, right: Floats) -> tuple[bool, Floats]:
    block = matrix.shape[0]
    inverses = np.empty((block // 16, 16, 16), dtype=np.float32)
    result, panel = np.empty(block, dtype=np.float32), np.empty((16, block), dtype=np.float32)
    if not factorise(matrix, inverses, panel):
        return False, result
    substitute(matrix, inverses, right.copy(), result)
    return True, result


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_the_small_factorisation_equals_a_dense_solve(block: int) -> None:
    """Protects the Newton step: a float32 solve of a well conditioned system is float64's to float32's precision."""
    rng = np.random.default_rng(block)
    half = rng.normal(size=(3 * block, block))
    matrix, right = (half.T @ half / block).astype(np.float32), rng.normal(size=block).astype(np.float32)
    is_positive, found = cholesky(matrix.copy(), right)
    assert is_positive
    expected = np.linalg.solve(matrix.astype(np.float64), right.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, -np.inf])
@pytest.mark.parametrize("place", [0, 9, -1])
def test_a_pivot_that_is_not_above_0_is_found(block: int, value: float, place: int) -> None:
    """Protects vectors from a factor of what is not positive definite, wherever on the diagonal it shows."""
    matrix = np.eye(block, dtype=np.float32)
    matrix[place, place] = value
    assert not cholesky(matrix, np.ones(block, dtype=np.float32))[0]


@objectives
def test_loss_is_its_three_sums(objective: Objective) -> None:
    """Protects the specification: the loss that progress is told by is the one of the paper, pair by pair."""
    matrix, users, items = case(8)
    found = loss(cells_of(matrix), users, items, objective=objective)
    assert found == pytest.approx(dense_loss(matrix, users, items, objective), rel=1e-9)


# The fit


def data(*, seed: int = 0, n_users: int = 150, n_items: int = 60) -> Interactions:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), rng.integers(1, 30, n_users))
    items = (n_items * rng.random(len(users)) ** 2).astype(np.int64)
    weights = rng.integers(1, 6, len(users)) * 0.3
    return from_events(coded(pa.table({"user": users, "item": items, "weight": weights})), combine="sum")


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("factors", [8, BLOCK + 8])
def test_the_loss_falls_in_every_epoch(nu: float, factors: int) -> None:
    """Protects the optimiser: no half-step ever undoes what the one before it did."""
    interactions = data()
    cells, objective = cells_of(interactions.user_items), Objective(0.01, 0.2, nu)
    found = []
    for epochs in range(1, 9):
        params = {"factors": factors, "reg": 0.01, "unobserved_weight": 0.2, "nu": nu, "epochs": epochs}
        model = fit("ials", interactions, params=params, seed=1)
        found.append(loss(cells, model.user_vectors, model.item_vectors, objective=objective))
    assert (np.diff(found) < 0).all()


def test_a_fit_comes_to_the_minimisers_of_both_sides() -> None:
    """Protects the order of an epoch and the frequencies of either side: converged, both are minimisers."""
    interactions = data()
    params = DEFAULTS | {"factors": 4, "reg": 0.01, "epochs": 400}
    model = fit("ials", interactions, params=params, seed=1)
    objective = Objective(0.01, 0.1, 1.0)
    users, items, matrix = model.user_vectors, model.item_vectors, interactions.user_items
    for cells, rows, others in ((cells_of(matrix), users, items), (cells_of(matrix.T.tocsr()), items, users)):
        exact = project(cells, others, gramian=gramian(others), objective=objective)
        np.testing.assert_allclose(rows, exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"factors": 9},
        {"reg": 0.5},
        {"unobserved_weight": 0.2},
        {"nu": 0.5},
        {"epochs": 5},
        {"seed": 8},
    ],
    ids=str,
)
def test_settings_do_something(change: dict[str, Any]) -> None:
    """Protects against a setting that is read and dropped."""
    interactions = data()
    params = DEFAULTS | change
    other = fit("ials", interactions, params=params, seed=params.pop("seed", 7))
    assert (
        other.user_vectors.tobytes()
        != fit("ials", interactions, params=DEFAULTS, seed=7).user_vectors.tobytes()
    )


def test_threads_and_wide_vectors_give_the_same_bits() -> None:
    """Protects resumed runs on other machines where there are several blocks, and several tasks for the threads."""
    interactions = data(n_users=3000, n_items=500)
    params = DEFAULTS | {"factors": 2 * BLOCK + 8, "epochs": 2}
    one, three = (fit("ials", interactions, params=params, seed=7, threads=n) for n in (1, 3))
    assert one.user_vectors.tobytes() == three.user_vectors.tobytes()
    assert one.item_vectors.tobytes() == three.item_vectors.tobytes()


def test_one_item() -> None:
    """Protects the narrowest catalogue: more factors than items."""
    events = pa.table({"user": [1, 2, 3], "item": [9, 9, 9], "weight": [1.0, 2.0, 3.0]})
    model = fit("ials", from_events(coded(events), combine="sum"), params=DEFAULTS, seed=0)
    scores = model.user_vectors @ model.item_vectors.T
    assert (np.diff(scores[:, 0]) > 0).all()
    assert ((scores > 0.5) & (scores < 1.1)).all()


def test_the_table_of_the_docs_is_the_benchmarks() -> None:
    """Protects the figures: the table has the columns that `make bench` prints, and its factors."""
    bench = (ROOT / "benchmarks/ials.py").read_text("utf-8")
    rows = rows_of(JOB, "factors", "ials, s an epoch")
    assert 'EPOCH = "| ' + " | ".join(rows[0]) + ' |"' in bench
    assert 'FACTORS = "' + ",".join(row["factors"] for row in rows) + '"' in bench


# What cannot be fitted


@pytest.mark.parametrize("reg", [1e-300, 1e-44])
def test_a_singular_system_is_an_error_that_names_reg(reg: float) -> None:
    """Protects vectors from noise: two factors of one item leave nothing to decide between but reg."""
    rows, others = np.ones((2, 8), dtype=np.float32), np.ones((1, 8), dtype=np.float32)
    cells, objective = cells_of(csr_matrix(np.ones((2, 1), dtype=np.float32))), Objective(reg, 0.1, 1.0)
    given = {"gramian": gramian(others), "objective": objective}
    with pytest.raises(DataError, match=r"ials with .*'reg': .* row 0 is not positive definite.*larger reg"):
        solve(cells, rows, others, **given)
    with pytest.raises(DataError, match=r"row 0 is not positive definite.*larger reg"):
        project(cells, others, **given)


@pytest.mark.parametrize("change", [{"reg": 1e308}, {"unobserved_weight": 1e39}, {"reg": 1e39}], ids=str)
def test_a_fit_that_overflows_is_an_error(change: dict[str, Any]) -> None:
    """Protects a sweep: a trial with impossible numbers ends with its own error, and no vector is ever NaN."""
    with pytest.raises(DataError, match="ials with"):
        fit("ials", data(), params=DEFAULTS | change, seed=0)
