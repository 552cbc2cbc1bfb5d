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

from nightrank.ranking import scan
from nightrank.ranking.arguments import BIASED, FLOAT, PLAIN, SPARE, Answer, Catalogue, Cells, Query
from nightrank.ranking.filters import Filters, check_finite, check_query, checked_items, filters_of
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
        bias = checked_items(item_vectors, item_bias, threads=threads)
        self.item_vectors, self.item_bias = item_vectors, bias
        self.threads = own_cpus() if threads is None else threads
        vectors = readonly(np.ascontiguousarray(item_vectors))
        is_integer = vectors.shape[1] <= MAX_INTEGER_COLUMNS and has_exact_product()
        if prepared is not None and is_integer:
            check_finite(bias, name="item_bias")
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
        result = TopK.empty(len(user_vectors), k)
        return result, self.fill(result, user_vectors, filters_of(exclude, allow))

    def fill(self, result: TopK, user_vectors: NDArray[np.float32], filters: Filters) -> int:
        """`search` into `result`, whose width is k, without any check: for a share of a catalogue, since a query is
        checked once, as a whole. How many pairs were screened."""
        (n_users, k), n_items = result.item_rows.shape, len(self.item_vectors)
        if k == 0 or n_items == 0 or n_users == 0:
            return 0
        query = self._query(user_vectors, min(k, n_items), filters)
        answer = Answer(*result)
        if self.threads == 1 or n_users <= query.chunk:
            return int(scan.rank(self._catalogue, query, answer, 0, n_users))
        n_chunks = -(-n_users // query.chunk)
        size = query.chunk * -(-n_chunks // (PARTS * self.threads))

        def rank(start: int) -> int:
            screened: int = scan.rank(self._catalogue, query, answer, start, min(start + size, n_users))
            return screened

        with ThreadPoolExecutor(self.threads) as pool:
            return sum(pool.map(rank, range(0, n_users, size)))

    def _query(self, user_vectors: NDArray[np.float32], k: int, filters: Filters) -> Query:
        packed, n_items, n_users = self._catalogue, len(self.item_vectors), len(user_vectors)
        masks, few, shared = self._all_lanes, n_items // FEW, _NOTHING
        if filters.shared is not None:
            shared = packed.positions[filters.shared]
            if len(shared) <= few:
                shared = np.sort(shared)
            else:
                masks = readonly(_lanes(shared, len(masks)))
        row_bytes = 12 * (2 * k + SPARE) + 4 * packed.panels.shape[1]
        most = min(CHUNK_BYTES // row_bytes, MOST_USERS, -(-n_users // self.threads) + WIDE - 1)
        chunk = min(max(WIDE, most // WIDE * WIDE), n_users)
        return Query(
            users=readonly(np.ascontiguousarray(user_vectors)),
            k=k,
            kind=self._kind,
            chunk=chunk,
            masks=masks,
            excluded=filters.excluded,
            allowed=filters.allowed,
            most_excluded=_most(filters.excluded, chunk),
            most_allowed=_most(filters.allowed, chunk),
            own_allowed=filters.own_allowed,
            few=few,
            shared_few=filters.shared is not None and len(shared) <= few,
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
        check_query(user_vectors, k, self.item_vectors.shape, exclude=exclude, allow=allow)


def own_cpus() -> int:
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


def _most(cells: Cells, chunk: int) -> int:
    """The most items that a chunk of users has on its lists."""
    ends = np.append(cells.offsets[::chunk], cells.offsets[-1])
    return int(np.diff(ends).max(initial=0))
