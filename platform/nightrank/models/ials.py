"""ials: implicit-feedback alternating least squares with frequency-scaled regularisation, by subspace Newton steps.

    loss = sum over observed cells of w (1 - u.v)^2
         + unobserved_weight * sum over all pairs of (u.v)^2
         + sum over the rows of both sides of reg * (n_row + unobserved_weight * n_other)^nu * |row|^2

w: the weight of the interaction. n_row: observed cells of the row. n_other: rows of the other side. nu = 0 is
plain L2, nu = 1 grows with all that a row is fitted to.

An epoch improves all user vectors with the items fixed, then all item vectors with the users fixed. Either half is
a least squares problem of each row alone. It is not solved in full: blocks of BLOCK columns are taken in turn, and
each is set to its exact minimiser (`subspace`). So the loss never rises, and a row costs about d^2 + cells * d *
(BLOCK / 2 + 4) + d * BLOCK^2 / 3 multiplications where a full solve takes cells * d^2 / 2 + d^3 / 6. Vectors start
as Gaussian noise of standard deviation 0.1 / sqrt(factors).

Source: Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks",
RecSys 2022 (the loss, its regularisation, the start), and "iALS++: Speeding up matrix factorization with subspace
optimization", 2021 (the steps). We differ: there every w is 1.

`gramian`, `solve` and `project` are pure functions of any block of rows: training in blocks elsewhere is the same
code, to the bit. The model depends on seed and data, not on threads, nor on the order of events. Vectors are
float32, Gramian and regularisation float64 until a sweep uses them. A fit holds one side's vectors twice, and beside
its input 8 bytes a pair where `item_users` is not at hand.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.compiled import read_only
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Epoch, Fitting
from nightrank.models.least_squares import minimiser
from nightrank.models.products import LANES
from nightrank.models.subspace import NONE, Cells, Floats, Task, squared_errors, sweep

# Measured 2026-11 against 16, 64 and 128, d = 64 and 256, on three kinds of made events (6k x 4k users and items with
# 77 cells a user, 30k x 41k with 31, 60k x 5k with 6). 64 takes 1.1 to 1.4 times as long an epoch, 128 1.5 to 1.9
# times; after equal time (8 epochs of 16, 6 of 64) 32 has the lowest loss in three of six cases and is within 0.5% of
# the lowest in all, where 16 is up to 4% and 128 up to 3% above it.
BLOCK = 32
_GRAMIAN_COLUMNS = 64  # of one task
_AT_ONCE = 4096  # vectors held as float64
_TASK_CELLS = 20_000  # of one task, a row counting as _ROW_CELLS more
_ROW_CELLS = 32


@dataclass(frozen=True)
class Objective:
    """The constants of the loss; reg and unobserved_weight above 0, nu from 0 to 1."""

    reg: float
    unobserved_weight: float
    nu: float

    def regs(self, n_cells: NDArray[np.int64], n_others: int) -> NDArray[np.float64]:
        """The regularisation of rows by their number of cells, float64 (n,)."""
        scale = np.float64(self.unobserved_weight * n_others) + n_cells
        result: NDArray[np.float64] = self.reg * scale**self.nu
        return result


def fit_ials(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `unobserved_weight`, `nu`, `epochs`. Raises DataError as `solve` does."""
    objective, d, epochs = objective_of(params), int(params["factors"]), int(params["epochs"])
    by_user, by_item = cells_of(interactions.user_items), cells_of(interactions.item_users)
    users, items = _start(interactions, how, factors=d)
    for number in range(1, epochs + 1):
        squares = gramian(items, threads=how.threads)
        users = solve(by_user, users, items, gramian=squares, objective=objective, threads=how.threads)
        squares = gramian(users, threads=how.threads)
        items = solve(by_item, items, users, gramian=squares, objective=objective, threads=how.threads)
        model = partial(factor_model, "ials", params, users=users, items=items)
        value = partial(loss, by_user, users, items, objective=objective, threads=how.threads)
        if not how.goes_on(Epoch(number, epochs, model=model, loss=value)):
            break
    return model()


def objective_of(params: Params) -> Objective:
    """The constants of the loss among the parameters of a fit."""
    return Objective(*(float(params[name]) for name in ("reg", "unobserved_weight", "nu")))


def _start(interactions: Interactions, how: Fitting, *, factors: int) -> tuple[Floats, Floats]:
    start = how.started("ials", interactions, factors=factors)
    if start is not None:
        return start[0], start[1]
    rng = np.random.default_rng(how.seed)
    users, items = (np.empty((n, factors), dtype=np.float32) for n in interactions.user_items.shape)
    for vectors in (users, items):
        for first in range(0, len(vectors), _AT_ONCE):  # drawn in float64, some at a time
            part = vectors[first : first + _AT_ONCE]
            part[:] = rng.normal(0.0, 0.1 / np.sqrt(factors), part.shape)
    return users, items


def cells_of(matrix: csr_matrix) -> Cells:
    """The cells of a CSR whose weights are not negative; columns and weights are shared, not copied."""
    columns, weights = matrix.indices.astype(np.int32, copy=False), matrix.data.astype(np.float32, copy=False)
    return Cells(matrix.indptr.astype(np.int64), columns, weights)


