"""What a practitioner would ask about a set of events before training on it.

Each doubt has a name, for scripts, and a sentence with the number found and what to look at. None stops a run:
such data can be what somebody means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from nightrank.config.events import WeighingConfig
from nightrank.data.events import Events
from nightrank.data.interactions import Interactions

FEW_PAIRS = 1_000  # below, a metric over held-out pairs is mostly chance
MOST = 0.5  # the share of weight, events or users that counts as most
MANY_DUPLICATES = 0.01
_FLOAT_ID = r"^-?[0-9]+\.0+$"
_SPACED_ID = r"^\s|\s$"


class Doubt(NamedTuple):
    """name: for scripts. text: for people."""

    name: str
    text: str


def items_without_events(rows: int, with_events: int) -> Iterator[Doubt]:
    """Of an item table of so many rows, so many of them with events, where families with features rank them all.

    Where none has any, it is another table: a problem, and no doubt.
    """
    if 0 < with_events < rows - MOST * rows:
        yield Doubt(
            "items_without_events",
            f"{rows - with_events} of {rows} rows of the items' table have no events, and models with features rank "
            f"them beside the {with_events} that have some; is it the right table, with the right ids?",
        )


def unfittable(family: str, reason: str) -> Doubt:
    """Some of a sweep's recipes would fail, others not."""
    return Doubt("unfittable", f"trials of {family} in the sweep would fail: {reason}")


def doubts_of(
    events: Events,
    found: Interactions | None,
    rules: WeighingConfig,
    *,
    types: Mapping[str, int],
    n_duplicates: int,
) -> Iterator[Doubt]:
    """The doubts that hold, in a fixed order. found: what training would see, None where nothing is left."""
    yield from _of_counts(events, found)
    if found is not None:
        yield from _of_shares(found)
    yield from _of_ids(events)
    yield from _of_times(events, rules)
    unused = [kind for kind, weight in rules.type_weights.items() if weight > 0 and kind not in types]
    if unused:
        names = ", ".join(map(repr, unused))
        yield Doubt(
            "unused_type", f"no event has the type {names} of events.type_weights; check the spelling"
        )
    share = n_duplicates / len(events)
    if events.times is not None and share > MANY_DUPLICATES:
        yield Doubt(
            "duplicate_rows",
            f"{n_duplicates} rows ({share:.1%}) repeat an earlier one, time included; they are kept and count again: "
            "was something exported twice?",
        )


def _of_counts(events: Events, found: Interactions | None) -> Iterator[Doubt]:
    counts = events.counts if found is None else found.counts
    if counts.empty_files:
        yield Doubt(
            "empty_files", f"{counts.empty_files} of {counts.files} files have no row; is an export missing?"
        )
    if found is not None and found.user_items.nnz < FEW_PAIRS:
        n_pairs = found.user_items.nnz
        yield Doubt(
            "few_events", f"only {n_pairs} pairs to train on; below {FEW_PAIRS} metrics are mostly chance"
        )
    if counts.zero_weights > 0:
        share = counts.zero_weights / counts.rows
        yield Doubt(
            "zero_weights", f"{counts.zero_weights} events ({share:.1%}) have a weight of 0 and count nothing"
        )
    if counts.dropped_events > MOST * counts.rows:
        share = counts.dropped_events / counts.rows
        yield Doubt("most_dropped", f"{share:.1%} of the events are dropped with rare users and items")


def _of_shares(found: Interactions) -> Iterator[Doubt]:
    matrix = found.user_items
    for name, ids, axis in (("item", found.item_ids, 0), ("user", found.user_ids, 1)):
        totals = np.asarray(matrix.sum(axis=axis, dtype=np.float64)).ravel()
        row = int(np.argmax(totals))
        share = totals[row] / totals.sum()
        if share > MOST and len(ids) > 1:
            yield Doubt(
                f"dominant_{name}",
                f"the {name} {ids[row]!r} holds {share:.1%} of all weight; is it a default, a test or a robot?",
            )
    single = float(np.mean(np.diff(matrix.indptr) == 1))
    if single > MOST:
        yield Doubt(
            "single_pair_users",
            f"{single:.1%} of the users have one item only: they cannot be measured, and say little to learn from",
        )


def _of_ids(events: Events) -> Iterator[Doubt]:
    for column, known in (("user", events.user_ids), ("item", events.item_ids)):
        if known.is_int:
            continue
        ids = known.array
        floats = ids.filter(pc.match_substring_regex(ids, _FLOAT_ID))
        if len(floats):
            yield Doubt(
                f"float_{column}_ids",
                f"{len(floats)} {column} ids look like floats, such as '{floats[0]}'; pandas writes integers with "
                "gaps that way: write them as integers",
            )
        spaced = ids.filter(pc.match_substring_regex(ids, _SPACED_ID))
        if len(spaced):
            yield Doubt(
                f"spaced_{column}_ids",
                f"{len(spaced)} {column} ids begin or end with a space, such as '{spaced[0]}'; they are kept so",
            )


def _of_times(events: Events, rules: WeighingConfig) -> Iterator[Doubt]:
    if events.times is None:
        return
    middle = len(events) // 2
    time = int(np.partition(events.times, middle)[middle])  # what more than half are is the median
    share = float(np.mean(events.times == time))
    if share > MOST and len(events) > 1:
        yield Doubt(
            "identical_times",
            f"{share:.1%} of the events have the same time ({time}); is it the time of the "
            "export? leave_last then goes by item id",
        )
    n_future = events.counts.future_times
    if n_future > 0:
        decay = (
            "; decay counts back from the latest of them that is left"
            if rules.half_life_days is not None
            else ""
        )
        yield Doubt("future_times", f"{n_future} events lie more than a day in the future{decay}")
