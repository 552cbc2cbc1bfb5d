"""ItemIndex: the exact top-k items for user vectors.

Prepared once from item vectors (`packing`), asked many times (`scan`). Pairs are ruled out by proven bounds only, and
what is left is scored canonically (`canonical`) and ordered by (score descending, row ascending). So the answer is a
function of the vectors alone: batch, block sizes, threads and the CPU cannot change a bit of it.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.errors import DataError
from nightrank.ranking import scan
from nightrank.ranking.arguments import BIASED, FLOAT, PLAIN, SPARE, Answer, Catalogue, Cells, Query
from nightrank.ranking.packing import Packed, assemble, pack, readonly
from nightrank.ranking.product import has_exact_product
from nightrank.ranking.tile import MAX_INTEGER_COLUMNS, STRIP, WIDE
from nightrank.ranking.topk import TopK

CHUNK_BYTES = 384 << 10  # of candidates and codes that a thread works on: within its level-2 cache
MOST_USERS = 256  # at a time: more add nothing
PARTS = 4  # of the users for each thread, so that none waits long for the last
FEW = (
    64  # lists of allowed items up to 1 / FEW of the catalogue are scored one by one: cheaper than screening
)

_NOTHING = np.zeros(0, dtype=np.int32)
_NO_CELLS = Cells(readonly(np.zeros(1, dtype=np.int64)), readonly(_NOTHING.copy()))


class ItemIndex:
    """The catalogue, ready to be ranked.

    item_vectors: float32 (n_items, d), C-contiguous; read-only arrays and memory maps are fine.
    item_bias: float32 (n_items,) or None for zeros.
    threads: how many; None: as many as CPUs this process may run on.
    prepared: what `packing.prepare` gave for the same vectors and bias, or memory maps of it: O(n_items) in place of
    O(n_items d). Where the CPU lacks the int8 product it is not used.

    Raises DataError for another dtype or shape, values that are not finite, or threads < 1.
    """

    def __init__(
        self,
        item_vectors: NDArray[np.float32],
        item_bias: NDArray[np.float32] | None = None,
        *,
        threads: int | None = None,
        prepared: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        bias = np.zeros(len(item_vectors), dtype=np.float32) if item_bias is None else item_bias
        _check_form(item_vectors, name="item_vectors", n_dims=2)
        _check_form(bias, name="item_bias", n_dims=1)
        if len(bias) != len(item_vectors):
            raise DataError(
                f"item_bias has {len(bias)} entries for {len(item_vectors)} items; give one per item"
            )
        if threads is not None and threads < 1:
            raise DataError(f"threads is {threads}; give 1 or more, or None for the CPUs of this process")
        self.item_vectors, self.item_bias = item_vectors, bias
        self.threads = _cpus() if threads is None else threads
        vectors = readonly(np.ascontiguousarray(item_vectors))
        is_integer = vectors.shape[1] <= MAX_INTEGER_COLUMNS and has_exact_product()
        if prepared is not None and is_integer:
            _check_finite(bias, name="item_bias")
            packed = assemble(prepared, vectors, bias, is_integer=True)
        else:
            packed = pack(vectors, bias, is_integer=is_integer)
        self._kind = FLOAT if not is_integer else BIASED if bias.any() else PLAIN
        self._catalogue = _catalogue(packed, vectors, bias)
        self._all_lanes = readonly(_all_lanes(len(bias)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Prepared again where it is unpickled: CPUs differ."""
        return partial(ItemIndex, threads=self.threads), (self.item_vectors, self.item_bias)

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """The k best items of each user: item_rows (n, k), scores (n, k), counts (n,).

        user_vectors: float32 (n, d), finite. exclude: CSR (n, n_items), stored cells are left out, whatever
        their value. allow: item rows that all users may get, or CSR (n, n_items) of each user's own.
        k may exceed what is left: counts say how many there are. At most O(n n_items d), in int8.

        Raises DataError for a wrong dtype or shape, values that are not finite, k < 0 or rows out of range.
        """
        return self.search(user_vectors, k, exclude=exclude, allow=allow)[0]

    def search(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> tuple[TopK, int]:
        """`top_k`, and how many (user, item) pairs were screened for it: the others were ruled out in blocks. The
        strips are of 48, so a few more are counted than there are."""
        k = operator.index(k)
        self.check_query(user_vectors, k, exclude=exclude, allow=allow)
        n_users, n_items = len(user_vectors), len(self.item_vectors)
        result = TopK.empty(n_users, k)
        if k == 0 or n_items == 0 or n_users == 0:
            return result, 0
        query = self._query(user_vectors, min(k, n_items), exclude=exclude, allow=allow)
        answer = Answer(*result)
        if self.threads == 1 or n_users <= query.chunk:
            return result, scan.rank(self._catalogue, query, answer, 0, n_users)
        n_chunks = -(-n_users // query.chunk)
        size = query.chunk * -(-n_chunks // (PARTS * self.threads))

        def rank(start: int) -> int:
            screened: int = scan.rank(self._catalogue, query, answer, start, min(start + size, n_users))
            return screened

        with ThreadPoolExecutor(self.threads) as pool:
            return result, sum(pool.map(rank, range(0, n_users, size)))

    def _query(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None,
        allow: NDArray[np.integer] | csr_matrix | None,
    ) -> Query:
        packed, n_items, n_users = self._catalogue, len(self.item_vectors), len(user_vectors)
        masks, few, own = self._all_lanes, n_items // FEW, isinstance(allow, csr_matrix)
        shared = _NOTHING
        if allow is not None and not own:
            shared = packed.positions[np.asarray(allow, dtype=np.int64)]
            if len(shared) <= few:
                shared = np.sort(shared)
            else:
                masks = readonly(_lanes(shared, len(masks)))
        row_bytes = 12 * (2 * k + SPARE) + 4 * packed.panels.shape[1]
        most = min(CHUNK_BYTES // row_bytes, MOST_USERS, -(-n_users // self.threads) + WIDE - 1)
        chunk = min(max(WIDE, most // WIDE * WIDE), n_users)
        excluded, allowed = _cells(exclude), _cells(allow if own else None)
        return Query(
            users=readonly(np.ascontiguousarray(user_vectors)),
            k=k,
            kind=self._kind,
            chunk=chunk,
            masks=masks,
            excluded=excluded,
            allowed=allowed,
            most_excluded=_most(excluded, chunk),
            most_allowed=_most(allowed, chunk),
            own_allowed=own,
            few=few,
            shared_few=allow is not None and not own and len(shared) <= few,
            few_allowed=shared,
        )

    def check_query(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None,
        allow: NDArray[np.integer] | csr_matrix | None,
    ) -> None:
        """Raises DataError for what `top_k` refuses."""
        _check_form(user_vectors, name="user_vectors", n_dims=2)
        _check_finite(user_vectors, name="user_vectors")
        n_items, width = self.item_vectors.shape
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


def _cpus() -> int:
    """How many CPUs this process may run on; all of them where the system does not say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _catalogue(packed: Packed, vectors: NDArray[np.float32], bias: NDArray[np.float32]) -> Catalogue:
    padded = np.zeros(len(packed.panels) * STRIP, dtype=np.float32)
    padded[: len(bias)] = packed.items["bias"]
    return Catalogue(
        panels=packed.panels,
        blocks=packed.blocks,
        items=packed.items,
        positions=packed.positions,
        pivot=packed.pivot,
        vectors=vectors,
        padded_bias=readonly(padded),
        largest_bias=float(np.abs(bias).max(initial=0.0)),
    )


def _all_lanes(n_items: int) -> NDArray[np.uint64]:
    """uint64 (n_strips,): a bit for every item there is."""
    masks = np.full(-(-n_items // STRIP), 2**STRIP - 1, dtype=np.uint64)
    if n_items % STRIP:
        masks[-1] = 2 ** (n_items % STRIP) - 1
    return masks


def _lanes(positions: NDArray[np.int32], n_strips: int) -> NDArray[np.uint64]:
    """The same for some positions alone."""
    lanes = np.zeros((n_strips, 64), dtype=np.bool_)
    lanes[positions // STRIP, positions % STRIP] = True
    return np.packbits(lanes, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)


def _cells(cells: csr_matrix | None) -> Cells:
    if cells is None:
        return _NO_CELLS
    return Cells(
        readonly(cells.indptr.astype(np.int64)), readonly(cells.indices.astype(np.int32, copy=False))
    )


def _most(cells: Cells, chunk: int) -> int:
    """The most items that a chunk of users has on its lists."""
    if cells is _NO_CELLS:
        return 0
    ends = np.append(cells.offsets[::chunk], cells.offsets[-1])
    return int(np.diff(ends).max(initial=0))


def _check_form(array: NDArray[np.generic], *, name: str, n_dims: int) -> None:
    if array.dtype != np.float32 or array.ndim != n_dims:
        raise DataError(
            f"{name} is {array.dtype} with {array.ndim} dimensions; expected float32 with {n_dims}: "
            "cast once with numpy.ascontiguousarray(x, dtype=numpy.float32)"
        )


def _check_finite(array: NDArray[np.float32], *, name: str) -> None:
    if not np.isfinite(array).all():
        bad = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"{name} holds a value that is not finite, first in row {bad}; refit or drop that row"
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
