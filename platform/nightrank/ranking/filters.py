"""What a query leaves out and allows, as plain arrays, and the checks of all that the engine is given.

scipy's matrices are read once, here: taking a share of the columns of one costs more than ranking a share does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.compiled import compiled
from nightrank.errors import DataError
from nightrank.ranking.arguments import Cells
from nightrank.ranking.packing import readonly

_NO_CELLS = Cells(readonly(np.zeros(1, dtype=np.int64)), readonly(np.zeros(0, dtype=np.int32)))


class Filters(NamedTuple):
    """excluded, allowed: item rows by user; allowed counts where own_allowed says so. shared: int64, item rows that
    all users may get, None for every row."""

    excluded: Cells
    allowed: Cells
    own_allowed: bool
    shared: NDArray[np.int64] | None

    def of_share(self, first: int, last: int) -> Filters:
        """The same for item rows first to last alone, counted from first."""
        shared = self.shared
        if shared is not None:
            shared = shared[(shared >= first) & (shared < last)] - first
        return Filters(
            _cut(self.excluded, first, last), _cut(self.allowed, first, last), self.own_allowed, shared
        )

    def received(self) -> Filters:
        """The same after a journey between processes, which makes arrays writable: compiled code knows one type."""
        excluded, allowed = (
            Cells(*(readonly(array) for array in cells)) for cells in (self.excluded, self.allowed)
        )
        return Filters(excluded, allowed, self.own_allowed, self.shared)


def filters_of(exclude: csr_matrix | None, allow: NDArray[np.integer] | csr_matrix | None) -> Filters:
    """The arguments of `ItemIndex.top_k` after their checks."""
    own = isinstance(allow, csr_matrix)
    shared = None if allow is None or own else np.asarray(allow, dtype=np.int64)
    return Filters(_cells(exclude), _cells(allow if own else None), own, shared)


def checked_items(
    item_vectors: NDArray[np.float32], item_bias: NDArray[np.float32] | None, *, threads: int | None
) -> NDArray[np.float32]:
    """The bias, zeros where there is none. Raises DataError for a wrong dtype or shape, or threads < 1."""
    bias = np.zeros(len(item_vectors), dtype=np.float32) if item_bias is None else item_bias
    _check_form(item_vectors, name="item_vectors", n_dims=2)
    _check_form(bias, name="item_bias", n_dims=1)
    if len(bias) != len(item_vectors):
        raise DataError(f"item_bias has {len(bias)} entries for {len(item_vectors)} items; give one per item")
    if threads is not None and threads < 1:
        raise DataError(f"threads is {threads}; give 1 or more, or None for the CPUs of this process")
    return bias


def check_query(
    user_vectors: NDArray[np.float32],
    k: int,
    shape: tuple[int, ...],
    *,
    exclude: csr_matrix | None,
    allow: NDArray[np.integer] | csr_matrix | None,
) -> None:
    """Raises DataError for what `top_k` refuses of item vectors of this shape."""
    _check_form(user_vectors, name="user_vectors", n_dims=2)
    check_finite(user_vectors, name="user_vectors")
    n_items, width = shape
    if user_vectors.shape[1] != width:
        raise DataError(f"user_vectors have {user_vectors.shape[1]} columns, item_vectors {width}")
    if k < 0:
        raise DataError(f"k is {k}; give 0 or more")
    for name, cells in (("exclude", exclude), ("allow", allow)):
        if isinstance(cells, csr_matrix):
            if cells.shape != (len(user_vectors), n_items):
                raise DataError(
                    f"{name} has shape {cells.shape}; expected users x items, {len(user_vectors)} x {n_items}"
                )
            _check_cells(cells, name=name)
        elif cells is not None:
            _check_rows(np.asarray(cells), name=name, n_items=n_items)


def check_finite(array: NDArray[np.float32], *, name: str) -> None:
    """Raises DataError naming the first row that holds a value that is not finite."""
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"{name} holds a value that is not finite, first in row {bad}; refit or drop that row"
        )


def _cells(cells: csr_matrix | None) -> Cells:
    if cells is None:
        return _NO_CELLS
    return Cells(
        readonly(cells.indptr.astype(np.int64)), readonly(cells.indices.astype(np.int32, copy=False))
    )


def _cut(cells: Cells, first: int, last: int) -> Cells:
    if len(cells.items) == 0:
        return cells
    offsets, items = _cells_between(cells.offsets, cells.items, first, last)
    return Cells(readonly(offsets), readonly(items))


@compiled
def _cells_between(
    offsets: NDArray[np.int64], items: NDArray[np.int32], first: int, last: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    cut, kept = np.zeros_like(offsets), np.empty(items.shape[0], dtype=np.int32)
    n = 0
    for user in range(offsets.shape[0] - 1):
        for place in range(offsets[user], offsets[user + 1]):
            kept[n] = items[place] - first
            n += first <= items[place] < last
        cut[user + 1] = n
    return cut, kept[:n]


def _check_form(array: NDArray[np.generic], *, name: str, n_dims: int) -> None:
    if array.dtype != np.float32 or array.ndim != n_dims:
        raise DataError(
            f"{name} is {array.dtype} with {array.ndim} dimensions; expected float32 with {n_dims}: "
            "cast once with numpy.ascontiguousarray(x, dtype=numpy.float32)"
        )


def _check_cells(cells: csr_matrix, *, name: str) -> None:
    """scipy takes offsets and columns as they come; compiled code would follow them anywhere."""
    offsets, n_items = cells.indptr, cells.shape[1]
    columns = cells.indices[: max(int(offsets[-1]), 0)]
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or len(columns) != offsets[-1]:
        raise DataError(
            f"{name} is no whole CSR matrix: its indptr does not ascend from 0 within its indices"
        )
    if len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < n_items:
        raise DataError(f"{name} names columns outside 0..{n_items - 1}")


def _check_rows(rows: NDArray[np.generic], *, name: str, n_items: int) -> None:
    if name == "exclude" or (rows.size and rows.dtype.kind not in "iu"):
        expected = "csr_matrix" if name == "exclude" else "csr_matrix or integer item rows"
        raise DataError(f"{name} holds {rows.dtype} and is no scipy.sparse.csr_matrix; expected {expected}")
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < n_items:
        raise DataError(f"allow names rows outside 0..{n_items - 1}")
