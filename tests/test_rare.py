"""Rare users and items: who goes, in which order, and that each leaves a count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded, decoded
from nightrank.data.events import Events
from nightrank.data.interactions import Interactions
from nightrank.data.rare import without_rare
from nightrank.errors import DataError, SettingsError


def events(n: int = 300, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "user": rng.zipf(1.6, n) % 60,
            "item": [f"i{item}" for item in rng.zipf(1.6, n) % 50],
            "weight": rng.integers(0, 4, n).astype(np.float64),
        }
    )
    return coded(table)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("per_user", "per_item"), [(1, 1), (3, 1), (1, 3), (2, 4), (5, 2)])
def test_without_rare_equals_a_plain_loop(per_user: int, per_item: int, seed: int) -> None:
    """Protects the rule: items first, then users among what is left, zero weights not counted, once."""
    before = events(seed=seed)
    rows = decoded(before).to_pylist()
    items = Counter(row["item"] for row in rows if row["weight"] > 0)
    left = [row for row in rows if per_item == 1 or items[row["item"]] >= per_item]
    users = Counter(row["user"] for row in left if row["weight"] > 0)
    last = [row for row in left if per_user == 1 or users[row["user"]] >= per_user]
    after = without_rare(before, per_user=per_user, per_item=per_item)
    assert decoded(after).to_pylist() == last
    counts = after.counts
    assert (counts.rare_item_events, counts.rare_user_events) == (
        len(rows) - len(left),
        len(left) - len(last),
    )
    assert counts.rare_items == len({r["item"] for r in rows} - {r["item"] for r in left})
    assert counts.rare_users == len({r["user"] for r in left} - {r["user"] for r in last})
    assert counts.rows - counts.dropped_events == len(after)


def test_nothing_left_is_refused_with_the_settings_to_lower() -> None:
    """Protects against training on nothing because of a minimum that nobody reaches."""
    with pytest.raises(DataError, match=r"nothing is left of 300 rows: .*events\.min_events_per_user"):
        without_rare(events(), per_user=1_000, per_item=1)


def test_a_table_in_memory_takes_the_minimum_too() -> None:
    """Protects library users: the same two settings, checked in the same way."""
    table = pa.table({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"]})
    found = Interactions.from_arrow(table, min_events=(2, 1))
    assert found.user_ids.array.to_pylist() == [1]
    assert (found.counts.rare_users, found.counts.rare_user_events) == (1, 1)
    with pytest.raises(SettingsError, match="min_events_per_item: found 0"):
        Interactions.from_arrow(table, min_events=(1, 0))
