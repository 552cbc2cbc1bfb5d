"""All four kinds of split over events that repeat and tie: nothing leaks, and what is drawn stays drawn."""

from __future__ import annotations

import numpy as np
import pytest

from nightrank.data.pools import Pool
from nightrank.data.splits import HeldOut, hold_out, split_for
from nightrank.errors import DataError
from splitting import (
    HALF_LIFE_DAYS,
    KINDS,
    Event,
    Pair,
    both,
    combined,
    cut_of,
    pool,
    random_events,
    train_of,
    truth_of,
)

# No leakage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_no_held_out_pair_is_in_train(kind: str, seed: int) -> None:
    """Protects every metric from pairs that the model has seen, in test and in validation."""
    whole = pool(random_events(seed), kind, seed=seed, half_life_days=HALF_LIFE_DAYS)
    (_, test), (rest, validation) = both(whole)
    outer, inner = test.splits["sum"], validation.splits["sum"]
    trains = train_of(outer), train_of(inner)
    truths = truth_of(outer, whole), truth_of(inner, rest)
    assert all(len(truth) > 5 for truth in truths)
    for train, truth in zip(trains, truths, strict=True):
        assert train.keys() & truth.keys() == set()
    assert truths[0].keys() & truths[1].keys() == set()
    assert truths[0].keys() & trains[1].keys() == set()
    assert trains[1].keys() | truths[1].keys() <= trains[0].keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_the_test_truth_reaches_validation(kind: str, seed: int) -> None:
    """Protects the sweep: change or remove what was held out, and all that trials see is the same to the bit."""
    events = random_events(seed)
    whole = pool(events, kind, seed=seed, half_life_days=HALF_LIFE_DAYS)
    outer = hold_out(whole)
    inner = hold_out(outer.rest).splits["sum"]
    if kind == "temporal":
        cut = cut_of(events, share=0.3)
        left = [event for event in events if event[3] <= cut]
    else:
        held_out = truth_of(outer.splits["sum"], whole).keys()
        left = [event for event in events if event[:2] not in held_out and event[0] in users(outer)]
    again = hold_out(replace_depth(pool(left, kind, seed=seed, half_life_days=HALF_LIFE_DAYS))).splits["sum"]
    np.testing.assert_array_equal(again.truth.toarray() > 0, inner.truth.toarray() > 0)
    np.testing.assert_allclose(
        again.train.user_items.toarray(), inner.train.user_items.toarray(), rtol=2**-20
    )
    assert again.train.user_ids.array.equals(inner.train.user_ids.array)
    assert again.train.item_ids.array.equals(inner.train.item_ids.array)


def users(found: HeldOut) -> set[str]:
    return set(found.rest.first.user_ids.array.to_pylist())


def replace_depth(whole: Pool) -> Pool:
    """The pool of what is left after one split, to be split as that is."""
    return Pool(pairs=whole.pairs, how=whole.how, seed=whole.seed, events=whole.events, depth=1)


# Draws


@pytest.mark.parametrize("kind", ["per_user", "random_mask"])
@pytest.mark.parametrize("seed", [0, 7, 2**63, 2**70])
def test_other_users_change_nothing_of_what_is_held_out(kind: str, seed: int) -> None:
    """Protects comparisons between nights: users come and go, and everybody else's two splits stay as they are."""
    events = random_events(1, n=900)
    some = [event for event in events if event[0] < "u015"]
    more = [*events, *((f"v{n}", f"k{n % 9}", 1.0, n) for n in range(200))]
    draws = []
    for given in (some, events, more):
        (whole, test), (rest, validation) = both(pool(given, kind, seed=seed))
        draws.append(
            [
                {pair for pair in truth_of(found.splits["sum"], of) if pair[0] < "u015"}
                for of, found in ((whole, test), (rest, validation))
            ]
        )
    assert draws[0] == draws[1] == draws[2]
    assert all(draws[0])


def test_the_mask_is_a_share_of_the_pairs_twice() -> None:
    """Protects the share: binomial around it in the test split, and around it of what is left in validation."""
    events = [(f"u{user}", f"i{item}", 1.0, 0) for user in range(200) for item in range(40)]
    for share in (0.1, 0.2, 0.5, 0.9):
        (_, test), (rest, validation) = both(pool(events, "random_mask", seed=5, how={"share": share}))
        for found, n in ((test, len(events)), (validation, rest.first.user_items.nnz)):
            n_left = found.rest.first.user_items.nnz
            assert abs(n - n_left - share * n) < 4 * (share * (1 - share) * n) ** 0.5


