"""The events of a made shop: ratios, sessions and sizes, taste by age and gender, prices, its job file."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nightrank.config.job import load_job
from nightrank.data.synth_retail import PER_100_VIEWS, TYPES, RetailRecipe, shop
from synthetic import RETAIL, ROOT

# What is in them


def test_a_shop_has_the_ratios_of_the_real_log() -> None:
    """Protects the five types and their ratios; exact, since 675,004 rows of the real log are 5,819 x 116."""
    counts = {
        entry["values"]: entry["counts"]
        for entry in shop(RetailRecipe(users=300, items=100, events=116 * 70))
        .events["event_type"]
        .value_counts()
        .to_pylist()
    }
    assert counts == {kind: 70 * share for kind, share in zip(TYPES, PER_100_VIEWS, strict=True)}


@pytest.mark.parametrize("events", [116, 117, 1_000, 9_001])
@pytest.mark.parametrize(("users", "items"), [(1, 12), (3, 500), (2_000, 12)])
def test_a_shop_of_any_size_has_exactly_as_many_events(users: int, items: int, events: int) -> None:
    """Protects the sizes that were asked for, where rounding and tiny catalogues could lose a row."""
    made = shop(RetailRecipe(users=users, items=items, events=events))
    assert [table.num_rows for table in made] == [events, users, items]
    assert set(made.events["event_type"].to_pylist()) == set(TYPES)
    assert all(column.null_count == 0 for table in made for column in table.columns)


def test_each_step_to_a_purchase_follows_the_one_before() -> None:
    """Protects the sessions: whoever buys has viewed, put in the cart and checked out, in that order."""
    events = shop(RETAIL).events
    times = events["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    seen: dict[tuple[int, int], int] = {}
    for user, item, kind in zip(
        *(events[name].to_pylist() for name in ("user_id", "item_id", "event_type")), strict=True
    ):
        step = TYPES.index(kind)
        assert step == 0 or seen[user, item] >= step - 1
        seen[user, item] = max(step, seen.get((user, item), 0))
    assert max(seen.values()) == 4


def information(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Mutual information in nats of two columns of small integers."""
    joint = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(joint, (left, right), 1 / len(left))
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    positive = joint > 0
    return float((joint[positive] * np.log(joint[positive] / expected[positive])).sum())


def test_age_and_gender_explain_a_part_of_a_shops_taste() -> None:
    """Protects models with metadata: who somebody is says which categories, and far from everything about them."""
    made = shop(RetailRecipe(users=2_000, items=300, events=60_000))
    users = made.events["user_id"].to_numpy() - 1
    category = made.items["category"].dictionary_encode().combine_chunks().indices.to_numpy()
    bought = category[made.events["item_id"].to_numpy() - 1].astype(np.int64)
    group = (made.users["age"].to_numpy() // 20) * 2 + (made.users["gender"].to_numpy(False) == "M")
    shuffled = np.random.default_rng(0).permutation(group)
    explained = information(group[users].astype(np.int64), bought)
    assert explained > 0.05
    assert explained > 5 * information(shuffled[users].astype(np.int64), bought)
    assert information(users, bought) > 3 * explained


def test_prices_differ_by_category() -> None:
    """Protects the price column: positive, and a guitar costs more than coffee."""
    items = shop(RETAIL).items.to_pylist()
    prices = {
        name: np.median([item["price"] for item in items if item["category"] == name])
        for name in ("groceries", "instruments")
    }
    assert prices["instruments"] > 10 * prices["groceries"]
    assert min(item["price"] for item in items) > 0


# The job file


def test_the_shops_job_file_fits_the_command_in_its_comment() -> None:
    """jobs/shop.yaml reads the folder that its own comment has `data synth retail` write, with every event type."""
    text = (ROOT / "jobs" / "shop.yaml").read_text(encoding="utf-8")
    job = load_job(ROOT / "jobs" / "shop.yaml", inside_job=True)
    (line,) = [line for line in text.splitlines() if "data synth retail" in line]
    folder = line.split("}")[-1].rstrip('"')
    assert str(job.events.path).endswith(f"{folder}/events.parquet")
    assert job.items is not None
    assert job.items.path.endswith(f"{folder}/items.parquet")
    assert set(job.events.type_weights) == set(TYPES)
    assert (job.events.combine, job.events.half_life_days) == ("sum", 30)
