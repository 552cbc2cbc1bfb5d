"""Repeated pairs of user and item, combined to one weight: by sum, max, or the last, decayed by age.

Within a pair, events run by time and then weight whatever order they came in, so the same events give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightrank.data.events import Events
from nightrank.data.grouping import Chunk, chunks_of, has_repeats
from nightrank.data.growing import Growing
from nightrank.data.weighing import decay
from nightrank.errors import DataError


@dataclass(frozen=True)
class Pairs:
    """Pairs with a weight above 0, or from 0 where asked for, by user row, then item row.

    indptr: int64 (n_users + 1,). items: int32. weights: float32. times: int64 of each pair's latest event, or None.
    n_zero: pairs that combined to 0, left out.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    times: NDArray[np.int64] | None
    n_zero: int


def ways_to_combine(events: Events, how: str | None, *, defaults: Sequence[str]) -> tuple[str, ...]:
    """The way that a job names (`how`), else the defaults of its models; one where nothing repeats, as all agree.

    Raises DataError where a default is `last`, pairs repeat, and no times say which event that is.
    """
    if how is not None:
        return (how,)
    if tuple(defaults) == ("sum",) or not has_repeats(events):
        return ("sum",)
    if "last" in defaults and events.times is None:
        raise DataError(
            "pairs of user and item repeat, and events.combine is null, which for a model of ratings takes the last "
            "event; the events have no time column to go by: name it in events.columns.time, or set events.combine "
            "to sum or max"
        )
    return tuple(defaults)


def combined(
    events: Events, *, how: str, half_life_days: float | None = None, keep_zeros: bool = False
) -> Pairs:
    """The pairs of weighted events; where half_life_days is given, decayed by age, counted back from the latest pair.

    Raises DataError where `last` or decay has no times, on a weight beyond float32, or where nothing is left.
    Cost: linear in events. Memory beside the events: 4 bytes for each, the pairs, and a chunk of users (`grouping`).
    """
    if events.times is None:
        _refuse_without_times(how=how, half_life_days=half_life_days)
    latest = None if half_life_days is None else _latest_left(events, how=how)
    indptr = np.zeros(len(events.user_ids) + 1, dtype=np.int64)
    items, weights = Growing(np.int32), Growing(np.float32)
    times = None if events.times is None else Growing(np.int64)
    n_zero = 0
    for chunk in chunks_of(events):
        lasts = np.r_[chunk.starts[1:], len(chunk.items)] - 1
        found = _combine(_decayed(chunk, half_life_days, latest=latest), chunk.starts, lasts=lasts, how=how)
        kept = found >= 0 if keep_zeros else found > 0
        n_zero += len(kept) - int(np.count_nonzero(kept))
        starts, lasts = chunk.starts[kept], lasts[kept]
        sizes = np.bincount(
            chunk.users[starts] - chunk.first_user, minlength=chunk.end_user - chunk.first_user
        )
        indptr[chunk.first_user + 1 : chunk.end_user + 1] = sizes
        items.append(chunk.items[starts])
        weights.append(found[kept])
        if times is not None and chunk.times is not None:
            times.append(chunk.times[lasts])
    if not len(items):
        raise DataError(f"all {n_zero} (user, item) pairs have a combined weight of 0: nothing to learn from")
    return Pairs(
        indptr=np.cumsum(indptr, out=indptr),
        items=items.finish(),
        weights=weights.finish(),
        times=None if times is None else times.finish(),
        n_zero=n_zero,
    )


def _refuse_without_times(*, how: str, half_life_days: float | None) -> None:
    if how == "last":
        raise DataError(
            "events.combine is last, but the events have no time column; name it in events.columns.time, "
            "or combine by sum or max"
        )
    if half_life_days is not None:
        raise DataError(
            "events.half_life_days is set, but the events have no time column; "
            "name it in events.columns.time, or take half_life_days out"
        )


def _latest_left(events: Events, *, how: str) -> int | None:
    """The time of the latest pair that does not combine to 0; that pair weighs in full, so decay cannot change it."""
    if events.times is None:
        return None
    newest = int(events.times.max())
    least = np.finfo(np.float32).smallest_subnormal
    # An event that counts, and is the newest of all, keeps its pair; only without one pairs combine twice.
    if events.weights is None or (events.weights[events.times == newest] >= least).any():
        return newest
    left = combined(events, how=how).times
    return None if left is None else int(left.max())


def _decayed(chunk: Chunk, half_life_days: float | None, *, latest: int | None) -> NDArray[np.float64]:
    """The weights of the chunk's events, by their age where there is a half-life."""
    weights = np.ones(len(chunk.items)) if chunk.weights is None else chunk.weights
    if half_life_days is None or latest is None or chunk.times is None:
        return weights
    return weights * decay(chunk.times, latest=latest, half_life_days=half_life_days)


def _combine(
    weights: NDArray[np.float64], starts: NDArray[np.intp], *, lasts: NDArray[np.intp], how: str
) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # refused below
        if how == "sum":
            found = np.add.reduceat(weights, starts)
        elif how == "max":
            found = np.maximum.reduceat(weights, starts)
        else:
            found = weights[lasts]
        result: NDArray[np.float32] = found.astype(np.float32)
    if not np.isfinite(result).all():
        raise DataError(
            f"a (user, item) pair has a combined weight of {found.max():.3g}, beyond float32; scale them down"
        )
    return result
