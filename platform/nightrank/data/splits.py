"""Splits into train and test: leave_last, per_user, temporal, random_mask.

No (user, item) is ever on both sides. Three kinds choose among combined pairs. temporal cuts through time, so it
acts on the events behind them: what train knows of a pair is what was known at the cut. Train gets dense rows of
its own: a model never sees an item that only test knows, while such items stay in the truth and count as misses.
Kinds that need times are refused where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.split import WITHOUT_TIMES
from nightrank.data.events import Events
from nightrank.data.features import with_features
from nightrank.data.grouping import CHUNK_EVENTS, occurrences
from nightrank.data.ids import Ids
from nightrank.data.interactions import Interactions, picked
from nightrank.data.metadata import Metadata
from nightrank.data.pools import Pool, combined_pairs, pair_keys
from nightrank.errors import DataError


@dataclass(frozen=True)
class Split:
    """train: what a model may see. truth: held-out pairs of train's users.

    truth: CSR float32 (n_train_users, n_train_items + n_new_items) with the held-out weights; columns at and
    beyond n_train_items are items that train does not know, in id order.
    n_unknown_users: users with held-out pairs who are absent from train, left out of truth.
    new_items: the ids of those columns; None where nobody needs them any more (a split that a trial opens).
    """

    train: Interactions
    truth: csr_matrix
    n_unknown_users: int
    new_items: Ids | None = None


@dataclass(frozen=True)
class HeldOut:
    """splits: by how pairs combine, all of the same pairs and one truth. rest: train, to hold out of again."""

    splits: Mapping[str, Split]
    rest: Pool


def split_for(splits: Mapping[str, Split], combine: str) -> Split:
    """The split in which pairs combined that way; where nothing repeats there is but one, and it serves all."""
    return splits.get(combine, next(iter(splits.values())))


def hold_out(pool: Pool) -> HeldOut:
    """Hold pairs out by the pool's kind; `hold_out(found.rest)` holds out of what is left, the truth unseen.

    leave_last: of every user with more than n pairs the n latest, by the time of a pair's latest event, ties by
    item id (the highest row goes first). per_user: n of them at random. random_mask: each pair of any user with
    probability share, so their number is binomial. Both draw by a hash of user id, item id and seed: other users
    and events never change what is drawn. temporal: what lies after a cut in time, see `_cut` and `_temporal`.
    Raises DataError where a kind has no times to go by, or where nothing would be held out or left.
    """
    kind, first = pool.how.kind, pool.first
    if kind in WITHOUT_TIMES and first.times is None:
        raise DataError(
            f"split.kind is {kind}, but the events have no time column; name it in events.columns.time, "
            f"or use split: {WITHOUT_TIMES[kind]}"
        )
    if kind == "temporal":
        held_out, rest = _temporal(pool)
    else:
        held_out = _masked(pool) if kind == "random_mask" else _of_every_user(pool)
        rest = replace(pool, pairs={how: one.subset(~held_out) for how, one in pool.pairs.items()})
    rest = replace(rest, depth=pool.depth + 1)
    truth, new_items, n_unknown = _truth(first, rest.first, held_out=held_out)
    if not truth.nnz:
        raise DataError(
            f"split.kind is {kind} and each of the {np.count_nonzero(held_out)} held-out pairs is of a user with "
            "no other pair in train, so nobody can be measured; use a smaller split.share, or hold out of every "
            f"user: split: {{kind: {'leave_last' if kind == 'temporal' else 'per_user'}, n: 1}}"
        )
    splits = {
        how: Split(train=train, truth=truth, n_unknown_users=n_unknown, new_items=new_items)
        for how, train in rest.pairs.items()
    }
    return HeldOut(splits=splits, rest=rest)


def featured(split: Split, metadata: Metadata) -> Split:
    """The same split for a family that learns from features: they are attached to train, whose catalogue grows by the
    items of the metadata; held-out pairs of those become pairs of items that train knows.

    Users keep their rows, and the truth its pairs, so values per user compare with those of any other family.
    """
    if split.new_items is None:
        raise ValueError("this split was opened without the ids of its new items")
    train, new = with_features(split.train, metadata), split.new_items
    rows = np.concatenate([train.item_ids.rows_of(ids.array) for ids in (split.train.item_ids, new)])
    unknown = np.flatnonzero(rows < 0)
    rows[unknown] = len(train.item_ids) + np.arange(len(unknown))
    truth = csr_matrix(
        (split.truth.data, rows[split.truth.indices], split.truth.indptr),
        shape=(split.truth.shape[0], len(train.item_ids) + len(unknown)),
    )
    truth.sort_indices()
    left = picked(new, unknown - len(split.train.item_ids))
    return replace(split, train=train, truth=truth, new_items=left)


def _of_every_user(pool: Pool) -> NDArray[np.bool_]:
    """bool (nnz,): the n latest pairs, or n random ones, of every user that has more than n."""
    pairs, n = pool.first, pool.how.n
    users = pairs.pair_users()
    by_time = pool.how.kind == "leave_last"
    key: Any = pairs.times if by_time else _pair_hashes(pairs, users=users, seed=pool.seed)
    order = np.lexsort((pairs.user_items.indices, key, users))
    counts = np.diff(pairs.user_items.indptr)
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - pairs.user_items.indptr[users[order]]
    held_out: NDArray[np.bool_] = (place >= counts[users] - n) & (counts[users] > n)
    if not held_out.any():
        raise DataError(
            f"no user has more than {n} distinct items left, so nothing can be held out; a sweep holds out twice "
            f"(test, then validation) and needs users with {2 * n + 1}: check the columns of the events and split.n"
        )
    return held_out


def _masked(pool: Pool) -> NDArray[np.bool_]:
    """bool (nnz,): the pairs whose hash falls below the share.

    Of a pool that was masked before, the hashes left lie above the shares already taken; the bound moves up by
    the share of what is left, so that the second mask is of the same proportion and as independent of other users.
    """
    pairs = pool.first
    bound = 1.0 - (1.0 - pool.how.share) ** (pool.depth + 1)
    hashes = _pair_hashes(pairs, users=pairs.pair_users(), seed=pool.seed)
    held_out: NDArray[np.bool_] = hashes < np.uint64(min(int(bound * 2.0**64), 2**64 - 1))
    n_masked = int(np.count_nonzero(held_out))
    if n_masked in (0, len(hashes)):
        raise DataError(
            f"split.kind is random_mask and split.share {pool.how.share} masks {n_masked} of {len(hashes)} pairs: "
            "too few to divide; use more events, another split.share, or split: {kind: per_user, n: 1}"
        )
    return held_out


def _temporal(pool: Pool) -> tuple[NDArray[np.bool_], Pool]:
    """bool (nnz,): the pairs all of whose events lie after the cut; and the events up to it, combined anew.

    A pair with events on both sides is held out nowhere, and train has it with its earlier events alone, an event
    of weight 0 being one like any other. Decay counts back from train's own latest pair.
    """
    pairs, events = pool.first, pool.events
    if events is None or events.times is None or pairs.times is None:
        raise DataError("a temporal split acts on events; make the pool with `pool_of`")
    cut = _cut(pairs.times, share=pool.how.share)
    before = events.where(events.times <= cut)
    held_out = pairs.times > cut
    late = pair_keys(pairs, before.user_ids, before.item_ids)[held_out]
    held_out[held_out] = ~_occurring(late, before)
    if not held_out.any():
        raise DataError(
            "split.kind is temporal, but every pair with an event after the cut has one before it too, so nothing "
            "can be held out; use a larger split.share, or split: {kind: leave_last, n: 1}"
        )
    trains = combined_pairs(before, tuple(pool.pairs), half_life_days=pairs.half_life_days)
    return held_out, replace(pool, pairs=trains, events=before)


def _occurring(keys: NDArray[np.int64], events: Events) -> NDArray[np.bool_]:
    """Which of these pairs (`pair_keys` in the rows of the events, ascending) have an event."""
    found = np.zeros(len(keys), dtype=np.bool_)
    for start in range(0, len(events), CHUNK_EVENTS):  # the keys of all events would take 8 bytes each
        part = slice(start, start + CHUNK_EVENTS)
        wanted = events.users[part] * np.int64(len(events.item_ids)) + events.items[part]
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found[places[keys[places] == wanted]] = True
    return found


def _cut(times: NDArray[np.int64], *, share: float) -> int:
    """The last second that train sees: of the pairs' times (int64, UTC seconds) but the latest, that one behind
    which a share of the pairs nearest to `share` lies; of two as near, the earlier. Equal times are on one side.
    """
    seconds, counts = np.unique(times, return_counts=True)
    if len(seconds) == 1:
        raise DataError(
            f"split.kind is temporal, but the latest event of each of the {len(times)} pairs is at the same second "
            f"({seconds[0]}), so there is no time to cut at; check events.columns.time, or use "
            f"split: {WITHOUT_TIMES['temporal']}"
        )
    n_after = len(times) - np.cumsum(counts)[:-1]
    return int(seconds[np.argmin(np.abs(n_after - share * len(times)))])


def _truth(
    pairs: Interactions, train: Interactions, *, held_out: NDArray[np.bool_]
) -> tuple[csr_matrix, Ids, int]:
    """The held-out pairs in train's rows, items that it lacks behind its own; those items; and `n_unknown_users`."""
    n_users, n_items = train.user_items.shape
    user_rows = train.user_ids.rows_of(pairs.user_ids.array)
    item_rows = train.item_ids.rows_of(pairs.item_ids.array)
    users, items = pairs.pair_users()[held_out], pairs.user_items.indices[held_out]
    is_new = (item_rows < 0) & (occurrences(items, len(item_rows)) > 0)
    n_new = int(np.count_nonzero(is_new))
    item_rows[is_new] = n_items + np.arange(n_new)
    known = user_rows[users] >= 0
    truth = csr_matrix(
        (pairs.user_items.data[held_out][known], (user_rows[users[known]], item_rows[items[known]])),
        shape=(n_users, n_items + n_new),
    )
    truth.sort_indices()
    new_items = picked(pairs.item_ids, np.flatnonzero(is_new))
    return truth, new_items, int(np.count_nonzero(occurrences(users[~known], len(user_rows))))


def _pair_hashes(interactions: Interactions, *, users: NDArray[np.int32], seed: int) -> NDArray[np.uint64]:
    """A uniform 64-bit key per pair from ids and seed alone (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = interactions.user_ids.hashes()[users] + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    mixed = mixed ^ (interactions.item_ids.hashes()[interactions.user_items.indices] >> np.uint64(1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result
