"""Interactions: how events combine, what is dropped, what a subset keeps, and decay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded
from nightrank.data.events import Events
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError

DAY_S = 86_400
Event = tuple[Any, Any, float, int]


def table(events: list[Event], *, times: bool = True) -> Events:
    users, items, weights, seconds = zip(*events, strict=True)
    columns = {"user": users, "item": items, "weight": pa.array(weights, pa.float64())}
    return coded(pa.table(columns | ({"time": pa.array(seconds, pa.int64())} if times else {})))


def random_events(seed: int, *, n: int = 400, strings: bool = False) -> list[Event]:
    """Many repeats, equal times and zero weights; weights are eighths, so every sum is exact."""
    rng = np.random.default_rng(seed)
    drawn = zip(
        rng.integers(-5, 12, n).tolist(),
        rng.integers(-3, 9, n).tolist(),
        (rng.integers(0, 5, n) / 8).tolist(),
        rng.integers(0, 6, n).tolist(),
        strict=True,
    )
    return [(f"u{u}", f"é{i}", w, t) if strings else (u, i, w, t) for u, i, w, t in drawn]


def cells(interactions: Interactions) -> dict[tuple[Any, Any], float]:
    """(user id, item id) to weight, read off the CSR."""
    return {
        (interactions.user_ids[int(user)], interactions.item_ids[int(item)]): float(weight)
        for user, item, weight in zip(
            interactions.pair_users(),
            interactions.user_items.indices,
            interactions.user_items.data,
            strict=True,
        )
    }


def cell_times(interactions: Interactions) -> dict[tuple[Any, Any], int]:
    assert interactions.times is not None
    return dict(zip(cells(interactions), interactions.times.tolist(), strict=True))


def assert_sound(interactions: Interactions) -> None:
    """The promises of the class: sorted ids, sorted and distinct columns, no empty row or column."""
    matrix = interactions.user_items
    assert matrix.shape == (len(interactions.user_ids), len(interactions.item_ids))
    assert matrix.data.dtype == np.float32
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert interactions.times is None or interactions.times.dtype == np.int64
    assert (matrix.data > 0).all()
    rows = interactions.pair_users().astype(np.int64)
    assert (np.diff(rows * matrix.shape[1] + matrix.indices) > 0).all()
    assert (np.diff(matrix.indptr) > 0).all()
    assert (interactions.item_counts > 0).all()
    for ids in (interactions.user_ids, interactions.item_ids):
        values = ids.array.to_pylist()
        assert values == sorted(
            set(values), key=lambda value: value.encode() if isinstance(value, str) else value
        )


def assert_same_bits(a: Interactions, b: Interactions) -> None:
    assert a.user_ids.array.equals(b.user_ids.array)
    assert a.item_ids.array.equals(b.item_ids.array)
    for name in ("indptr", "indices", "data"):
        assert getattr(a.user_items, name).tobytes() == getattr(b.user_items, name).tobytes()
    assert (None if a.times is None else a.times.tobytes()) == (
        None if b.times is None else b.times.tobytes()
    )
    assert a.n_zero_pairs == b.n_zero_pairs


# Combining


@pytest.mark.parametrize("combine", ["sum", "max", "last"])
@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_combine_equals_a_plain_loop(combine: str, strings: bool, seed: int) -> None:
    """Protects the weights, times and zero count of every pair against a loop over the definition."""
    events = random_events(seed, strings=strings)
    groups: dict[tuple[Any, Any], list[tuple[int, float]]] = {}
    for user, item, weight, time in events:
        groups.setdefault((user, item), []).append((time, weight))
    combined = {}
    for pair, history in groups.items():
        if combine == "sum":
            combined[pair] = sum(weight for _, weight in history)
        elif combine == "max":
            combined[pair] = max(weight for _, weight in history)
        else:
            combined[pair] = max(history)[1]  # the latest; of equal times the largest weight
    kept = {pair: weight for pair, weight in combined.items() if weight > 0}
    assert 0 < len(kept) < len(combined) < len(events)

    found = from_events(table(events), combine=combine)
    assert_sound(found)
    assert cells(found) == kept
    assert cell_times(found) == {pair: max(groups[pair])[0] for pair in kept}
    assert found.n_zero_pairs == len(combined) - len(kept)
    counts: dict[Any, int] = {}
    for _, item in kept:
        counts[item] = counts.get(item, 0) + 1
    assert dict(zip(found.item_ids.array.to_pylist(), found.item_counts.tolist(), strict=True)) == counts


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_times_are_optional(combine: str) -> None:
    """Protects events without a time column: the same weights, and no times."""
    events = random_events(5)
    without = from_events(table(events, times=False), combine=combine)
    assert without.times is None
    assert cells(without) == cells(from_events(table(events), combine=combine))


@pytest.mark.parametrize(
    ("combine", "times"), [("sum", True), ("sum", False), ("max", True), ("max", False), ("last", True)]
)
def test_any_order_of_events_gives_the_same_bits(combine: str, times: bool) -> None:
    """Protects reproducible models: weights whose float sum depends on order still give one CSR."""
    rng = np.random.default_rng(6)
    events = [(u, i, w * 10.0 ** rng.uniform(-9, 9), t) for u, i, w, t in random_events(6, n=600)]
    first = from_events(table(events, times=times), combine=combine)
    for _ in range(10):
        shuffled = [events[i] for i in rng.permutation(len(events))]
        assert_same_bits(from_events(table(shuffled, times=times), combine=combine), first)


def test_sums_in_event_order_would_differ() -> None:
    """Protects the test above from passing by luck: summed as they come, such weights do give other bits."""
    rng = np.random.default_rng(6)
    weights = 10.0 ** rng.uniform(-1, 1, 12)
    sums = {float(np.add.reduceat(rng.permutation(weights), [0])[0]) for _ in range(50)}
    assert len(sums) > 1
    events = [[("u", "i", float(w), 0) for w in rng.permutation(weights)] for _ in range(50)]
    assert len({cells(from_events(table(e), combine="sum"))["u", "i"] for e in events}) == 1


def test_last_goes_by_time_not_by_place() -> None:
    """Protects `last` (a changed rating) from taking the last row of the file."""
    events: list[Event] = [("u", "i", 2.0, 20), ("u", "i", 5.0, 10), ("u", "j", 1.0, -3), ("u", "j", 4.0, -5)]
    assert cells(from_events(table(events), combine="last")) == {("u", "i"): 2.0, ("u", "j"): 1.0}


def test_last_without_times_is_refused() -> None:
    """Protects against an arbitrary `last`: the message names both settings that cure it."""
    with pytest.raises(
        DataError, match=r"combine is last.*no time column.*events\.columns\.time.*sum or max"
    ):
        from_events(table(random_events(0), times=False), combine="last")


# Zero weights


def test_zero_pairs_go_with_their_users_and_items() -> None:
    """Protects models from rows without a weight: a user or item of zeros only is not in the data at all."""
    events: list[Event] = [("a", "x", 1.0, 1), ("a", "y", 0.0, 2), ("b", "x", 0.0, 3), ("a", "x", 0.0, 4)]
    found = from_events(table(events), combine="sum")
    assert found.user_ids.array.to_pylist() == ["a"]
    assert found.item_ids.array.to_pylist() == ["x"]
    assert cells(found) == {("a", "x"): 1.0}
    assert cell_times(found) == {("a", "x"): 4}
    assert found.n_zero_pairs == 2


@pytest.mark.parametrize("combine", ["sum", "max", "last"])
def test_all_zero_is_refused(combine: str) -> None:
    """Protects a night on nothing: only zero weights is an error with the number of pairs."""
    events: list[Event] = [("a", "x", 0.0, 1), ("a", "x", 0.0, 2), ("b", "x", 0.0, 3)]
    with pytest.raises(DataError, match=r"all 2 .*weight of 0"):
        from_events(table(events), combine=combine)


# Subsets


@pytest.mark.parametrize("seed", range(4))
def test_subset_keeps_the_chosen_pairs_and_nothing_else(seed: int) -> None:
    """Protects splits: the pairs kept are unchanged, users and items that no longer occur are gone."""
    whole = from_events(table(random_events(seed)), combine="sum")
    rng = np.random.default_rng(seed)
    keep = (rng.random(whole.user_items.nnz) < 0.3) & (whole.pair_users() != 2)
    part = whole.subset(keep)
    assert_sound(part)
    chosen = [pair for pair, kept in zip(cells(whole), keep, strict=True) if kept]
    assert cells(part) == {pair: cells(whole)[pair] for pair in chosen}
    assert cell_times(part) == {pair: cell_times(whole)[pair] for pair in chosen}
    assert part.user_ids.array.to_pylist() == sorted({user for user, _ in chosen})
    assert part.item_ids.array.to_pylist() == sorted({item for _, item in chosen})
    assert part.n_zero_pairs == whole.n_zero_pairs > 0
    assert_same_bits(whole.subset(np.ones(whole.user_items.nnz, dtype=bool)), whole)


def test_subset_of_nothing_is_empty() -> None:
    """Protects the edge: no pair kept gives no users, no items and no error, with decay or without."""
    whole = from_events(table(random_events(0)), combine="sum", half_life_days=2.0)
    part = whole.subset(np.zeros(whole.user_items.nnz, dtype=bool))
    assert part.user_items.shape == (0, 0)
    assert (len(part.user_ids), len(part.item_ids)) == (0, 0)


# Decay


def test_decay_is_counted_back_from_the_latest_pair_left() -> None:
    """Protects the worked example: half life 10 days; without the newest pair the others grow by 2 ** (20 / 10)."""
    events = table(
        [("a", "x", 8.0, 0), ("a", "y", 8.0, 10 * DAY_S), ("b", "x", 8.0, 30 * DAY_S)],
    )
    whole = from_events(events, combine="sum", half_life_days=10.0)
    assert cells(whole) == {
        ("a", "x"): 8.0 * 0.5 ** (30 / 10),
        ("a", "y"): 8.0 * 0.5 ** (20 / 10),
        ("b", "x"): 8.0 * 0.5 ** (0 / 10),
    }
    train = whole.subset(np.array([True, True, False]))
    assert cells(train) == {("a", "x"): 8.0 * 0.5 ** (10 / 10), ("a", "y"): 8.0}
    assert train.half_life_days == 10.0
    validation = train.subset(np.array([True, False]))
    assert cells(validation) == {("a", "x"): 8.0}


@pytest.mark.parametrize("combine", ["sum", "max", "last"])
@pytest.mark.parametrize("far", [30, 30_000])
@pytest.mark.parametrize("gone", ["zero", "rare user", "rare item"])
def test_what_is_dropped_does_not_age_what_is_left(gone: str, far: int, combine: str) -> None:
    """Protects the promise of half_life_days: rare ids and zero pairs, days or a century ahead, change no bit."""
    left = [(u, i, w, t * DAY_S) for u, i, w, t in random_events(8, n=200) if w > 0]
    dropped: dict[str, Event] = {
        "zero": (0, 99, 0.0, far * DAY_S),
        "rare user": (99, 0, 1.0, far * DAY_S),
        "rare item": (0, 99, 1.0, far * DAY_S),
    }
    rules: dict[str, Any] = {
        "columns": {"user": "u", "item": "i", "weight": "w", "time": "t"},
        "combine": combine,
        "half_life_days": 2,
        "min_events": (2, 1) if gone == "rare user" else (1, 2) if gone == "rare item" else (1, 1),
    }

    def read(rows: list[Event]) -> Interactions:
        return Interactions.from_arrow(
            pa.table(dict(zip("uiwt", map(list, zip(*rows, strict=True)), strict=True))), **rules
        )

    alone, whole = read(left), read([dropped[gone], *left])
    assert_same_bits(replace(whole, n_zero_pairs=0), alone)
    assert whole.counts != alone.counts
    rng = np.random.default_rng(8)
    shuffled = [[dropped[gone], *left][row] for row in rng.permutation(len(left) + 1)]
    assert_same_bits(read(shuffled), whole)
    newest = whole.times == np.max(whole.times)  # in full, and no event weighs less than an eighth
    assert (whole.user_items.data[newest] >= 1 / 8).all()


def test_a_last_event_of_zero_takes_its_pair_and_its_time_along() -> None:
    """Protects decay under `last`: the newest event that counts may belong to a pair that is dropped."""
    events: list[Event] = [
        ("a", "x", 8.0, 0),
        ("b", "x", 4.0, 10 * DAY_S),
        ("b", "y", 4.0, 20 * DAY_S),
        ("b", "y", 0.0, 30 * DAY_S),
    ]
    found = from_events(table(events), combine="last", half_life_days=10)
    assert cells(found) == {("a", "x"): 8.0 / 2, ("b", "x"): 4.0}
    summed = from_events(table(events), combine="sum", half_life_days=10)
    assert cells(summed) == {("a", "x"): 8.0 / 8, ("b", "x"): 4.0 / 4, ("b", "y"): 4.0 / 2}


@pytest.mark.parametrize("weight", [1e39, 1e308])
def test_a_weight_beyond_float32_is_refused_without_a_warning(weight: float) -> None:
    """Protects the one line of the message from numpy's own above it, also where the sum is beyond float64."""
    with pytest.raises(DataError, match=r"combined weight of .*, beyond float32"):
        from_events(table([("a", "x", weight, 1), ("a", "x", weight, 2)]), combine="sum")


