"""Splits of n pairs of every user: what is held out, that nothing leaks, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded
from nightrank.config.split import SplitConfig
from nightrank.data.interactions import Interactions, from_events
from nightrank.data.pools import Pool
from nightrank.data.splits import Split, _truth, hold_out
from nightrank.errors import DataError

Pair = tuple[Any, Any]


def interactions_of(pairs: dict[Pair, tuple[float, int]], *, times: bool = True) -> Interactions:
    """From (user, item) to (weight, time)."""
    columns = {
        "user": [user for user, _ in pairs],
        "item": [item for _, item in pairs],
        "weight": pa.array([weight for weight, _ in pairs.values()], pa.float64()),
    }
    if times:
        columns["time"] = pa.array([time for _, time in pairs.values()], pa.int64())
    return from_events(coded(pa.table(columns)), combine="sum")


def split(whole: Interactions, *, kind: str, n: int, seed: int) -> Split:
    """The split of pairs that are combined already."""
    how = SplitConfig.model_validate({"kind": kind, "n": n})
    return hold_out(Pool({"sum": whole}, how=how, seed=seed)).splits["sum"]


def random_pairs(seed: int, *, n_users: int = 40, n_items: int = 25) -> dict[Pair, tuple[float, int]]:
    """1 to 9 pairs a user, times with many ties, weights that tell pairs apart."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for user in range(n_users):
        for item in rng.choice(n_items, size=rng.integers(1, 10), replace=False).tolist():
            pairs[f"u{user:02}", f"i{item:02}"] = (float(1 + len(pairs)), int(rng.integers(0, 4)))
    return pairs


