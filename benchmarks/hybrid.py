"""hybrid with metadata against without, on five-star ratings of MovieLens; and what an epoch takes.

    make bench
    python benchmarks/hybrid.py --seeds 0,1,2 --movielens ml-latest-small

Every rating of five stars is an event of weight 1, a fifth of them is held out at random, and all parameters are the
families' defaults, but that hybrid with the loss bpr has the family bpr's reg, 0.01. MovieLens 100K is fetched
where it is missing; --movielens names a folder with a ratings.csv and a movies.csv as GroupLens publishes them, of
any size, to be measured too.

A user's value is the mean over the seeds' splits; a difference is paired by user, with its 95% bootstrap interval.
The first table is what `nightrank evaluate` measures: with genres the whole catalogue is ranked, without them train's
items, and a held-out item that is not among them counts as last. In the second both rank train's items, so that
metadata is all that sets the models apart; users of MovieLens 100K have age, gender and occupation. The third:
held-out pairs whose item nobody has in train, in a ranking of the whole catalogue; without genres such an item has no
place. The fourth: seconds of an epoch, the fastest of five, on made events (`data synth scale --users 6000
--items 4000 --events 1000000`), with up to four random genres an item; the peer is `implicit`'s bpr, on one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from nightrank.config.events import WeighingConfig
from nightrank.config.families import FAMILIES
from nightrank.config.locations import nightrank_home
from nightrank.config.metadata import SideColumns
from nightrank.config.strict import validate
from nightrank.data.datasets import fetch
from nightrank.data.events import event_files, read_events
from nightrank.data.features import FeatureColumn, Features, SideFeatures, with_features
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.metadata import Metadata, read_table
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.models import fit
from nightrank.models.fitting import Epoch
from nightrank.quality.evaluation import evaluate
from nightrank.quality.intervals import Estimate, UserSums, estimates
from nightrank.quality.names import parse_metrics

METRICS = ("precision@5", "rank_auc")
GENRES = "| events | model | precision@5, genres | without | difference | rank_auc, genres | without | difference |"
SAME = (
    "| events, train's items | model | with | precision@5, with it | without | difference "
    "| rank_auc, with it | without | difference |"
)
NEW = "| events | model | held-out pairs of new items | rank_auc |"
EPOCH = "| model | features | 1 thread, s | {threads} threads, s | `implicit`'s bpr, s | ratio of 1 thread |"
LOSSES = {"warp": {}, "bpr": {"reg": FAMILIES["bpr"].defaults()["reg"]}}
PEERS = ("popularity", "bpr", "ials")
WITH = ("genres", "users", "users, genres")
Values = dict[str, np.ndarray]
Tables = dict[str, tuple[Path, SideColumns]]


def five_stars(folder: Path | None) -> tuple[str, pa.Table, Tables]:
    """A name, events of five stars (user, item), and the tables of metadata; of a folder, or MovieLens 100K."""
    if folder is None:
        files = fetch("movielens-100k", nightrank_home() / "data" / "movielens-100k")
        rated, names, name = pq.read_table(files.events), ("user_id", "item_id", "weight"), "MovieLens 100K"
        tables = {
            "items": (files.items, SideColumns("item_id", ("genres",))),
            "users": (files.users, SideColumns("user_id", ("age", "gender", "occupation"))),
        }
    else:
        rated, names = pc_csv.read_csv(folder / "ratings.csv"), ("userId", "movieId", "rating")
        name, tables = folder.name, {"items": (folder / "movies.csv", SideColumns("movieId", ("genres",)))}
    liked = rated.filter(pc.greater_equal(rated[names[2]], 5.0)).select(names[:2])
    return name, liked.rename_columns(["user", "item"]), tables


class Held:
    """One split: train with genres for the whole catalogue and, of each WITH, for its own items; and the truth."""

    def __init__(self, liked: pa.Table, tables: Tables, *, seed: int) -> None:
        is_held = np.random.default_rng(seed).random(len(liked)) < 0.2
        self.train = Interactions.from_arrow(
            liked.filter(pa.array(~is_held)), columns={"user": "user", "item": "item"}
        )
        kinds = {"items": self.train.item_ids.kind, "users": self.train.user_ids.kind}
        read = {
            side: read_table([file], columns, what=side, kind=kinds[side])
            for side, (file, columns) in tables.items()
        }
        known = with_features(self.train, Metadata(**read))
        self.whole = replace(known, features=replace(known.features, users=None))
        own = self.whole.item_ids.rows_of(self.train.item_ids.array)
        items, users = known.features.items, known.features.users
        of_own = Features(items.matrix[own], items.columns)
        sides = (SideFeatures(items=of_own), SideFeatures(users=users), SideFeatures(users, of_own))
        self.same = {
            label: replace(self.train, features=features)
            for label, features in zip(WITH, sides if users is not None else sides[:1], strict=False)
        }
        held = liked.filter(pa.array(is_held))
        self.users = self.train.user_ids.rows_of(held["user"])
        self.rows = self.train.item_ids.rows_of(held["item"])
        self.rows_in_whole = self.whole.item_ids.rows_of(held["item"])  # all are in the table of items

    def truth(self) -> csr_matrix:
        """Over train's items; the others are beyond them, a column each."""
        n, (users, items) = len(self.train.item_ids), (self.users, self.rows)
        beyond = n + np.unique(self.rows_in_whole, return_inverse=True)[1]
        return self._csr(users, np.where(items >= 0, items, beyond), n_items=n + len(items))

    def truth_in_whole(self, *, of_new: bool = False) -> csr_matrix:
        """Over the whole catalogue; of_new: only the pairs whose item nobody has in train."""
        kept = self.rows < 0 if of_new else np.ones(len(self.rows), dtype=np.bool_)
        return self._csr(self.users[kept], self.rows_in_whole[kept], n_items=len(self.whole.item_ids))

    def _csr(self, users: np.ndarray, items: np.ndarray, *, n_items: int) -> csr_matrix:
        users, items = users[users >= 0], items[users >= 0]
        ones = np.ones(len(users), dtype=np.float32)
        return csr_matrix((ones, (users, items)), shape=(len(self.train.user_ids), n_items))


