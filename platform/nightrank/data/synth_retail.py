"""A shop's log: sessions of views that narrow to a cart, a checkout and a purchase, with users and items.

Ratios of the five event types are those of AWS's Retail Demo Store: per 100 views 8 AddToCart, 5 ViewCart,
2 StartCheckout, 1 Purchase, to the row. Who looks at what is a mixture of topics (`synth_taste`, `synth_catalogue`);
a session keeps to one topic for most of its views, and what is closest to the user's taste goes into the cart. Memory
grows with the number of events; for many use `synth_scale`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.data.synth_catalogue import N_CATEGORIES, N_TOPICS, make_items, make_users
from nightrank.data.synth_folder import make_folder
from nightrank.data.synth_taste import (
    DAY_S,
    N_DAYS,
    START_S,
    check_count,
    cumulative,
    draw,
    draw_one_of,
    stream,
)

log = logging.getLogger("nightrank.data")

TYPES = ("View", "AddToCart", "ViewCart", "StartCheckout", "Purchase")
PER_100_VIEWS = (100, 8, 5, 2, 1)

_ACTIVITY_SIGMA = 0.8
_VIEWS_PER_SESSION = 6
_SAME_TOPIC = 0.6  # of a session's views
_GAP_S = (5, 90)  # seconds from one event of a session to the next


@dataclass(frozen=True)
class RetailRecipe:
    """What decides every byte: sizes and the seed."""

    users: int
    items: int
    events: int
    seed: int = 0

    def check(self) -> None:
        """Raise SettingsError on a number that cannot be meant."""
        cure = "give another number"
        check_count("--users", self.users, low=1, high=1_000_000, cure=cure)
        check_count("--items", self.items, low=N_CATEGORIES, high=200_000, cure=cure)
        larger = "for more events use `nightrank data synth scale`, for fewer a table written by hand"
        check_count("--events", self.events, low=sum(PER_100_VIEWS), high=20_000_000, cure=larger)
        check_count("--seed", self.seed, low=0, high=2**63 - 1, cure=cure)


class Shop(NamedTuple):
    """The three tables of a shop."""

    events: pa.Table
    users: pa.Table
    items: pa.Table


class _Sessions(NamedTuple):
    user: NDArray[np.int64]
    start_s: NDArray[np.int64]


class _Views(NamedTuple):
    """One entry for each view, sessions one after the other."""

    session: NDArray[np.int64]
    item: NDArray[np.int64]
    depth: NDArray[np.int64]  # how many other types of event follow the view: 0 for a view that stays one


def make_retail(out: Path, recipe: RetailRecipe) -> tuple[Path, Path, Path]:
    """Write `events.parquet`, `users.parquet` and `items.parquet` (`shop` has their columns); returns their paths.

    Raises SettingsError on impossible numbers, DataError where `out` holds files of others or cannot be written.
    """
    recipe.check()
    make_folder(out, recipe={"made_by": "retail", **vars(recipe)}, write=partial(_write, recipe))
    return out / "events.parquet", out / "users.parquet", out / "items.parquet"


def _write(recipe: RetailRecipe, folder: Path) -> None:
    made = shop(recipe)
    for name, table in zip(Shop._fields, made, strict=True):
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=131_072)
    log.info("%s events of %s users and %s items", *(f"{table.num_rows:,}" for table in made))


def shop(recipe: RetailRecipe) -> Shop:
    """The tables of a shop, no nulls in them.

    events: user_id int64, item_id int64, event_type string, timestamp int64 (seconds UTC), by time; exactly
    `recipe.events` rows. users: user_id int64 1..users, age int32 (18 to 80), gender string (F, M).
    items: item_id int64 1..items, title string, category string, price float64. Some users and items may have no
    event.
    """
    log.info("drawing %s users and %s items", f"{recipe.users:,}", f"{recipe.items:,}")
    users, liked = make_users(recipe.users, seed=recipe.seed)
    items, shares = make_items(recipe.items, seed=recipe.seed)
    counts = _type_counts(recipe.events)
    log.info("drawing %s views, then what follows them", f"{counts[0]:,}")
    sessions = _sessions(recipe, n=-(-int(counts[0]) // _VIEWS_PER_SESSION))
    views = _views(recipe, sessions, liked=liked, shares=shares, counts=counts)
    return Shop(events=_log(recipe, sessions, views), users=users, items=items)


def _type_counts(n: int) -> NDArray[np.int64]:
    """Rows of each type, n in all, in the fixed ratios; what rounding leaves goes to the views."""
    counts = n * np.array(PER_100_VIEWS, dtype=np.int64) // sum(PER_100_VIEWS)
    counts[0] += n - counts.sum()
    return counts


def _sessions(recipe: RetailRecipe, *, n: int) -> _Sessions:
    rng = stream(recipe.seed, 2)
    activity = cumulative(rng.lognormal(0.0, _ACTIVITY_SIGMA, size=(1, recipe.users)))
    user = draw_one_of(activity, chance=rng.random(n))
    day = rng.integers(0, N_DAYS, size=n)
    hour = np.clip(rng.normal(15.0, 4.0, size=n), 0.0, 22.0)  # the afternoon is the busiest
    return _Sessions(user=user, start_s=day * DAY_S + (hour * 3600).astype(np.int64))


def _views(
    recipe: RetailRecipe,
    sessions: _Sessions,
    *,
    liked: NDArray[np.float32],
    shares: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> _Views:
    rng = stream(recipe.seed, 3)
    n, n_sessions = int(counts[0]), len(sessions.user)
    others = rng.integers(0, n_sessions, size=n - n_sessions)
    session = np.sort(np.concatenate([np.arange(n_sessions), others]))  # every session has a view
    topic_shares = cumulative(liked.astype(np.float64))
    pick = partial(draw, topic_shares, n=N_TOPICS)
    theme = pick(rows=sessions.user, chance=rng.random(n_sessions))
    own = pick(rows=sessions.user[session], chance=rng.random(n))
    topic = np.where(rng.random(n) < _SAME_TOPIC, theme[session], own)
    item = draw(shares, n=recipe.items, rows=topic, chance=rng.random(n))
    # Whoever likes the topic, on a day of buying, goes further; of several views of an item, only the last does.
    keenness = (
        np.log(liked[sessions.user[session], topic].astype(np.float64))
        + rng.standard_normal(n_sessions)[session]
    )
    keenness = keenness + rng.standard_normal(n)
    keenness[~_last_views(session, item)] = -np.inf
    depth = np.zeros(n, dtype=np.int64)
    place = np.argsort(-keenness, kind="stable")
    for step, count in enumerate(counts[1:], start=1):
        depth[place[:count]] = step
    return _Views(session=session, item=item, depth=depth)


def _last_views(session: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where an item is viewed for the last time in its session."""
    order = np.lexsort((item, session))  # stable: equal pairs keep the order of the views
    later = (session[order][1:] == session[order][:-1]) & (item[order][1:] == item[order][:-1])
    last = np.ones(len(session), dtype=np.bool_)
    last[order[:-1]] = ~later
    return last


