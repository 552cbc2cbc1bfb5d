"""Train, test and candidates as files of their own: a split that somebody else made, such as a published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.events import ColumnsConfig
from nightrank.data.events import Events, read_events
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions, picked
from nightrank.data.splits import Split
from nightrank.data.tables import names_of
from nightrank.errors import DataError

# What files of events may hold where no job file names their columns.
DEFAULT_COLUMNS = {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"}


@dataclass(frozen=True)
class Candidates:
    """rows: bool CSR (n_users, n_items), the items that are ranked for each user of train.

    n_unknown_users, n_unknown_items: rows of the file left out, since train knows the user or the item not.
    """

    rows: csr_matrix
    n_unknown_users: int
    n_unknown_items: int


def default_columns(files: Sequence[Path]) -> ColumnsConfig:
    """user_id, item_id, and of weight and timestamp what the first file with a header has."""
    wanted = list(DEFAULT_COLUMNS.values())
    names = next((found for file in files if (found := names_of(file, wanted))), wanted)
    return ColumnsConfig(**{role: name for role, name in DEFAULT_COLUMNS.items() if name in names})


def given_split(train: Interactions, test: Interactions) -> Split:
    """The split whose truth is `test`; its users absent from train are counted, its new items get columns behind.

    Raises DataError where ids of users or items have another type in test than in train.
    """
    users, items = _rows(train, test.user_ids, test.item_ids, what="test")
    is_new = items < 0
    items[is_new] = len(train.item_ids) + np.arange(np.count_nonzero(is_new))
    matrix = test.user_items
    rows, columns = users[test.pair_users()], items[matrix.indices]
    known = rows >= 0
    truth = csr_matrix(
        (matrix.data[known], (rows[known], columns[known])),
        shape=(len(train.user_ids), len(train.item_ids) + int(np.count_nonzero(is_new))),
    )
    truth.sort_indices()
    n_unknown_users = int(np.count_nonzero(users < 0))
    new_items = picked(test.item_ids, np.flatnonzero(is_new))
    return Split(train=train, truth=truth, n_unknown_users=n_unknown_users, new_items=new_items)


def pairs_in_both(split: Split) -> int:
    """How many held-out pairs train has, too: they are never ranked, so every list misses them."""
    n_items = split.truth.shape[1]
    keys = [_keys(matrix, n_items) for matrix in (split.train.user_items, split.truth)]
    return int(np.isin(keys[1], keys[0], assume_unique=True).sum())


def read_candidates(files: Sequence[Path], *, user: str, item: str, train: Interactions) -> Candidates:
    """The (user, item) rows of files; one that stands there twice counts once. Raises DataError as `given_split`."""
    events = read_events(files, user=user, item=item, weight=None, time=None, type=None)
    users, items = _rows(train, events.user_ids, events.item_ids, what="candidates")
    return _candidates(events, users, items, shape=train.user_items.shape)


def _candidates(
    events: Events, users: NDArray[np.int64], items: NDArray[np.int64], *, shape: tuple[int, int]
) -> Candidates:
    rows, columns = users[events.users], items[events.items]
    known = (rows >= 0) & (columns >= 0)
    ones = np.ones(np.count_nonzero(known), dtype=np.bool_)
    matrix = csr_matrix((ones, (rows[known], columns[known])), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = True
    n_unknown_users = int(np.count_nonzero(rows < 0))
    return Candidates(matrix, n_unknown_users, int(np.count_nonzero((rows >= 0) & (columns < 0))))


def _rows(
    train: Interactions, user_ids: Ids, item_ids: Ids, *, what: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows in train of ids of another file, -1 where train has none."""
    for kind, known, found in (("user", train.user_ids, user_ids), ("item", train.item_ids, item_ids)):
        if known.kind != found.kind:
            raise DataError(
                f"{what} has {found.kind} ids of {kind}s, but train has {known.kind} ids; write both the same way"
            )
    return train.user_ids.rows_of(user_ids.array), train.item_ids.rows_of(item_ids.array)


def _keys(matrix: csr_matrix, n_items: int) -> NDArray[np.int64]:
    users = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    keys: NDArray[np.int64] = users * n_items + matrix.indices
    return keys
