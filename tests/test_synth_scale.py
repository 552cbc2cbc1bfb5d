"""Made events at scale: blocks that stand alone, long tails, drift, the rank of the taste, any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from nightrank.data import synth_scale
from nightrank.data.synth_scale import ScaleRecipe, make_scale, scale_blocks
from nightrank.data.synth_taste import DAY_S, N_DAYS, START_S, cumulative, draw
from synthetic import SCALE, scale

# The same bytes


def test_files_and_row_groups_change_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the promise that packing is no part of the content: many small files hold what one holds."""
    monkeypatch.setattr(synth_scale, "BLOCK", 1_000)
    many = make_scale(tmp_path / "many", SCALE, blocks_per_file=2)
    one = make_scale(tmp_path / "one", SCALE, blocks_per_file=64)
    assert sorted(path.name for path in many.iterdir()) == [
        f"part-{n:05d}-of-00005.parquet" for n in range(5)
    ]
    tables = [pa.concat_tables(map(pq.read_table, sorted(folder.iterdir()))) for folder in (many, one)]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == SCALE.events


def test_a_later_block_needs_no_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects what bounded memory rests on: a block is a function of seed and place, not of what was drawn."""
    monkeypatch.setattr(synth_scale, "BLOCK", 1_000)
    blocks = list(scale_blocks(SCALE))
    alone = synth_scale._block(synth_scale._world(SCALE), SCALE, 7)
    assert alone.equals(blocks[7])


def test_a_weight_column_changes_no_other() -> None:
    """Protects a comparison with and without weights: the same events either way."""
    plain = scale(users=50, items=30, events=2_000)
    weighted = scale(users=50, items=30, events=2_000, weights=True)
    assert weighted.drop_columns("weight").equals(plain)
    assert weighted["weight"].type == pa.float32()
    assert pc.min(weighted["weight"]).as_py() >= 1
    assert pc.max(weighted["weight"]).as_py() > 1


# What is in them


def test_scale_is_zipf_in_items_and_log_normal_in_users() -> None:
    """Protects the two long tails that make load tests honest: few items and users hold most of the events."""
    events = scale(users=2_000, items=2_000, events=200_000)
    items = np.sort(np.bincount(events["item_id"].to_numpy(), minlength=2_001)[1:])[::-1]
    ranks = np.array([30, 100, 300, 1_000])
    slope = np.polyfit(np.log(ranks + 20), np.log([items[r // 2 : r * 2].mean() for r in ranks]), 1)[0]
    assert -1.4 < slope < -0.7
    users = np.bincount(events["user_id"].to_numpy(), minlength=2_001)[1:]
    spread = np.log(users[users > 0]).std()
    assert 0.85 < spread < 1.15


def test_scale_covers_90_days_and_popularity_drifts() -> None:
    """Protects splits by time: events come in order, over all days, and a month later other items lead."""
    events = scale(users=2_000, items=300, events=120_000)
    times = events["timestamp"].to_numpy() - START_S
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(np.unique(times // DAY_S), np.arange(N_DAYS))
    items = events["item_id"].to_numpy()

    def counts(first_day: int) -> NDArray[np.int64]:
        days = (times // DAY_S >= first_day) & (times // DAY_S < first_day + 10)
        return np.bincount(items[days], minlength=301)

    near, far = (np.corrcoef(counts(0), counts(day))[0, 1] for day in (10, 80))
    assert near > 0.8
    assert far < near - 0.15


@pytest.mark.parametrize("rank", [1, 2, 40])
def test_the_rank_of_the_taste_is_the_one_asked_for(rank: int) -> None:
    """Protects --rank: the expected counts of users by items have exactly as many dimensions."""
    world = synth_scale._world(ScaleRecipe(users=80, items=60, events=1, rank=rank))
    expected = world.topics.astype(np.float64) @ world.items.astype(np.float64)
    assert np.linalg.matrix_rank(expected, tol=1e-5 * expected.max()) == rank
    assert scale(users=80, items=60, events=500, rank=rank).num_rows == 500


@pytest.mark.parametrize(("users", "items", "events"), [(1, 2, 1), (5, 3, 131_073), (1_000, 2, 7)])
def test_scale_of_any_size_has_exactly_as_many_events(users: int, items: int, events: int) -> None:
    """Protects the sizes that were asked for, and ids within them, at the edges of blocks and tables."""
    table = scale(users=users, items=items, events=events)
    assert table.num_rows == events
    for name, n in (("user_id", users), ("item_id", items)):
        assert pc.min_max(table[name]).as_py()["min"] >= 1
        assert pc.min_max(table[name]).as_py()["max"] <= n


def test_a_draw_at_the_edge_of_a_row_stays_in_it() -> None:
    """Protects against an item of the next topic where a sum rounds up: the largest chance below 1."""
    shares = cumulative(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))
    rows = np.array([0, 0, 1, 1, 2, 2])
    chance = np.array([0.0, 1 - 2.0**-53] * 3)
    assert draw(shares, n=3, rows=rows, chance=chance).tolist()[:3] == [0, 2, 1]
    assert draw(shares, n=3, rows=rows, chance=chance).max() == 2
