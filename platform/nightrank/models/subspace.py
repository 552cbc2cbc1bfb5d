"""Compiled: one sweep of subspace Newton steps over some rows of one side of ials, the other side fixed.

The loss of a row x, with v the other side's vectors, G = unobserved_weight * the other side's Gramian, and reg its
own regularisation, is quadratic: sum over its cells of w (1 - x.v)^2 + x'Gx + reg |x|^2. For each block of columns
in turn the exact minimiser over this block is taken: x_b -= H^-1 g with H = sum w v_b v_b' + G_bb + reg I and g =
sum w (x.v - 1) v_b + (G x)_b + reg x_b (iALS++, algorithm 2). The predictions x.v are computed once and then kept
up to date.

Rows are done some at a time, so that G x is a product of matrices; a row's bits do not depend on which are beside
it. All in float32: a step starts from the gradient at the current x, so the error of a solve is made good by the
next. Working memory is a few hundred KB and 4 bytes for each cell of the rows that are done together.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled, inlined, inner, reordered
from nightrank.models.products import LANES, ROWS, add_row, add_tile, factorise_tile, subtract_tile

Floats = NDArray[np.float32]

TOGETHER = ROWS  # rows; with 16 or 32 their cells' vectors leave the cache from one block to the next
GATHERED = 64  # cells whose vectors are copied side by side
NONE = -1


class Cells(NamedTuple):
    """The observed cells of some rows, as in a CSR: those of row i from offsets[i] (int64) to offsets[i + 1] of
    columns (int32, rows of the other side), and weights (float32)."""

    offsets: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: Floats


class Task(NamedTuple):
    """What a sweep is given. others: float32 (n_others, d). blocks: float32 (n_blocks, padded d, block), the
    columns of G, with zeros beyond d. regs: float32 (n,). rows: float32 (n, d), improved in place; the rest is
    only read."""

    cells: Cells
    others: Floats
    blocks: Floats
    regs: Floats
    rows: Floats


class Memory(NamedTuple):
    """A thread's own. columns: (padded d, TOGETHER), the rows in hand. slopes: (TOGETHER, block), G x. residuals:
    of the cells of the rows in hand, sqrt(w) (x.v - 1). own: (GATHERED, block), a block of the cells' sqrt(w) v.
    matrix: (block, block), H. inverses: (block / LANES, LANES, LANES), of the factor's tiles on the diagonal.
    right: (block,), g, then U'^-1 g. step: (block,), H^-1 g. panel: (LANES, block), scratch."""

    columns: Floats
    slopes: Floats
    residuals: Floats
    own: Floats
    matrix: Floats
    inverses: Floats
    right: Floats
    step: Floats
    panel: Floats


class Place(NamedTuple):
    """Where a step is: the row, the first of the rows in hand, the number of the block, its first column and
    width."""

    row: int
    start: int
    number: int
    base: int
    width: int