def measured(
    family: str,
    interactions: Interactions,
    truth: csr_matrix,
    *,
    seed: int,
    metrics: tuple[str, ...] = METRICS,
    **change: object,
) -> Values:
    """Each metric of each user."""
    params = FAMILIES[family].defaults() | change
    threads = len(os.sched_getaffinity(0))
    model = fit(family, interactions, params=params, seed=seed, threads=threads)
    found = evaluate(
        model, train=interactions.user_items, truth=truth, metrics=parse_metrics(",".join(metrics))
    )
    return found.per_user


class Means:
    """Of each user the mean of a value over splits."""

    def __init__(self) -> None:
        self.found: dict[object, list[float]] = {}

    def add(self, interactions: Interactions, values: np.ndarray) -> None:
        """Values by row, NaN for users who are not measured."""
        for user, value in zip(interactions.user_ids.array.to_pylist(), values, strict=True):
            if not np.isnan(value):
                self.found.setdefault(user, []).append(float(value))

    def values(self) -> np.ndarray:
        """By user, in the order of ids."""
        return np.array([np.mean(self.found[user]) for user in sorted(self.found)])


def estimate(values: np.ndarray) -> Estimate:
    """The mean over users with its interval."""
    return estimates({"": UserSums.of_values(values)}, np.arange(len(values)), seed=0)[""]


def cell(one: Estimate, *, sign: str = "") -> str:
    """A value with its interval."""
    return f"{one.value:{sign}.4f} ({one.low:{sign}.4f} to {one.high:{sign}.4f})"


def quality(folder: Path | None, seeds: list[int]) -> tuple[list[str], list[str], list[str]]:
    """Rows of the first three tables, of one data set."""
    name, liked, tables = five_stars(folder)
    means: dict[tuple[str, str, str], Means] = {}
    new: dict[str, tuple[Means, list[int]]] = {loss: (Means(), []) for loss in LOSSES}
    for seed in seeds:
        held = Held(liked, tables, seed=seed)
        cases = [(family, "without", family, held.train, held.truth(), {}) for family in PEERS]
        for loss in LOSSES:
            label, change = f"hybrid, {loss}", {"loss": loss} | LOSSES[loss]
            cases += [
                (label, "whole", "hybrid", held.whole, held.truth_in_whole(), change),
                *((label, side, "hybrid", data, held.truth(), change) for side, data in held.same.items()),
                (label, "without", "hybrid", held.train, held.truth(), change),
            ]
        for label, side, family, data, truth, change in cases:
            for metric, values in measured(family, data, truth, seed=seed, **change).items():
                means.setdefault((label, side, metric), Means()).add(data, values)
        for loss, (of_new, counts) in new.items():
            truth = held.truth_in_whole(of_new=True)
            given = {"seed": seed, "metrics": ("rank_auc",), "loss": loss} | LOSSES[loss]
            of_new.add(held.whole, measured("hybrid", held.whole, truth, **given)["rank_auc"])
            counts.append(truth.nnz)
    labels = [f"hybrid, {loss}" for loss in LOSSES]
    news = [
        f"| {name} | hybrid, {loss} | {np.mean(counts):.0f} | {cell(estimate(of_new.values()))} |"
        for loss, (of_new, counts) in new.items()
    ]
    return (
        [row([name, label], label, "whole", means) for label in (*labels, *PEERS)],
        [
            row([name, label, side], label, side, means)
            for label in labels
            for side in WITH
            if (label, side, METRICS[0]) in means
        ],
        news,
    )


