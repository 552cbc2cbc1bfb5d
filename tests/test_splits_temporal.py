"""temporal: train is the events up to a cut in time, as if no other existed; expected values from plain loops."""

from __future__ import annotations

import pytest

from nightrank.data import splits
from nightrank.data.splits import hold_out
from nightrank.errors import DataError
from splitting import (
    DAY_S,
    HALF_LIFE_DAYS,
    Event,
    combined,
    cut_of,
    pool,
    random_events,
    train_of,
    truth_of,
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("half_life_days", [None, HALF_LIFE_DAYS])
def test_temporal_equals_a_plain_loop(
    seed: int, share: float, half_life_days: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects train from anything after the cut: it is the events up to the cut, weighed as if no other existed.

    Test is the pairs all of whose events lie after it; a pair with events on both sides keeps its earlier ones.
    """
    monkeypatch.setattr(splits, "CHUNK_EVENTS", 97)
    events = random_events(seed)
    for _ in range(2):
        whole = pool(events, "temporal", how={"share": share}, half_life_days=half_life_days)
        found = hold_out(whole)
        split, cut = found.splits["sum"], cut_of(events, share=share)
        before = [event for event in events if event[3] <= cut]
        expected = combined(before, half_life_days=half_life_days)
        train = train_of(split)
        assert train.keys() == expected.keys()
        assert [train[pair] for pair in expected] == pytest.approx(list(expected.values()), rel=1e-6)
        assert split.train.times is not None
        assert split.train.times.max() <= cut
        begun = {event[:2] for event in before}
        known = {user for user, _ in train}
        late = {
            pair: weight
            for pair, weight in combined(events, half_life_days=half_life_days).items()
            if pair not in begun and max(event[3] for event in events if event[:2] == pair) > cut
        }
        truth = truth_of(split, whole)
        assert truth == pytest.approx({pair: w for pair, w in late.items() if pair[0] in known}, rel=1e-6)
        assert split.n_unknown_users == len({user for user, _ in late} - known)
        assert any(
            event[3] > cut and event[:2] in begun for event in events
        )  # some have events on both sides
        events = before  # the validation split is the test split of what is left


def test_decay_counts_back_from_the_latest_event_of_train() -> None:
    """Protects train's weights from the time of the test: its own latest pair weighs in full."""
    events = [("a", "x", 8.0, 0), ("a", "y", 4.0, 4 * DAY_S), ("a", "z", 1.0, 40 * DAY_S)]
    whole = pool(events, "temporal", how={"share": 0.3}, half_life_days=4.0)
    split = hold_out(whole).splits["sum"]
    assert train_of(split) == {("a", "x"): 4.0, ("a", "y"): 4.0}
    assert truth_of(split, whole) == {("a", "z"): 1.0}


def test_equal_times_are_on_one_side_of_the_cut() -> None:
    """Protects the cut from dividing a second: the nearest share is taken, the earlier cut of two as near."""
    events = [("a", f"i{n}", 1.0, time) for n, time in enumerate([1, 2, 2, 2, 2, 3, 3, 4])]
    for share, after in ((0.01, 1), (0.25, 3), (0.3, 3), (0.6, 3), (0.7, 7), (0.99, 7), (5 / 8, 7)):
        whole = pool(events, "temporal", how={"share": share})
        assert hold_out(whole).splits["sum"].truth.nnz == after


def test_a_pair_with_events_on_both_sides_keeps_its_earlier_ones_in_train() -> None:
    """Protects both rules on one hand-made pair, also where its earlier event counts 0."""
    events = [
        ("a", "both", 2.0, 1),
        ("a", "both", 5.0, 9),
        ("a", "new", 1.0, 9),
        ("a", "old", 1.0, 2),
        ("a", "looked", 0.0, 1),
        ("a", "looked", 3.0, 9),
        ("b", "looked", 4.0, 1),
    ]
    whole = pool(events, "temporal", how={"share": 0.5})
    split = hold_out(whole).splits["sum"]
    assert train_of(split) == {("a", "both"): 2.0, ("a", "old"): 1.0, ("b", "looked"): 4.0}
    assert truth_of(split, whole).keys() == {("a", "new")}


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [("a", "x", 1.0, 5), ("a", "y", 1.0, 5)],
            r"latest event of each of the 2 pairs .* \(5\).*columns\.time",
        ),
        ([("a", "x", 1.0, 1), ("b", "x", 1.0, 9)], r"each of the 1 held-out pairs .* nobody can be measured"),
        (
            [("a", "x", 1.0, 1), ("a", "y", 1.0, 1), ("a", "y", 1.0, 9)],
            r"every pair with an event after the cut has one before it too.*leave_last",
        ),
    ],
)
def test_a_cut_that_divides_nothing_is_refused(events: list[Event], message: str) -> None:
    """Protects against an evaluation on nobody: the reason, and what to use in its place."""
    with pytest.raises(DataError, match=message):
        hold_out(pool(events, "temporal"))


@pytest.mark.parametrize("kind", ["leave_last", "temporal"])
def test_a_split_by_time_without_times_is_refused(kind: str) -> None:
    """Protects against a "last" by row number: the message names the column and a kind that needs none."""
    whole = pool(random_events(0), kind, columns={"weight": "weight"})
    other = {"leave_last": "per_user", "temporal": "random_mask"}[kind]
    with pytest.raises(DataError, match=rf"{kind}, but .* no time column.*events\.columns\.time.*{other}"):
        hold_out(whole)
