"""svd on MovieLens 100K: what a larger k costs in seconds, and what it gives.

    make bench
    python benchmarks/svd.py --factors 10,50 --seed 3

The published tutorial that `svd` stands for shows seconds by k and no quality. Here both stand beside each other:
the seconds of the fit, as a ratio to the first k too, and NDCG@10 and RMSE, with 95% intervals, on 10 random ratings
held out of every user; popularity, and a user's mean as the prediction, are what they must beat. k above 943 is all
there is: the matrix has 943 users. Fits of all k alternate and the fastest of each counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time

from nightrank.config.events import WeighingConfig
from nightrank.config.locations import nightrank_home
from nightrank.config.split import SplitConfig
from nightrank.data.datasets import fetch
from nightrank.data.events import read_events
from nightrank.data.pools import pool_of
from nightrank.data.splits import Split, hold_out
from nightrank.models import FactorModel, fit
from nightrank.quality.evaluation import evaluate
from nightrank.quality.names import parse_metrics

NAME = "movielens-100k"
COLUMNS = {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"}
TABLE = "| k | fit, s | against the first | NDCG@10 | RMSE |"


def held_out(*, seed: int) -> Split:
    """10 random ratings of every user that has more."""
    rules = WeighingConfig.model_validate({"columns": COLUMNS})
    events = read_events([fetch(NAME, nightrank_home() / "data" / NAME).events], **COLUMNS, type=None)
    how = SplitConfig(kind="per_user", n=10)
    pool = pool_of(events, rules, how=how, seed=seed, defaults=("last",))
    return next(iter(hold_out(pool).splits.values()))


def measured(model: FactorModel, split: Split, metrics: str, *, seed: int) -> list[str]:
    """Value and interval of each metric, as cells of a table."""
    found = evaluate(
        model, train=split.train.user_items, truth=split.truth, metrics=parse_metrics(metrics), seed=seed
    ).metrics.values()
    return [f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in found]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--factors", default="10,50,100,500,1000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    threads = len(os.sched_getaffinity(0))
    split = held_out(seed=options.seed)
    n_users, n_items = split.train.user_items.shape
    print(
        f"commit {commit.stdout.strip()}, {platform.machine()}, {threads} CPUs, seed {options.seed}, {NAME}: "
        f"{n_users} users, {n_items} items, {split.train.user_items.nnz} ratings in train, "
        f"{split.truth.nnz} held out\n"
    )
    factors = [int(k) for k in options.factors.split(",")]
    seconds: dict[int, list[float]] = {k: [] for k in factors}
    models = {}
    for _ in range(options.repeats):
        for k in factors:
            started = time.perf_counter()
            models[k] = fit("svd", split.train, params={"factors": k}, seed=options.seed)
            seconds[k].append(time.perf_counter() - started)
    print(f"{TABLE}\n|{'---|' * (TABLE.count('|') - 1)}")
    popular = fit("popularity", split.train, params={}, seed=options.seed)
    print(f"| popularity | | | {measured(popular, split, 'ndcg@10', seed=options.seed)[0]} | |")
    means = fit("svd", split.train, params={"factors": 1}, seed=options.seed)
    means.item_vectors[:] = 0
    print(f"| 0: the user's mean | | | | {measured(means, split, 'rmse', seed=options.seed)[0]} |")
    for k in factors:
        best = min(seconds[k])
        cells = " | ".join(measured(models[k], split, "ndcg@10,rmse", seed=options.seed))
        print(f"| {k} | {best:.2f} | {best / min(seconds[factors[0]]):.1f}x | {cells} |", flush=True)


if __name__ == "__main__":
    main()
