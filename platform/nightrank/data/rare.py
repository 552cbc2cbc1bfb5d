"""Rare items and users: left out of the events before they combine, with a count.

One pass, in a fixed order: first the items with too few events, with all their events; then the users with too
few events among what is left. So every user left has the number asked for, while an item may have lost events to
its users; nothing is repeated until it settles. Only events that count more than 0 are counted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.counts import Counts
from nightrank.data.events import Events
from nightrank.data.ids import encode
from nightrank.errors import DataError


def without_rare(events: Events, *, per_user: int, per_item: int) -> Events:
    """The weighted events without rare items and then rare users, row order kept; 1 and 1 change nothing.

    Raises DataError where no event that counts is left. Cost: one hash of each id column.
    """
    if per_user <= 1 and per_item <= 1:
        return events
    table, counted = events.table, events.table["weight"].to_numpy() > 0
    kept = np.ones(table.num_rows, dtype=np.bool_)
    n_items, kept = _drop(table, "item", kept=kept, counted=counted, least=per_item)
    n_item_events = int(np.count_nonzero(~kept))
    n_users, kept = _drop(table, "user", kept=kept, counted=counted, least=per_user)
    counts = replace(
        events.counts,
        rare_items=n_items,
        rare_item_events=n_item_events,
        rare_users=n_users,
        rare_user_events=int(np.count_nonzero(~kept)) - n_item_events,
    )
    if not (kept & counted).any():
        raise DataError(_nothing_left(counts, per_user=per_user, per_item=per_item))
    return Events(table.filter(pa.array(kept)), counts)  # its rows are no file's any more


def _drop(
    table: pa.Table, column: str, *, kept: NDArray[np.bool_], counted: NDArray[np.bool_], least: int
) -> tuple[int, NDArray[np.bool_]]:
    """How many ids have fewer than `least` events among those kept, and what is kept without them."""
    if least <= 1:
        return 0, kept
    ids, rows = encode(table[column])
    present = np.bincount(rows[kept], minlength=len(ids)) > 0
    enough = np.bincount(rows[kept & counted], minlength=len(ids)) >= least
    return int(np.count_nonzero(present & ~enough)), kept & enough[rows]


def _nothing_left(counts: Counts, *, per_user: int, per_item: int) -> str:
    return (
        f"events: nothing is left of {counts.rows} rows: {counts.rare_items} items have fewer than {per_item} events "
        f"(events.min_events_per_item) and {counts.rare_users} users fewer than {per_user} of what remained "
        "(events.min_events_per_user); lower them"
    )
