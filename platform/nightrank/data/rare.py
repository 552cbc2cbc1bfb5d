"""Rare items and users: left out of the events before they combine, with a count.

One pass, in a fixed order: first the items with too few events, with all their events; then the users with too
few events among what is left. So every user left has the number asked for, while an item may have lost events to
its users; nothing is repeated until it settles. Only events that count more than 0 are counted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nightrank.data.counts import Counts
from nightrank.data.events import Events
from nightrank.data.grouping import occurrences
from nightrank.errors import DataError


def without_rare(events: Events, *, per_user: int, per_item: int) -> Events:
    """The weighted events without rare items and then rare users, row order kept; 1 and 1 change nothing.

    Raises DataError where no event that counts is left. Cost: linear.
    """
    if per_user <= 1 and per_item <= 1:
        return events
    counted = None if events.weights is None else events.weights > 0
    kept = np.ones(len(events), dtype=np.bool_)
    n_items, kept = _drop(events.items, len(events.item_ids), kept=kept, counted=counted, least=per_item)
    n_item_events = int(np.count_nonzero(~kept))
    n_users, kept = _drop(events.users, len(events.user_ids), kept=kept, counted=counted, least=per_user)
    counts = replace(
        events.counts,
        rare_items=n_items,
        rare_item_events=n_item_events,
        rare_users=n_users,
        rare_user_events=int(np.count_nonzero(~kept)) - n_item_events,
    )
    if not (kept if counted is None else kept & counted).any():
        raise DataError(_nothing_left(counts, per_user=per_user, per_item=per_item))
    return replace(events.where(kept), counts=counts)


def _drop(
    rows: NDArray[np.int32],
    n: int,
    *,
    kept: NDArray[np.bool_],
    counted: NDArray[np.bool_] | None,
    least: int,
) -> tuple[int, NDArray[np.bool_]]:
    """How many of n ids have fewer than `least` events among those kept, and what is kept without them.

    counted: the events that count, None where all do.
    """
    if least <= 1:
        return 0, kept
    present = occurrences(rows[kept], n)
    numbers = present if counted is None else occurrences(rows[kept & counted], n)
    enough = numbers >= least
    return int(np.count_nonzero((present > 0) & ~enough)), kept & enough[rows]


def _nothing_left(counts: Counts, *, per_user: int, per_item: int) -> str:
    return (
        f"events: nothing is left of {counts.rows} rows: {counts.rare_items} items have fewer than {per_item} events "
        f"(events.min_events_per_item) and {counts.rare_users} users fewer than {per_user} of what remained "
        "(events.min_events_per_user); lower them"
    )
