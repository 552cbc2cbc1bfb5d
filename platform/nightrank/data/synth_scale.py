"""Events of any size, to see how a cluster and a model stand up to them: in bounded memory, to the byte by seed.

Items are Zipf, users' activity is log-normal, taste is a mixture of `rank` topics (`synth_taste`), and the popularity
of every item drifts over the 90 days. Events come in order of time, in blocks of 131,072; each block has a random
stream of its own, so how blocks are packed into files changes no event. Memory: 4 bytes per user and topic, about 30
per item and topic, and one block; it does not grow with the number of events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.data.synth_folder import make_folder
from nightrank.data.synth_taste import (
    DAY_S,
    N_DAYS,
    START_S,
    Floats,
    check_count,
    cumulative,
    draw,
    draw_one_of,
    mixture,
    stream,
    zipf,
)
from nightrank.errors import SettingsError

log = logging.getLogger("nightrank.data")

BLOCK = 131_072  # events of a block: one row group of the files
BLOCKS_PER_FILE = 64
FOLDER = "events"

_ACTIVITY_SIGMA = 1.0
_ZIPF_SHIFT = 20.0
_USER_TOPICS, _ITEM_TOPICS = 0.1, 0.1  # Dirichlet: a user or item lives in one or two of 16 topics
_DRIFT_SIGMA = 0.7  # of the log-popularity, drawn anew every 30 days and interpolated between
_KNOT_DAYS = 30
_MOST_CELLS = 1_000_000_000  # of users x rank and of items x rank: 4 GB and 30 GB
_SAY_EVERY_S = 5.0


@dataclass(frozen=True)
class ScaleRecipe:
    """What decides every byte: sizes, rank of the taste, whether there is a weight column, and the seed."""

    users: int
    items: int
    events: int
    seed: int = 0
    rank: int = 16
    weights: bool = False

    def check(self) -> None:
        """Raise SettingsError on a number that cannot be meant."""
        cure = "give another number"
        check_count("--users", self.users, low=1, high=100_000_000, cure=cure)
        check_count("--items", self.items, low=2, high=10_000_000, cure=cure)
        check_count("--events", self.events, low=1, high=10**12, cure=cure)
        check_count("--rank", self.rank, low=1, high=256, cure=cure)
        check_count("--seed", self.seed, low=0, high=2**63 - 1, cure=cure)
        for option, n in (("--users", self.users), ("--items", self.items)):
            if n * self.rank > _MOST_CELLS:
                raise SettingsError(
                    f"{option} x --rank: found {n * self.rank:,}, expected at most {_MOST_CELLS:,}, since that "
                    "table is held in memory; lower one of the two"
                )


@dataclass
class _World:
    """The tables that events are drawn from; the shares of the day in hand are kept between blocks."""

    activity: Floats  # cumulative shares (n_users,)
    topics: NDArray[np.float32]  # (n_users, rank): each user's shares
    items: NDArray[np.float32]  # (rank, n_items): popularity x the item's share in each topic
    knots: NDArray[np.float32]  # (n_knots, n_items): log-popularity against the long run
    _day: int = -1
    _shares: Floats = field(default_factory=lambda: np.empty(0))

    def shares(self, day: int) -> Floats:
        """Cumulative shares of the items in every topic on one day, flat."""
        if day != self._day:
            knot, rest = divmod(day, _KNOT_DAYS)
            part = rest / _KNOT_DAYS
            before, after = self.knots[knot : knot + 2].astype(np.float64)
            # 64 bits: processors differ in the last bit of an exp, which in 32 bits would move events now and then.
            drift = np.exp((1 - part) * before + part * after)
            self._shares = np.empty(0)  # let go of yesterday's before today's is made
            self._day, self._shares = day, cumulative(self.items * drift)
        return self._shares


def make_scale(out: Path, recipe: ScaleRecipe, *, blocks_per_file: int = BLOCKS_PER_FILE) -> Path:
    """Write `<out>/events/part-*-of-*.parquet`; returns that folder, which a job file names as events.path.

    Columns: user_id int64 1..users, item_id int64 1..items, timestamp int64 (seconds UTC, ascending over all files)
    and, where asked for, weight float32 of 1 or more (the more a user likes a topic, the larger). No nulls.
    Raises SettingsError on impossible numbers, DataError where `out` holds files of others or cannot be written.
    """
    recipe.check()
    made_by = {"made_by": "scale", **vars(recipe), "blocks_per_file": blocks_per_file}
    make_folder(out, recipe=made_by, write=partial(_write, recipe, blocks_per_file))
    return out / FOLDER


def scale_blocks(recipe: ScaleRecipe) -> Iterator[pa.Table]:
    """The events, block by block, in order of time; the columns are those of `make_scale`."""
    world = _world(recipe)
    for block in range(-(-recipe.events // BLOCK)):
        yield _block(world, recipe, block)


def _world(recipe: ScaleRecipe) -> _World:
    activity = stream(recipe.seed, 0, 0).lognormal(0.0, _ACTIVITY_SIGMA, size=(1, recipe.users))
    topics = mixture(stream(recipe.seed, 0, 1), _USER_TOPICS, size=(recipe.users, recipe.rank))
    rng = stream(recipe.seed, 0, 2)
    popularity = zipf(recipe.items, shift=_ZIPF_SHIFT, rng=rng).astype(np.float32)
    items = mixture(rng, _ITEM_TOPICS, size=(recipe.items, recipe.rank))
    n_knots = N_DAYS // _KNOT_DAYS + 1
    knots = stream(recipe.seed, 0, 3).standard_normal((n_knots, recipe.items), dtype=np.float32)
    return _World(
        activity=cumulative(activity),
        topics=topics,
        items=np.ascontiguousarray((items * popularity[:, None]).T),
        knots=knots * np.float32(_DRIFT_SIGMA),
    )


def _block(world: _World, recipe: ScaleRecipe, block: int) -> pa.Table:
    rng = stream(recipe.seed, 1, block)
    first, last = block * BLOCK, min((block + 1) * BLOCK, recipe.events)
    n, span_s = last - first, N_DAYS * DAY_S
    low, high = first * span_s // recipe.events, last * span_s // recipe.events
    times = np.sort(rng.integers(low, max(high, low + 1), size=n))
    users = draw_one_of(world.activity, chance=rng.random(n))
    mine = world.topics[users]
    topics = _topics(mine, chance=rng.random(n, dtype=np.float32))
    chance = rng.random(n)
    items = np.empty(n, dtype=np.int64)
    days, starts = np.unique(times // DAY_S, return_index=True)
    for day, start, stop in zip(days, starts, [*starts[1:], n], strict=True):
        rows = slice(start, stop)
        shares = world.shares(int(day))
        items[rows] = draw(shares, n=recipe.items, rows=topics[rows], chance=chance[rows])
    columns = {"user_id": users + 1, "item_id": items + 1, "timestamp": times + START_S}
    if recipe.weights:
        liked = mine[np.arange(n), topics].astype(np.float64)
        columns["weight"] = (1 + stream(recipe.seed, 2, block).poisson(4 * liked)).astype(np.float32)
    return pa.table(columns)


def _topics(shares: NDArray[np.float32], *, chance: NDArray[np.float32]) -> NDArray[np.int64]:
    """A topic for each row of shares, by its cumulative sum; the last topic takes what rounding leaves."""
    sums = np.cumsum(shares, axis=1, dtype=np.float32)[:, :-1]
    topics: NDArray[np.int64] = (sums <= chance[:, None]).sum(axis=1)
    return topics


def _write(recipe: ScaleRecipe, blocks_per_file: int, folder: Path) -> None:
    (folder / FOLDER).mkdir()
    n_blocks = -(-recipe.events // BLOCK)
    n_files = -(-n_blocks // blocks_per_file)
    blocks = scale_blocks(recipe)
    started = said = time.monotonic()
    done = 0
    for file in range(n_files):
        path = folder / FOLDER / f"part-{file:05d}-of-{n_files:05d}.parquet"
        with pq.ParquetWriter(path, _schema(recipe), use_dictionary=["item_id"]) as writer:
            for _ in range(min(blocks_per_file, n_blocks - file * blocks_per_file)):
                table = next(blocks)
                writer.write_table(table, row_group_size=BLOCK)
                done += table.num_rows
                if time.monotonic() - said > _SAY_EVERY_S:
                    said = time.monotonic()
                    log.info("%s of %s events, %s a second", *_figures(done, recipe, said - started))
    log.info("%s of %s events, %s a second", *_figures(done, recipe, time.monotonic() - started))


def _figures(done: int, recipe: ScaleRecipe, seconds: float) -> tuple[str, str, str]:
    return f"{done:,}", f"{recipe.events:,}", f"{done / max(seconds, 1e-9):,.0f}"


def _schema(recipe: ScaleRecipe) -> pa.Schema:
    names = ("user_id", "item_id", "timestamp")
    columns = [pa.field(name, pa.int64()) for name in names]
    return pa.schema([*columns, pa.field("weight", pa.float32())] if recipe.weights else columns)