def _log(recipe: RetailRecipe, sessions: _Sessions, views: _Views) -> pa.Table:
    """The views and what follows them, in order of time.

    Within a session: views with each AddToCart behind its view, then the cart, the checkout, the purchase.
    """
    rng = stream(recipe.seed, 4)
    view = np.concatenate([np.flatnonzero(views.depth >= step) for step in range(len(TYPES))])
    kind = np.repeat(np.arange(len(TYPES)), [(views.depth >= step).sum() for step in range(len(TYPES))])
    phase = np.maximum(kind, 1)  # a view and its AddToCart are one phase
    order = np.lexsort((kind, view, phase, views.session[view]))
    view, kind = view[order], kind[order]
    session = views.session[view]
    passed = np.cumsum(rng.integers(*_GAP_S, size=len(view)))
    firsts = np.searchsorted(session, np.arange(len(sessions.user)))
    times = START_S + sessions.start_s[session] + passed - passed[firsts][session]
    order = np.argsort(times, kind="stable")
    columns = {
        "user_id": pa.array(sessions.user[session[order]] + 1),
        "item_id": pa.array(views.item[view[order]] + 1),
        "event_type": pa.DictionaryArray.from_arrays(
            pa.array(kind[order], pa.int8()), pa.array(TYPES)
        ).dictionary_decode(),
        "timestamp": pa.array(times[order]),
    }
    return pa.table(columns)
