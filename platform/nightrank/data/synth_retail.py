"""A shop's log: sessions of views that narrow to a cart, a checkout and a purchase, with users and items.

Ratios of the five event types are those of AWS's Retail Demo Store: per 100 views 8 AddToCart, 5 ViewCart,
2 StartCheckout, 1 Purchase, to the row. Taste is a mixture of topics (`synth_taste`), one for each style of each
category: age and gender say which categories are likely, the rest of a user's taste is nowhere in the tables, and
of an item's styles only the first word of the title tells. A session keeps to one topic for most of its views; what is closest to the user's taste
goes into the cart. Memory grows with the number of events; for many use `synth_scale`.
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

from nightrank.data.synth_folder import make_folder
from nightrank.data.synth_taste import (
    DAY_S,
    N_DAYS,
    START_S,
    check_count,
    cumulative,
    draw,
    draw_one_of,
    mixture,
    stream,
    zipf,
)

log = logging.getLogger("nightrank.data")

TYPES = ("View", "AddToCart", "ViewCart", "StartCheckout", "Purchase")
PER_100_VIEWS = (100, 8, 5, 2, 1)

# What a category is called, whom it draws, its median price and what its items are.
# Whom: the logarithm of its pull at 18 and at 80 years (a line between them), on women, on men.
_CATEGORIES: tuple[tuple[str, tuple[float, float, float, float], float, tuple[str, ...]], ...] = (
    ("accessories", (1.0, -0.5, 0.8, -0.2), 60.0, ("Backpack", "Belt", "Handbag", "Watch")),
    ("apparel", (1.2, -0.8, 0.6, 0.2), 80.0, ("Jacket", "Shirt", "Jeans", "Scarf")),
    ("beauty", (0.8, -0.4, 1.2, -1.5), 30.0, ("Lotion", "Shampoo", "Lipstick", "Soap")),
    ("books", (-0.5, 1.0, 0.3, 0.0), 18.0, ("Novel", "Atlas", "Cookbook", "Biography")),
    ("electronics", (1.4, -1.0, -0.8, 1.0), 350.0, ("Headphones", "Speaker", "Camera", "Keyboard")),
    ("floral", (-1.0, 1.2, 0.6, -0.4), 35.0, ("Bouquet", "Wreath", "Orchid", "Planter")),
    ("footwear", (1.0, -0.6, 0.4, 0.3), 95.0, ("Sneakers", "Boots", "Sandals", "Loafers")),
    ("furniture", (-0.6, 0.8, 0.2, 0.0), 280.0, ("Chair", "Table", "Lamp", "Shelf")),
    ("groceries", (-0.2, 0.6, 0.0, 0.0), 8.0, ("Coffee", "Honey", "Pasta", "Olive Oil")),
    ("instruments", (0.6, -0.2, -0.6, 0.8), 420.0, ("Guitar", "Drum", "Violin", "Flute")),
    ("outdoors", (0.6, -0.4, -0.4, 0.8), 120.0, ("Tent", "Kayak", "Lantern", "Fishing Rod")),
    ("tools", (-0.6, 0.6, -1.2, 1.2), 45.0, ("Hammer", "Drill", "Saw", "Wrench")),
)
_STYLES = ("Classic", "Modern", "Rustic", "Sporty")
_MATERIALS = ("Oak", "Linen", "Steel", "Nordic", "Alpine", "Coastal", "Amber", "Indigo", "Ivory", "Scarlet")
_N_TOPICS = len(_CATEGORIES) * len(_STYLES)

_CATEGORY_FOCUS = 3.0  # sum of the Dirichlet weights of the categories: a user likes two or three of 12
_STYLE_FOCUS = 0.3  # Dirichlet weight of a style in a user's and in an item's mixture
_STRAY = 0.02  # of an item's pull goes to all topics alike
_ACTIVITY_SIGMA = 0.8
_ZIPF_SHIFT = 20.0
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
        check_count("--users", self.users, low=1, high=5_000_000, cure=cure)
        check_count("--items", self.items, low=len(_CATEGORIES), high=1_000_000, cure=cure)
        larger = (
            "for more events than that use `nightrank data synth scale`, for fewer a table written by hand"
        )
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
    depth: NDArray[np.int64]  # how many of TYPES follow the view: 0 for a view that stays one


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
    items: item_id int64 1..items, title string, category string, price float64. Some users and items may be in no event.
    """
    log.info("drawing %s users and %s items", f"{recipe.users:,}", f"{recipe.items:,}")
    users, liked = _users(recipe)
    items, shares = _items(recipe)
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