def test_a_larger_share_masks_more_and_another_seed_others() -> None:
    """Protects the mask's parts: share and seed both count, weights and times do not."""
    events = random_events(2)

    def masked(seed: int, share: float, given: list[Event]) -> set[Pair]:
        whole = pool(given, "random_mask", seed=seed, how={"share": share})
        left = train_of(hold_out(whole).splits["sum"]).keys()
        return set(combined(given)) - left

    small, large = masked(0, 0.2, events), masked(0, 0.4, events)
    assert small < large
    assert small != masked(1, 0.2, events)
    assert small == masked(0, 0.2, [(user, item, 2 * weight, -time) for user, item, weight, time in events])


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_mask_of_nothing_or_of_everything_is_refused(share: float) -> None:
    """Protects against an empty side: the message has the number masked and other splits."""
    with pytest.raises(DataError, match=r"masks \d+ of \d+ pairs: too few to divide.*split\.share.*per_user"):
        hold_out(pool(random_events(0), "random_mask", how={"share": share}))


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_events_gives_the_same_split(kind: str) -> None:
    """Protects reruns on an export in another order: both splits are the same to the bit."""
    events = random_events(3)
    rng = np.random.default_rng(0)
    bits = set()
    for _ in range(4):
        shuffled = [events[row] for row in rng.permutation(len(events))]
        for _, found in both(pool(shuffled, kind, half_life_days=HALF_LIFE_DAYS)):
            split = found.splits["sum"]
            matrices = (split.train.user_items, split.truth)
            bits.add(b"".join(part.tobytes() for m in matrices for part in (m.data, m.indices, m.indptr)))
    assert len(bits) == 2  # test and validation


# Two ways to combine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_models_that_combine_otherwise_are_measured_on_the_same_pairs(kind: str, seed: int) -> None:
    """Protects a sweep over counts and ratings: one truth, the same pairs in the same rows, weights of their own."""
    whole = pool(random_events(seed), kind, half_life_days=HALF_LIFE_DAYS, defaults=("sum", "last"))
    assert list(whole.pairs) == ["sum", "last"]
    for of, found in both(whole):
        summed, last = found.splits["sum"], found.splits["last"]
        assert last.truth is summed.truth
        assert train_of(summed).keys() == train_of(last).keys()
        assert last.train.user_ids.array.equals(summed.train.user_ids.array)
        assert last.train.item_ids.array.equals(summed.train.item_ids.array)
        assert (summed.train.user_items != last.train.user_items).nnz
        assert truth_of(summed, of).keys() & train_of(last).keys() == set()
        assert split_for(found.splits, "last") is last


def test_train_holds_the_last_weight_up_to_the_cut() -> None:
    """Protects a temporal split of ratings: train's last is the last before the cut, not the one after it."""
    events = [
        ("a", "x", 2.0, 1),
        ("a", "x", 3.0, 2),
        ("a", "x", 5.0, 9),
        ("a", "y", 1.0, 9),
        ("a", "z", 4.0, 2),
    ]
    found = hold_out(pool(events, "temporal", how={"share": 0.6}, defaults=("sum", "last")))
    assert train_of(found.splits["sum"]) == {("a", "x"): 5.0, ("a", "z"): 4.0}
    assert train_of(found.splits["last"]) == {("a", "x"): 3.0, ("a", "z"): 4.0}


def test_where_nothing_repeats_one_split_serves_all() -> None:
    """Protects memory and disk: all ways agree then, and a model of ratings needs no time column."""
    events = [(f"u{n % 5}", f"i{n}", float(n + 1), 0) for n in range(20)]
    for defaults in (("sum", "last"), ("last",)):
        whole = pool(events, "per_user", columns={"weight": "weight"}, defaults=defaults)
        assert len(whole.pairs) == 1
        found = hold_out(whole)
        assert split_for(found.splits, "last") is split_for(found.splits, "sum")


def test_a_last_without_times_is_refused_where_a_pair_repeats() -> None:
    """Protects against an arbitrary last: the default is refused, with its name, where it would have to choose."""
    events = [("a", "x", 1.0, 0), ("a", "x", 2.0, 0), ("a", "y", 1.0, 0)]
    for defaults in (("sum", "last"), ("last",)):
        with pytest.raises(
            DataError, match=r"combine is null.*no time column.*events\.columns\.time.*sum or max"
        ):
            pool(events, "per_user", columns={"weight": "weight"}, defaults=defaults)
    said = pool(events, "per_user", columns={"weight": "weight"}, defaults=("sum", "last"), combine="max")
    assert list(said.pairs) == ["max"]