@compiled
def sweep(task: Task, first: int, last: int) -> int:
    """Improve rows `first` to `last`; the first of which H is not positive definite, where it ends, or NONE."""
    offsets, (_, padded, block) = task.cells.offsets, task.blocks.shape
    most = 0
    for start in range(first, last, TOGETHER):
        most = max(most, offsets[min(start + TOGETHER, last)] - offsets[start])
    memory = Memory(
        np.zeros((padded, TOGETHER), dtype=np.float32),
        np.zeros((TOGETHER, block), dtype=np.float32),
        np.empty(most, dtype=np.float32),
        np.zeros((GATHERED, block), dtype=np.float32),
        np.empty((block, block), dtype=np.float32),
        np.empty((block // LANES, LANES, LANES), dtype=np.float32),
        np.empty(block, dtype=np.float32),
        np.empty(block, dtype=np.float32),
        np.empty((LANES, block), dtype=np.float32),
    )
    return _sweep(task, memory, first, last)


@inner
def _sweep(task: Task, memory: Memory, first: int, last: int) -> int:
    offsets, d, block = task.cells.offsets, task.rows.shape[1], task.blocks.shape[2]
    for start in range(first, last, TOGETHER):
        n = min(TOGETHER, last - start)
        _begin(task, memory, start, n)
        for number in range(task.blocks.shape[0]):
            _set_slopes(task.blocks, memory, number)
            for row in range(start, start + n):
                if offsets[row] == offsets[row + 1]:
                    continue
                base = number * block
                if not _move(task, memory, Place(row, start, number, base, min(block, d - base))):
                    return row
    return NONE


@inner
def _begin(task: Task, memory: Memory, start: int, n: int) -> None:
    """Residuals of all cells of n rows, and the rows as columns; a row without cells becomes 0, its minimiser."""
    cells = task.cells
    for row in range(start, start + n):
        begin, end = cells.offsets[row], cells.offsets[row + 1]
        for column in range(task.rows.shape[1]):
            if begin == end:
                task.rows[row, column] = np.float32(0.0)
            memory.columns[column, row - start] = task.rows[row, column]
        for cell in range(begin, end):
            error = _dot(task.rows[row], task.others[cells.columns[cell]]) - np.float32(1.0)
            memory.residuals[cell - cells.offsets[start]] = math.sqrt(cells.weights[cell]) * error


@reordered
def _dot(a: Floats, b: Floats) -> np.float32:
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@inlined
def _at(array: Floats, offset: int) -> Any:
    """The address of a float32 array's value number `offset`."""
    return numba.uintp(array.ctypes.data) + numba.uintp(4 * offset)


@inner
def _copy(source: Floats, target: Floats) -> None:
    """numba's own assignment of arrays allocates."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@inner
def _set_slopes(blocks: Floats, memory: Memory, number: int) -> None:
    """G x of one block of columns, for the rows in hand."""
    padded, block = blocks.shape[1], blocks.shape[2]
    memory.slopes[:] = np.float32(0.0)
    left, first = _at(memory.columns, 0), number * padded * block
    for lane in range(0, block, LANES):
        sums, right = _at(memory.slopes, lane), _at(blocks, first + lane)
        add_tile(sums, 4 * block, left, 4 * TOGETHER, right, 4 * block, padded)


@inner
def _move(task: Task, memory: Memory, place: Place) -> bool:
    """The Newton step of one row and block; False where H is not positive definite."""
    cells, row, base = task.cells, place.row, place.base
    begin, end = cells.offsets[row], cells.offsets[row + 1]
    first = cells.offsets[place.start]
    _set_regular(task, memory, place)
    for cell in range(begin, end, GATHERED):
        n = min(GATHERED, end - cell)
        _gather(task, memory, place, cell, n)
        _add_cells(memory, cell - first, n)
    if not factorise(memory.matrix, memory.inverses, memory.panel):
        return False
    substitute(memory.matrix, memory.inverses, memory.right, memory.step)
    for i in range(place.width):
        task.rows[row, base + i] -= memory.step[i]
        memory.columns[base + i, row - place.start] = task.rows[row, base + i]
    for cell in range(begin, end, GATHERED):
        n = min(GATHERED, end - cell)
        if end - begin > GATHERED:
            _gather(task, memory, place, cell, n)
        for i in range(n):
            memory.residuals[cell + i - first] -= _dot(memory.step, memory.own[i])
    return True


@inner
def _set_regular(task: Task, memory: Memory, place: Place) -> None:
    """H and g without the cells; 1 on the diagonal of H beyond the width, where g is 0."""
    matrix, right, reg = memory.matrix, memory.right, task.regs[place.row]
    block = matrix.shape[0]
    _copy(task.blocks[place.number, place.base : place.base + block], matrix)
    for i in range(block):
        if i < place.width:
            matrix[i, i] += reg
            right[i] = memory.slopes[place.row - place.start, i] + reg * task.rows[place.row, place.base + i]
        else:
            matrix[i, i] = np.float32(1.0)
            right[i] = np.float32(0.0)


@inner
def _gather(task: Task, memory: Memory, place: Place, cell: int, n: int) -> None:
    """Copy a block of the vectors of n cells, from `cell` on, times sqrt(w); zeros beyond the width."""
    own, base, width = memory.own, place.base, place.width
    for i in range(n):
        root, other = math.sqrt(task.cells.weights[cell + i]), task.cells.columns[cell + i]
        for j in range(width):
            own[i, j] = root * task.others[other, base + j]
        for j in range(width, own.shape[1]):
            own[i, j] = np.float32(0.0)


@inner
def _add_cells(memory: Memory, first: int, n: int) -> None:
    """Add what n gathered cells give: w v v' to the upper triangle of H, w (x.v - 1) v to g."""
    block = memory.matrix.shape[0]
    for lane in range(0, block, LANES):
        lanes = _at(memory.own, lane)
        add_row(_at(memory.right, lane), 0, _at(memory.residuals, first), 4, lanes, 4 * block, n)
        for row in range(0, lane + LANES, ROWS):
            sums, left = _at(memory.matrix, row * block + lane), _at(memory.own, row)
            add_tile(sums, 4 * block, left, 4 * block, lanes, 4 * block, n)


@inner
def factorise(matrix: Floats, inverses: Floats, panel: Floats) -> bool:
    """Cholesky in place: the upper triangle U of float32 (block, block), U'U = matrix; what is below is left as it
    falls. False where a pivot is not above 0. Tile after tile of the diagonal: its factor, the tiles right of it
    by the inverse of the factor, then their products off all tiles below. inverses, panel: as in Memory."""
    block = matrix.shape[0]
    stride = 4 * block
    for start in range(0, block, LANES):
        end, inverse = start + LANES, _at(inverses, start * LANES)
        if not factorise_tile(_at(matrix, start * block + start), stride, inverse) > np.float32(0.0):
            return False
        _copy(matrix[start:end, end:], panel[:, end:])
        matrix[start:end, end:] = np.float32(0.0)
        for lane in range(end, block, LANES):
            for row in range(0, LANES, ROWS):
                sums, left = _at(matrix, (start + row) * block + lane), inverse + numba.uintp(4 * row)
                add_tile(sums, stride, left, 4 * LANES, _at(panel, lane), stride, LANES)
        for lane in range(end, block, LANES):
            right = _at(matrix, start * block + lane)
            for row in range(end, lane + LANES, ROWS):
                sums, left = _at(matrix, row * block + lane), _at(matrix, start * block + row)
                subtract_tile(sums, stride, left, stride, right, stride, LANES)
    return True


@inner
def substitute(matrix: Floats, inverses: Floats, right: Floats, result: Floats) -> None:
    """result: the x with U'U x = right, float32 (block,); U and inverses as `factorise` leaves them. Spoils
    right."""
    block = matrix.shape[0]
    for start in range(0, block, LANES):
        end = start + LANES
        result[start:end] = np.float32(0.0)
        add_row(_at(result, start), 0, _at(right, start), 4, _at(inverses, start * LANES), 4 * LANES, LANES)
        for i in range(start, end):
            right[i] = -result[i]
        for lane in range(end, block, LANES):
            tile = _at(matrix, start * block + lane)
            add_row(_at(right, lane), 0, _at(right, start), 4, tile, 4 * block, LANES)
    for start in range(block - LANES, -1, -LANES):
        end = start + LANES
        for i in range(start, end):
            right[i] = -right[i] - _dot(matrix[i, end:], result[end:])
        for i in range(LANES):
            result[start + i] = _dot(inverses[start // LANES, i], right[start:end])


@compiled
def squared_errors(cells: Cells, rows: Floats, others: Floats, first: int, last: int) -> float:
    """The sum of w (1 - x.v)^2 over the cells of rows first to last, in float64. rows: (n, d). others: as in Task."""
    total = 0.0
    for row in range(first, last):
        for cell in range(cells.offsets[row], cells.offsets[row + 1]):
            error = 1.0 - _exact_dot(rows[row], others[cells.columns[cell]])
            total += np.float64(cells.weights[cell]) * error * error
    return total


@reordered
def _exact_dot(row: Floats, other: Floats) -> float:
    total = 0.0
    for column in range(row.shape[0]):
        total += np.float64(row[column]) * np.float64(other[column])
    return total
