"""Events by user: a counting sort of all, then a sort inside chunks of users of bounded size.

So time is linear in the events, and what a chunk needs beside the events is bounded too, but for a single user who
has more events than a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.data.events import Events

CHUNK_EVENTS = 1 << 18


@dataclass(frozen=True)
class Chunk:
    """All events of the users from `first_user` to before `end_user`, sorted by user and item, then content.

    users, items, weights, times: as in `Events`. events: the place of each in `Events`. starts: where each pair of
    user and item begins. Content is time, then weight; events equal in both too are in any order.
    """

    first_user: int
    end_user: int
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    weights: NDArray[np.float64] | None
    times: NDArray[np.int64] | None
    events: NDArray[np.integer]
    starts: NDArray[np.intp]


def chunks_of(events: Events) -> Iterator[Chunk]:
    """Every event once, in chunks of about CHUNK_EVENTS, by ascending user; no chunk is empty.

    Users without an event may lie in no chunk.
    """
    order, ends = _by_user(events)
    first, begin = 0, 0
    while begin < len(events):
        # As many users as fit, but one at least. A limit of another type would turn all ends into that type.
        limit = ends.dtype.type(min(begin + CHUNK_EVENTS, len(events)))
        end = max(int(np.searchsorted(ends, limit, side="right")), first + 1)
        stop = int(ends[end - 1])
        if stop > begin:
            sizes = np.diff(ends[first:end], prepend=ends.dtype.type(begin))
            users = np.repeat(np.arange(first, end, dtype=np.int32), sizes)
            yield _sorted_chunk(events, order[begin:stop], users=users, first_user=first, end_user=end)
        first, begin = end, stop


def has_repeats(events: Events) -> bool:
    """Does any pair of user and item occur twice? Cost: that of `chunks_of`, up to the first that does."""
    return any(len(chunk.starts) < len(chunk.items) for chunk in chunks_of(events))


def _by_user(events: Events) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The events' places ordered by user, and where each user's end.

    Turning a sparse matrix of events x users from rows to columns is a counting sort, and compiled.
    """
    n = len(events)
    index = np.int32 if n <= np.iinfo(np.int32).max else np.int64
    cells = csr_matrix(
        (np.zeros(n, np.int8), events.users, np.arange(n + 1, dtype=index)),
        shape=(n, len(events.user_ids)),
    ).tocsc()
    return cells.indices, cells.indptr[1:]


def _sorted_chunk(
    events: Events, order: NDArray[np.integer], *, users: NDArray[np.int32], first_user: int, end_user: int
) -> Chunk:
    items = events.items[order]
    # A user and an item fit into one number, and numbers sort twenty times as fast as columns one after the other.
    keys = (users - np.int32(first_user)) * np.int64(len(events.item_ids)) + items
    by_key = np.argsort(keys)
    keys, items, order = keys[by_key], items[by_key], order[by_key]  # users are in order already
    is_new = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    weights = None if events.weights is None else events.weights[order]
    times = None if events.times is None else events.times[order]
    content = [column for column in (weights, times) if column is not None]
    if content:
        repeats = np.flatnonzero(~(is_new & np.r_[is_new[1:], True]))
        sorted_repeats = repeats[np.lexsort([column[repeats] for column in (*content, keys)])]
        for column in (*content, order):
            column[repeats] = column[sorted_repeats]
    return Chunk(
        first_user=first_user,
        end_user=end_user,
        users=users,
        items=items,
        weights=weights,
        times=times,
        events=order,
        starts=np.flatnonzero(is_new),
    )


def occurrences(rows: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """How often each of the rows 0 to n - 1 occurs, int64 (n,)."""
    counts = np.zeros(n, dtype=np.int64)
    step = max(CHUNK_EVENTS, n)  # bincount copies what it counts to 64 bits
    for start in range(0, len(rows), step):
        counts += np.bincount(rows[start : start + step], minlength=n)
    return counts