def _users(recipe: RetailRecipe) -> tuple[pa.Table, NDArray[np.float32]]:
    """The table, and each user's taste: shares of the topics (n_users, _N_TOPICS)."""
    rng = stream(recipe.seed, 0)
    age = np.clip(np.round(rng.gamma(9.0, 4.0, size=recipe.users)), 18, 80)
    gender = rng.integers(0, 2, size=recipe.users)
    young, old, women, men = np.array([whom for _, whom, _, _ in _CATEGORIES]).T
    part = ((age - 18) / (80 - 18))[:, None]
    pull = np.exp((1 - part) * young + part * old + np.where(gender[:, None] == 0, women, men))
    pull *= _CATEGORY_FOCUS / pull.sum(axis=1, keepdims=True)
    categories = rng.standard_gamma(pull) + 1e-6
    categories /= categories.sum(axis=1, keepdims=True)
    n_categories = len(_CATEGORIES)
    styles = mixture(rng, _STYLE_FOCUS, size=(recipe.users * n_categories, len(_STYLES)))
    styles = styles.reshape(recipe.users, n_categories, len(_STYLES))
    liked = (categories[:, :, None] * styles).reshape(recipe.users, _N_TOPICS).astype(np.float32)
    columns = {
        "user_id": pa.array(np.arange(1, recipe.users + 1)),
        "age": pa.array(age.astype(np.int32)),
        "gender": pa.array(np.array(["F", "M"])[gender], pa.string()),
    }
    return pa.table(columns), liked


def _items(recipe: RetailRecipe) -> tuple[pa.Table, NDArray[np.float64]]:
    """The table, and the cumulative shares of the items in every topic, flat (`synth_taste.cumulative`)."""
    rng = stream(recipe.seed, 1)
    rows = np.arange(recipe.items)
    category = rng.permutation(rows % len(_CATEGORIES))  # each has an item, so that no topic is empty
    styles = mixture(rng, _STYLE_FOCUS, size=(recipe.items, len(_STYLES)))
    pull = np.full((recipe.items, len(_CATEGORIES), len(_STYLES)), _STRAY / _N_TOPICS)
    pull[rows, category] += styles
    pull *= zipf(recipe.items, shift=_ZIPF_SHIFT, rng=rng)[:, None, None]
    medians = np.array([median for _, _, median, _ in _CATEGORIES])
    price = np.ceil(medians[category] * rng.lognormal(0.0, 0.5, size=recipe.items)) - 0.01
    material = rng.integers(0, len(_MATERIALS), size=recipe.items)
    noun = rng.integers(0, len(_CATEGORIES[0][3]), size=recipe.items)
    style, nouns = styles.argmax(axis=1), [nouns for _, _, _, nouns in _CATEGORIES]
    titles = [
        f"{_STYLES[s]} {_MATERIALS[m]} {nouns[c][n]}"
        for s, m, c, n in zip(style, material, category, noun, strict=True)
    ]
    columns = {
        "item_id": pa.array(rows + 1),
        "title": pa.array(titles),
        "category": pa.array(np.array([name for name, *_ in _CATEGORIES])[category], pa.string()),
        "price": pa.array(np.round(price, 2)),
    }
    return pa.table(columns), cumulative(pull.reshape(recipe.items, _N_TOPICS).T)


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
    pick = partial(draw, topic_shares, n=_N_TOPICS)
    theme = pick(rows=sessions.user, chance=rng.random(n_sessions))
    own = pick(rows=sessions.user[session], chance=rng.random(n))
    topic = np.where(rng.random(n) < _SAME_TOPIC, theme[session], own)
    item = draw(shares, n=recipe.items, rows=topic, chance=rng.random(n))
    # Whoever likes the topic, on a day of buying, goes further; of several views of an item, only the last does.
    keenness = np.log(liked[sessions.user[session], topic]) + rng.standard_normal(n_sessions)[session]
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