@pytest.mark.parametrize("combine", ["sum", "max", "last"])
def test_decay_of_a_subset_equals_decay_of_its_events(combine: str) -> None:
    """Protects the split from leaking test times: train's weights are as if test's events never were."""
    events = random_events(7, n=300)
    events = [(u, i, w, t * DAY_S) for u, i, w, t in events if w > 0]
    events += [(0, 0, 1.0, 9 * DAY_S)]  # the newest event of all, and only in test

    def read(rows: list[Event]) -> Interactions:
        return from_events(table(rows), combine=combine, half_life_days=3.0)

    whole = read(events)
    kept = [pair != (0, 0) for pair in cells(whole)]
    alone = read([event for event in events if event[:2] != (0, 0)])
    part = whole.subset(np.array(kept))
    assert cells(part).keys() == cells(alone).keys()
    np.testing.assert_allclose(part.user_items.data, alone.user_items.data, rtol=2**-22)
    assert not np.allclose(whole.user_items.data[np.array(kept)], alone.user_items.data, rtol=0.5)


def test_without_a_half_life_a_subset_keeps_its_weights() -> None:
    """Protects plain weights: times alone never change them."""
    whole = from_events(
        table([("a", "x", 8.0, 0), ("b", "x", 8.0, 30 * DAY_S)]), combine="sum", half_life_days=None
    )
    assert cells(whole.subset(np.array([True, False]))) == {("a", "x"): 8.0}
    fading = replace(whole, half_life_days=10.0)
    assert cells(fading.subset(np.array([True, False]))) == {("a", "x"): 8.0 * 2 ** (30 / 10)}


def test_decay_far_beyond_float32_is_taken_back() -> None:
    """Protects weights behind a split: an event 130 half-lives late, held out, leaves the rest in proportion."""
    table = pa.table({"user": [1, 1, 1], "item": [1, 2, 3], "time": [0, DAY_S * 7, DAY_S * 7 * 131]})
    whole = from_events(coded(table), combine="sum", half_life_days=7.0)
    left = whole.subset(np.array([True, True, False]))
    assert left.user_items.data.tolist() == [0.5, 1.0]