def row(cells: list[str], label: str, side: str, means: dict[tuple[str, str, str], Means]) -> str:
    """A row of the first two tables, that begins with these cells; peers have no metadata."""
    for metric in METRICS:
        without = means[label, "without", metric].values()
        found = f"{without.mean():.4f}"
        if (label, side, metric) in means:
            both = means[label, side, metric].values()
            cells += [f"{both.mean():.4f}", found, cell(estimate(both - without), sign="+")]
        else:
            cells += ["", found, ""]
    return f"| {' | '.join(cells)} |"


def made(*, seed: int) -> Interactions:
    """6,000 users x 4,000 items, 1,000,000 events, with random genres."""
    rules = validate(WeighingConfig, {"columns": {"time": "timestamp"}}, source="made events")
    recipe = ScaleRecipe(users=6_000, items=4_000, events=1_000_000, seed=seed, rank=16, weights=False)
    with tempfile.TemporaryDirectory() as folder:
        files = event_files(make_scale(Path(folder) / "made", recipe))
        interactions = interactions_of(read_events(files, **rules.columns.model_dump()), rules)
    rng, n = np.random.default_rng(seed), len(interactions.item_ids)
    counts = rng.integers(1, 5, n)
    genres = [np.sort(rng.choice(18, count, replace=False)) for count in counts]
    shares = np.repeat(1.0 / counts, counts).astype(np.float32)
    matrix = csr_matrix((shares, np.concatenate(genres), np.r_[0, np.cumsum(counts)]), shape=(n, 18))
    column = FeatureColumn("genres", tuple(f"{value:02d}" for value in range(18)))
    return replace(interactions, features=SideFeatures(items=Features(matrix, (column,))))


def epoch_s(family: str, interactions: Interactions, *, threads: int, **change: object) -> float:
    """Seconds of the fastest epoch, of five."""
    times = [time.perf_counter()]

    def look(_: Epoch) -> bool:
        times.append(time.perf_counter())
        return True

    params = FAMILIES[family].defaults() | {"epochs": 5} | change
    fit(family, interactions, params=params, seed=0, threads=threads, on_epoch=look)
    return float(np.diff(times).min())


def epochs(*, seed: int, threads: int) -> None:
    """The table of seconds."""
    interactions = made(seed=seed)
    n_users, n_items = interactions.user_items.shape
    print(f"\n{n_users} users, {n_items} items, {interactions.user_items.nnz} pairs, 64 factors\n")
    print(f"{EPOCH.format(threads=threads)}\n|{'---|' * (EPOCH.count('|') - 1)}")
    for loss in LOSSES:
        for label, data in (("ids", replace(interactions, features=None)), ("ids, genres", interactions)):
            peer = epoch_s("bpr", interactions, threads=1)
            one, several = (epoch_s("hybrid", data, threads=n, loss=loss) for n in (1, threads))
            print(
                f"| hybrid, {loss} | {label} | {one:.2f} | {several:.2f} | {peer:.2f} | {one / peer:.2f}x |",
                flush=True,
            )


def main() -> None:
    """All four tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--movielens", type=Path, action="append", default=[])
    options = parser.parse_args()
    seeds, threads = [int(seed) for seed in options.seeds.split(",")], len(os.sched_getaffinity(0))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    print(f"commit {commit.stdout.strip()}, {platform.machine()}, {threads} CPUs, seeds {options.seeds}\n")
    found = [quality(folder, seeds) for folder in (None, *options.movielens)]
    for header, parts in zip((GENRES, SAME, NEW), zip(*found, strict=True), strict=True):
        lines = [header, f"|{'---|' * (header.count('|') - 1)}", *(line for part in parts for line in part)]
        print("\n".join(lines), end="\n\n")
    epochs(seed=seeds[0], threads=threads)


if __name__ == "__main__":
    main()
