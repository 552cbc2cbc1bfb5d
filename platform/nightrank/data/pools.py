"""What a split draws from: a job's combined pairs and, where it cuts through time, the events behind them.

A sweep or a gate may compare models that combine repeated pairs in different ways (ratings hold the last, counts
add up). They must be measured on one truth, so a pool holds the same pairs once for each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from nightrank.config.events import WeighingConfig
from nightrank.config.split import SplitConfig
from nightrank.data.combining import ways_to_combine
from nightrank.data.events import Events
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions, from_events
from nightrank.data.rare import without_rare
from nightrank.data.weighing import weighted


@dataclass(frozen=True)
class Pool:
    """Pairs to hold some out of.

    pairs: how they combined to Interactions, of the same users, items and pairs; the first gives the truth's weights.
    how, seed: the split. events: the weighted events behind the pairs, for temporal alone; else None.
    depth: how often some were held out before.
    """

    pairs: Mapping[str, Interactions]
    how: SplitConfig
    seed: int
    events: Events | None = None
    depth: int = 0

    @property
    def first(self) -> Interactions:
        """The pairs with the weights that the truth has."""
        return next(iter(self.pairs.values()))


def pool_of(
    events: Events, rules: WeighingConfig, *, how: SplitConfig, seed: int, defaults: Sequence[str] = ("sum",)
) -> Pool:
    """Weigh events and combine them by a job's rules, once for each of `defaults` where the rules say no way.

    One way is enough where the rules name it, or where nothing repeats. Rare users and items go here, once: what
    is left is what a night trains on and measures, also behind a split. Raises DataError as `interactions_of`.
    """
    events = weighted(events, type_weights=rules.type_weights or None)
    events = without_rare(events, per_user=rules.min_events_per_user, per_item=rules.min_events_per_item)
    ways = ways_to_combine(events, rules.combine, defaults=defaults)
    pairs = combined_pairs(events, ways, half_life_days=rules.half_life_days)
    return Pool(pairs=pairs, how=how, seed=seed, events=events if how.kind == "temporal" else None)


def combined_pairs(
    events: Events, ways: Sequence[str], *, half_life_days: float | None
) -> dict[str, Interactions]:
    """Weighted events combined in each way; of several ways, the pairs that have a weight above 0 in all."""
    found = {how: from_events(events, combine=how, half_life_days=half_life_days) for how in ways}
    if len(found) == 1:
        return found
    first = found[ways[0]]
    keys = {how: pair_keys(one, first.user_ids, first.item_ids) for how, one in found.items()}
    shared = reduce(np.intersect1d, keys.values())
    return {
        how: one if len(keys[how]) == len(shared) else one.subset(np.isin(keys[how], shared))
        for how, one in found.items()
    }


def pair_keys(interactions: Interactions, user_ids: Ids, item_ids: Ids) -> NDArray[np.int64]:
    """A number for every pair, int64 (nnz,): user row * n_items + item row in these ids; -1 where they lack one."""
    users = user_ids.rows_of(interactions.user_ids.array)[interactions.pair_users()]
    items = item_ids.rows_of(interactions.item_ids.array)[interactions.user_items.indices]
    return np.where((users < 0) | (items < 0), np.int64(-1), users * np.int64(len(item_ids)) + items)
