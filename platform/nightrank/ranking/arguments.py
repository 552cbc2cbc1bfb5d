"""What the compiled search is given, and what it works in: named tuples of arrays, whose layout numba knows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled
from nightrank.ranking.tile import GATE, STRIP, WIDE

PLAIN, BIASED, FLOAT = 0, 1, 2  # the sums: int8; int8 and a bias; float32, which always has one
LOW, HIGH, PLACE = 0, 1, 2  # of a candidate: keys of the bounds of its score, and its position
SPARE = 4 * STRIP  # of a buffer beyond 2 k: a strip fits, also after a trim that leaves some in question

# A user of the chunk, in one cache line: norm, and scale and residual of the codes; candidates, and those since the
# last trim; the next place in the lists of excluded and allowed items; the key that a pair has to reach.
USER = np.dtype(
    [
        *((name, np.float64) for name in ("norm", "scale", "residual")),
        *((name, np.int64) for name in ("count", "fresh", "next_excluded", "next_allowed")),
        *((name, np.int32) for name in ("bound", "unused")),
    ]
)


class Catalogue(NamedTuple):
    """The items. panels, blocks, items, positions, pivot: as in `Packed`. vectors: float32 (n_items, d), by row.
    padded_bias: float32 by position, to the end of the last strip. largest_bias: of absolute values."""

    panels: NDArray[np.uint8]
    blocks: NDArray[Any]
    items: NDArray[Any]
    positions: NDArray[np.int32]
    pivot: float
    vectors: NDArray[np.float32]
    padded_bias: NDArray[np.float32]
    largest_bias: float


class Cells(NamedTuple):
    """Items by user, as in a CSR: those of user i from offsets[i] (int64) to offsets[i + 1] of items (int32).

    A single offset says that there are none. In a query items are rows, in the state positions, sorted.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]


class Query(NamedTuple):
    """users: float32 (n, d). kind: of sums. chunk: users at a time. masks: uint64 (n_strips,), the lanes that anybody
    may get. own_allowed: `allowed` is by user; up to `few` of them are scored one by one. shared_few: so are
    `few_allowed`, int32 positions, sorted, for everybody. most_excluded, most_allowed: cells of any one chunk.
    """

    users: NDArray[np.float32]
    k: int
    kind: int
    chunk: int
    masks: NDArray[np.uint64]
    excluded: Cells
    allowed: Cells
    most_excluded: int
    most_allowed: int
    own_allowed: bool
    few: int
    shared_few: bool
    few_allowed: NDArray[np.int32]


class Answer(NamedTuple):
    """Where the answer goes: as in TopK."""

    item_rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]


class State(NamedTuple):
    """A thread's working memory. candidates: int32 (chunk, 3, capacity). users: USER (chunk,). gates, codes: GATE
    and uint8 (chunk + 1, stride); the last row never passes and fills up tiles. active: int32, rows of users.
    excluded, allowed: the lists of the chunk. vector: float64 (d,), the user in hand. sorted: int64 (capacity,).
    hit_users, hit_masks, hit_sums: what the tiles write of one strip.
    """

    candidates: NDArray[np.int32]
    users: NDArray[Any]
    gates: NDArray[Any]
    codes: NDArray[np.uint8]
    active: NDArray[Any]
    excluded: Cells
    allowed: Cells
    vector: NDArray[np.float64]
    sorted: NDArray[np.int64]
    hit_users: NDArray[Any]
    hit_masks: NDArray[np.uint64]
    hit_sums: NDArray[Any]


@compiled
def new_state(catalogue: Catalogue, query: Query) -> State:
    """Working memory for one thread."""
    chunk, capacity = query.chunk, 2 * query.k + SPARE
    gates = np.zeros(chunk + 1, dtype=GATE)
    gates[chunk].threshold, gates[chunk].least = 2**31 - 1, np.inf
    return State(
        np.empty((chunk, 3, capacity), dtype=np.int32),
        np.zeros(chunk, dtype=USER),
        gates,
        np.zeros((chunk + 1, 4 * catalogue.panels.shape[1]), dtype=np.uint8),
        np.empty(chunk + WIDE, dtype=np.int32),
        Cells(np.zeros(chunk + 1, dtype=np.int64), np.empty(query.most_excluded, dtype=np.int32)),
        Cells(np.zeros(chunk + 1, dtype=np.int64), np.empty(query.most_allowed, dtype=np.int32)),
        np.empty(query.users.shape[1]),
        np.empty(capacity, dtype=np.int64),
        np.empty(chunk, dtype=np.int32),
        np.empty(chunk, dtype=np.uint64),
        np.empty((chunk, STRIP), dtype=np.int32),
    )
