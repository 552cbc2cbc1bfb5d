"""Splits of combined pairs into train and test.

A split acts on pairs, never on raw events, so one (user, item) is never on both sides. Train gets dense rows
of its own: a model never sees an item that only test knows, while such items stay in the truth and count as
misses. Rules that need times are refused where there are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.data.grouping import occurrences
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError


@dataclass(frozen=True)
class Split:
    """train: what a model may see. truth: held-out pairs of train's users.

    truth: CSR float32 (n_train_users, n_train_items + n_new_items) with the held-out weights; columns at and
    beyond n_train_items are items that train does not know.
    n_unknown_users: users with held-out pairs who are absent from train, left out of truth.
    """

    train: Interactions
    truth: csr_matrix
    n_unknown_users: int


def split(interactions: Interactions, *, kind: str, n: int, seed: int) -> Split:
    """Hold out n pairs of every user that has more than n: the latest (leave_last) or random ones (per_user).

    leave_last: by the time of a pair's latest event, ties by item id (the highest row goes first).
    per_user: by a hash of user id, item id and seed, so other users never change what is drawn.
    Raises DataError where leave_last has no times, or where no user has more than n pairs.
    """
    users = interactions.pair_users()
    if kind == "leave_last":
        if interactions.times is None:
            raise DataError(
                "split.kind is leave_last, but the events have no time column; name it in "
                "events.columns.time, or use split: {kind: per_user, n: 1}"
            )
        key: NDArray[np.int64] | NDArray[np.uint64] = interactions.times
    else:
        key = _pair_hashes(interactions, users=users, seed=seed)
    order = np.lexsort((interactions.user_items.indices, key, users))
    counts = np.diff(interactions.user_items.indptr)
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - interactions.user_items.indptr[users[order]]
    held_out = (place >= counts[users] - n) & (counts[users] > n)
    if not held_out.any():
        raise DataError(
            f"no user has more than {n} distinct items left, so nothing can be held out; a sweep holds out twice "
            f"(test, then validation) and needs users with {2 * n + 1}: check the columns of the events and split.n"
        )
    return _divide(interactions, users=users, held_out=held_out)


def _divide(interactions: Interactions, *, users: NDArray[np.int32], held_out: NDArray[np.bool_]) -> Split:
    train = interactions.subset(~held_out)
    matrix = interactions.user_items
    user_rows, n_users = _renumbered(users[~held_out], len(interactions.user_ids))
    item_rows, n_items = _renumbered(matrix.indices[~held_out], len(interactions.item_ids))
    is_new = (item_rows < 0) & (occurrences(matrix.indices[held_out], len(item_rows)) > 0)
    n_new = int(np.count_nonzero(is_new))
    item_rows[is_new] = n_items + np.arange(n_new)
    rows, columns = user_rows[users[held_out]], item_rows[matrix.indices[held_out]]
    known = rows >= 0
    truth = csr_matrix(
        (matrix.data[held_out][known], (rows[known], columns[known])),
        shape=(n_users, n_items + n_new),
    )
    truth.sort_indices()
    n_unknown = int(np.count_nonzero(occurrences(users[held_out][~known], len(user_rows))))
    return Split(train=train, truth=truth, n_unknown_users=n_unknown)


def _renumbered(rows: NDArray[np.int32], n: int) -> tuple[NDArray[np.int64], int]:
    """For each of n rows its place among those that occur, -1 for the others; and how many occur."""
    occurring = np.flatnonzero(occurrences(rows, n))
    places = np.full(n, -1, dtype=np.int64)
    places[occurring] = np.arange(len(occurring))
    return places, len(occurring)


def _pair_hashes(interactions: Interactions, *, users: NDArray[np.int32], seed: int) -> NDArray[np.uint64]:
    """A uniform 64-bit key per pair from ids and seed alone (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = interactions.user_ids.hashes()[users] + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    mixed = mixed ^ (interactions.item_ids.hashes()[interactions.user_items.indices] >> np.uint64(1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result