def train_pairs(found: Split) -> dict[Pair, float]:
    train = found.train
    coo = train.user_items.tocoo()
    return {
        (train.user_ids[int(u)], train.item_ids[int(i)]): float(w)
        for u, i, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def truth_pairs(found: Split, whole: Interactions) -> dict[Pair, float]:
    """Columns beyond train's items are the items that train does not know, in id order."""
    known = found.train.item_ids.array.to_pylist()
    held_out_only = [item for item in whole.item_ids.array.to_pylist() if item not in set(known)]
    columns = known + held_out_only
    coo = found.truth.tocoo()
    return {
        (found.train.user_ids[int(u)], columns[int(i)]): float(w)
        for u, i, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


@pytest.mark.parametrize("kind", ["leave_last", "per_user"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_train_and_truth_divide_the_pairs(kind: str, n: int, seed: int) -> None:
    """Protects against leaks and losses: both sides are disjoint, together all pairs, weights unchanged."""
    pairs = random_pairs(seed)
    whole = interactions_of(pairs)
    found = split(whole, kind=kind, n=n, seed=seed)
    train, truth = train_pairs(found), truth_pairs(found, whole)
    assert train.keys() & truth.keys() == set()
    assert train | truth == {pair: weight for pair, (weight, _) in pairs.items()}
    assert found.n_unknown_users == 0
    assert found.truth.dtype == np.float32
    assert found.truth.has_sorted_indices
    for user in {user for user, _ in pairs}:
        owned = sum(u == user for u, _ in pairs)
        held_out = sum(u == user for u, _ in truth)
        assert held_out == (n if owned > n else 0)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_leave_last_equals_a_plain_loop(n: int) -> None:
    """Protects leave_last: each user's n latest pairs by time, among equal times the highest item ids."""
    pairs = random_pairs(11)
    whole = interactions_of(pairs)
    expected = set()
    for user in {user for user, _ in pairs}:
        history = sorted((time, item) for (u, item), (_, time) in pairs.items() if u == user)
        if len(history) > n:
            expected |= {(user, item) for _, item in history[-n:]}
    assert truth_pairs(split(whole, kind="leave_last", n=n, seed=0), whole).keys() == expected


def test_leave_last_goes_by_time_then_item_id() -> None:
    """Protects the rule on one hand-made user per case: the latest wins over the row, ids settle ties."""
    whole = interactions_of(
        {
            ("late", "a"): (1.0, 9),
            ("late", "b"): (1.0, 3),
            ("late", "c"): (1.0, -1),
            ("tie", "a"): (1.0, 5),
            ("tie", "b"): (1.0, 5),
            ("tie", "c"): (1.0, 4),
        }
    )
    truth = truth_pairs(split(whole, kind="leave_last", n=1, seed=0), whole)
    assert truth.keys() == {("late", "a"), ("tie", "b")}


def test_leave_last_has_no_chance_in_it() -> None:
    """Protects leave_last from depending on the seed."""
    whole = interactions_of(random_pairs(3))
    first, second = (split(whole, kind="leave_last", n=2, seed=seed) for seed in (0, 99))
    assert train_pairs(first) == train_pairs(second)


# per_user


def drawn(pairs: dict[Pair, tuple[float, int]], *, seed: int, n: int = 1) -> set[Pair]:
    whole = interactions_of(pairs, times=False)
    return set(truth_pairs(split(whole, kind="per_user", n=n, seed=seed), whole))


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 2**63, 2**70])
def test_per_user_does_not_look_at_other_users(seed: int) -> None:
    """Protects stable draws: more users, fewer users or new items elsewhere change no user's held-out pairs."""
    pairs = random_pairs(5)
    some = {pair: value for pair, value in pairs.items() if pair[0] < "u15"}
    more = pairs | {(f"a{n}", f"h{n % 7}"): (1.0, 0) for n in range(50)}
    mine = {pair for pair in drawn(pairs, seed=seed) if pair[0] < "u15"}
    assert drawn(some, seed=seed) == mine
    assert {pair for pair in drawn(more, seed=seed) if pair[0] in {user for user, _ in some}} == mine


def test_per_user_depends_on_seed_alone() -> None:
    """Protects the seed: weights and times change nothing, the same seed repeats, each other seed differs."""
    pairs = random_pairs(6)
    changed = {pair: (weight + 1.0, -time) for pair, (weight, time) in pairs.items()}
    draws = [frozenset(drawn(pairs, seed=seed)) for seed in range(20)]
    assert draws == [frozenset(drawn(changed, seed=seed)) for seed in range(20)]
    assert len(set(draws)) == 20


def test_per_user_takes_the_chosen_ones_into_a_larger_n() -> None:
    """Protects nested draws: what is held out for n is held out for n + 1 where the user has enough."""
    pairs = random_pairs(7)
    owned = {user: sum(u == user for u, _ in pairs) for user, _ in pairs}
    one, two = drawn(pairs, seed=4, n=1), drawn(pairs, seed=4, n=2)
    assert {pair for pair in one if owned[pair[0]] > 2} < two


def test_per_user_draws_every_item_alike() -> None:
    """Protects the draw from favouring low or high ids: 4,000 users of 4 items, each held out about 1/4 often."""
    pairs: dict[Pair, tuple[float, int]] = {
        (user, item): (1.0, 0) for user in range(4000) for item in (-7, 0, 1, 2**40)
    }
    held_out = [item for _, item in drawn(pairs, seed=8)]
    shares = [held_out.count(item) / 4000 for item in (-7, 0, 1, 2**40)]
    five_sigma = 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert all(abs(share - 0.25) < five_sigma for share in shares)


# Edges


@pytest.mark.parametrize("kind", ["leave_last", "per_user"])
def test_users_with_n_pairs_or_fewer_stay_in_train(kind: str) -> None:
    """Protects small histories: only a user with more than n pairs gives any away."""
    pairs: dict[Pair, tuple[float, int]] = {
        (user, item): (1.0, item)
        for user, size in (("one", 1), ("two", 2), ("three", 3))
        for item in range(size)
    }
    whole = interactions_of(pairs)
    found = split(whole, kind=kind, n=2, seed=0)
    assert {user for user, _ in truth_pairs(found, whole)} == {"three"}
    assert found.train.user_ids.array.to_pylist() == ["one", "three", "two"]
    assert np.diff(found.truth.indptr).tolist() == [0, 2, 0]


def test_items_that_train_lost_stay_in_the_truth() -> None:
    """Protects honest recall: an item seen only in test has a column beyond the catalogue, in id order."""
    whole = interactions_of(
        {
            ("a", "m"): (1.0, 1),
            ("a", "z-new"): (2.0, 2),
            ("b", "m"): (3.0, 1),
            ("b", "b-new"): (4.0, 2),
            ("c", "n"): (5.0, 1),
            ("c", "m"): (6.0, 2),
        }
    )
    found = split(whole, kind="leave_last", n=1, seed=0)
    assert found.train.item_ids.array.to_pylist() == ["m", "n"]
    columns = ["m", "n", "b-new", "z-new"]
    expected = np.zeros((3, 4), dtype=np.float32)
    for row, item, weight in ((0, "z-new", 2.0), (1, "b-new", 4.0), (2, "m", 6.0)):
        expected[row, columns.index(item)] = weight
    np.testing.assert_array_equal(found.truth.toarray(), expected)


def test_users_without_train_pairs_are_counted_as_unknown() -> None:
    """Protects the truth from rows without a model: such users are counted and left out."""
    whole = interactions_of(
        {("a", "x"): (1.0, 1), ("b", "x"): (2.0, 2), ("b", "y"): (3.0, 3), ("c", "y"): (4.0, 4)}
    )
    held_out = np.array([False, True, True, True])
    truth, _, n_unknown = _truth(whole, whole.subset(~held_out), held_out=held_out)
    assert (n_unknown, truth.shape, truth.nnz) == (2, (1, 2), 0)
    held_out = np.array([False, False, True, True])
    truth, _, n_unknown = _truth(whole, whole.subset(~held_out), held_out=held_out)
    assert (n_unknown, truth.toarray().tolist()) == (1, [[0, 0], [0, 3]])


def test_decay_is_rebased_by_the_split() -> None:
    """Protects train from test's times: after the split train's newest pair weighs in full."""
    day_s = 86_400
    whole = interactions_of({("a", "x"): (4.0, 0), ("a", "y"): (8.0, 10 * day_s)})
    found = split(replace(whole, half_life_days=10.0), kind="leave_last", n=1, seed=0)
    assert train_pairs(found) == {("a", "x"): 4.0 * 2 ** (10 / 10)}
    assert truth_pairs(found, whole) == {("a", "y"): 8.0}


def test_a_second_split_acts_inside_train() -> None:
    """Protects validation: splitting train again holds out each user's last but one, never test's pair."""
    pairs = {("u", item): (1.0, time) for time, item in enumerate("dbac")} | {("v", "a"): (1.0, 0)}
    whole = interactions_of(pairs)
    test = split(whole, kind="leave_last", n=1, seed=0)
    validation = split(test.train, kind="leave_last", n=1, seed=0)
    assert truth_pairs(test, whole).keys() == {("u", "c")}
    assert truth_pairs(validation, test.train).keys() == {("u", "a")}
    assert train_pairs(validation).keys() == {("u", "d"), ("u", "b"), ("v", "a")}


def test_leave_last_without_times_is_refused() -> None:
    """Protects against a "last" by row number: the message names the column and the way out."""
    whole = interactions_of(random_pairs(0), times=False)
    with pytest.raises(DataError, match=r"leave_last.*no time column.*events\.columns\.time.*per_user"):
        split(whole, kind="leave_last", n=1, seed=0)


@pytest.mark.parametrize("kind", ["leave_last", "per_user"])
def test_nothing_to_hold_out_is_refused(kind: str) -> None:
    """Protects against an evaluation on no users: the message says how many pairs it takes."""
    whole = interactions_of({("a", "x"): (1.0, 1), ("a", "y"): (1.0, 2), ("b", "x"): (1.0, 1)})
    assert split(whole, kind=kind, n=1, seed=0).truth.nnz == 1
    with pytest.raises(DataError, match=r"no user has more than 2 distinct items.*split\.n"):
        split(whole, kind=kind, n=2, seed=0)