def gramian(vectors: Floats, *, threads: int = 1) -> NDArray[np.float64]:
    """Of vectors V the matrix V'V: float64 (d, d) of float32 (n, d), summed in float64. n d^2 / 2 multiplications.

    The same bits for any number of threads: each takes columns of the result, not rows of the vectors.
    """
    n, d = vectors.shape
    result = np.zeros((d, d))

    def fill(start: int) -> None:
        columns = slice(start, min(start + _GRAMIAN_COLUMNS, d))
        for first in range(0, n, _AT_ONCE):
            part = vectors[first : first + _AT_ONCE, : columns.stop].astype(np.float64)
            result[columns, : columns.stop] += part[:, columns].T @ part
        result[: columns.start, columns] = result[columns, : columns.start].T

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, reversed(range(0, d, _GRAMIAN_COLUMNS))))
    return result


def solve(
    cells: Cells,
    rows: Floats,
    others: Floats,
    *,
    gramian: NDArray[np.float64],
    objective: Objective,
    threads: int = 1,
    block: int = BLOCK,
) -> Floats:
    """New rows, float32 (n, d), after one sweep of subspace steps from `rows`, float32 (n, d).

    cells: of these rows. others: float32 (n_others, d), the whole other side, and gramian: float64 (d, d), its own.
    block: columns of a step, a multiple of 16. A row without cells becomes 0. The loss does not rise. Nothing that is
    given is changed. Cost: see the module.
    Raises DataError where a system is not positive definite in float32, or a vector is not finite.
    """
    result = np.array(rows, dtype=np.float32, order="C")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is found at the end
        regs = objective.regs(np.diff(cells.offsets), len(others)).astype(np.float32)
        blocks = _blocks(objective.unobserved_weight * gramian, block)
    own_cells = Cells(*(read_only(array) for array in cells))
    task = Task(own_cells, read_only(others), read_only(blocks), read_only(regs), result)
    with ThreadPoolExecutor(threads) as pool:
        for row in pool.map(lambda part: sweep(task, *part), _parts(cells.offsets)):
            if row != NONE:
                raise _singular(objective, int(row))
    if not np.isfinite(result).all():
        raise DataError(
            f"ials with {asdict(objective)} diverged: vectors are not finite; use a smaller reg, unobserved_weight "
            "or weights"
        )
    return result


def project(
    cells: Cells, others: Floats, *, gramian: NDArray[np.float64], objective: Objective
) -> NDArray[np.float64]:
    """The exact minimisers of rows with these cells, float64 (n, d), all solved in float64.

    This is the fold-in of users never seen, from the final item vectors: what `solve`, repeated, comes to.
    others, gramian: as in `solve`. cells * d^2 + d^3 / 3 multiplications a row.
    Raises DataError where a system is not positive definite in float64.
    """
    result = np.zeros((len(cells.offsets) - 1, others.shape[1]))
    regs = objective.regs(np.diff(cells.offsets), len(others))
    for row, (begin, end) in enumerate(itertools.pairwise(cells.offsets)):
        if begin == end:
            continue  # 0
        base = objective.unobserved_weight * gramian
        base.flat[:: len(base) + 1] += regs[row]
        weights = cells.weights[begin:end].astype(np.float64)
        try:
            result[row] = minimiser(others, cells.columns[begin:end], base=base, left=weights, right=weights)
        except np.linalg.LinAlgError:
            raise _singular(objective, row) from None
    return result


def loss(cells: Cells, users: Floats, items: Floats, *, objective: Objective, threads: int = 1) -> float:
    """The loss of the module's docstring, in float64. cells: of the users."""
    n_cells = np.diff(cells.offsets), np.bincount(cells.columns, minlength=len(items))
    squares = gramian(users, threads=threads) * gramian(items, threads=threads)
    total = objective.unobserved_weight * float(squares.sum())
    for vectors, others, counts in ((users, items, n_cells[0]), (items, users, n_cells[1])):
        total += float(objective.regs(counts, len(others)) @ np.square(vectors, dtype=np.float64).sum(axis=1))
    matrices = read_only(users), read_only(items)
    own_cells = Cells(*(read_only(array) for array in cells))
    with ThreadPoolExecutor(threads) as pool:
        return total + sum(
            pool.map(lambda part: squared_errors(own_cells, *matrices, *part), _parts(cells.offsets))
        )


def _blocks(matrix: NDArray[np.float64], block: int) -> Floats:
    """The columns of float64 (d, d) in blocks, float32 (n_blocks, padded d, block), with zeros beyond d."""
    d = len(matrix)
    block = min(block, -(-d // LANES) * LANES)
    n_blocks = -(-d // block)
    padded = np.zeros((n_blocks * block, n_blocks * block), dtype=np.float32)
    padded[:d, :d] = matrix
    return np.ascontiguousarray(padded.reshape(-1, n_blocks, block).transpose(1, 0, 2))


def _parts(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of rows with about the same work, one a task. A row's result does not depend on its range."""
    work = offsets - offsets[0] + _ROW_CELLS * np.arange(len(offsets))
    ends = np.unique(np.r_[np.searchsorted(work, np.arange(0, work[-1], _TASK_CELLS)), len(offsets) - 1])
    return [(int(first), int(last)) for first, last in itertools.pairwise(ends)]


def _singular(objective: Objective, row: int) -> DataError:
    return DataError(
        f"ials with {asdict(objective)}: the system of row {row} is not positive definite in its precision; "
        "use a larger reg or smaller weights"
    )
