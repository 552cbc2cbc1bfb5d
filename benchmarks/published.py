"""MovieLens 100K beside a published table: the recommenders project, 75/25 by user, top 10 of the whole catalogue.

    make bench
    python benchmarks/published.py --seed 3 --out .nightrank/bench/ml100k

Source: github.com/recommenders-team/recommenders, README.md, "Algorithm Comparison" (2023): 75% of each user's
ratings at random to train on, 15 epochs, k = 10, all held-out items relevant. Its split itself is not published, so
ours is drawn anew, by the same rule. Its MAP has another divisor than ours (docs/evaluation.md) and is left out. Ours
take every rating for an event of weight 1. als and bpr have their defaults; the parameters of ials are the best of a
grid on a validation part, 25% of train. --out keeps train.parquet and test.parquet for `nightrank evaluate`.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.config.events import WeighingConfig
from nightrank.config.families import FAMILIES
from nightrank.config.locations import nightrank_home
from nightrank.data.datasets import fetch
from nightrank.data.events import table_events
from nightrank.data.given import given_split
from nightrank.data.interactions import interactions_of
from nightrank.models import fit
from nightrank.quality.evaluation import evaluate
from nightrank.quality.names import parse_metrics

NAME = "movielens-100k"
PUBLISHED = {
    "ALS (Spark)": ("0.0442", "0.0485", "0.0178"),
    "SVD (Surprise)": ("0.0959", "0.0912", "0.0328"),
    "SAR": ("0.3825", "0.3308", "0.1764"),
    "NCF": ("0.3961", "0.3473", "0.1808"),
    "LightGCN": ("0.4198", "0.3796", "0.1443"),
    "BPR (Cornac)": ("0.4420", "0.3882", "0.2125"),
    "BiVAE": ("0.4751", "0.4118", "0.2191"),
}
METRICS = "ndcg@10,precision@10,recall@10"
GRID = {"factors": (64,), "reg": (0.003, 0.01, 0.02, 0.03), "unobserved_weight": (0.03, 0.1, 0.3, 1.0)}
TABLE = "| model | NDCG@10 | precision@10 | recall@10 |"


def parts(events: pa.Table, *, seed: int) -> tuple[pa.Table, pa.Table]:
    """Of each user's rows, in id order, a random quarter (rounded) as the second table."""
    events = events.sort_by([("user_id", "ascending"), ("item_id", "ascending")])
    users, rng = events["user_id"].to_numpy(), np.random.default_rng(seed)
    is_test = np.zeros(len(users), dtype=np.bool_)
    for rows in np.split(np.arange(len(users)), np.flatnonzero(np.diff(users)) + 1):
        is_test[rng.choice(rows, round(0.25 * len(rows)), replace=False)] = True
    return events.filter(pa.array(~is_test)), events.filter(pa.array(is_test))


def measured(
    family: str, params: Mapping[str, float], train: pa.Table, test: pa.Table, *, seed: int
) -> list[float]:
    """The metrics of a family fitted on train."""
    names = {"user": "user_id", "item": "item_id", "weight": None, "time": None, "type": None}
    seen, held_out = (
        interactions_of(table_events(part, **names), WeighingConfig()) for part in (train, test)
    )
    split = given_split(seen, held_out)
    model = fit(family, seen, params=FAMILIES[family].defaults() | dict(params), seed=seed, threads=2)
    found = evaluate(
        model, train=seen.user_items, truth=split.truth, metrics=parse_metrics(METRICS), seed=seed
    )
    return [one.value for one in found.metrics.values()]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    seed = options.seed
    events = pq.read_table(fetch(NAME, nightrank_home() / "data" / NAME).events)
    train, test = parts(events.select(["user_id", "item_id"]), seed=seed)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        pq.write_table(train, options.out / "train.parquet")
        pq.write_table(test, options.out / "test.parquet")
    inner = parts(train, seed=seed)
    recipes = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    best = max(recipes, key=lambda params: measured("ials", params, *inner, seed=seed)[0])
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    print(
        f"commit {commit.stdout.strip()}, seed {seed}, {NAME}: {len(train)} ratings in train, {len(test)} in test"
    )
    print(
        f"ials, best of {len(recipes)} on validation: {best}\n\n{TABLE}\n|{'---|' * (TABLE.count('|') - 1)}"
    )
    for name, values in PUBLISHED.items():
        print(f"| published: {name} | {' | '.join(values)} |")
    for family, params in (("popularity", {}), ("als", {}), ("bpr", {}), ("ials", {}), ("ials", best)):
        name = (
            f"{family}, chosen on validation"
            if params
            else family
            if family == "popularity"
            else f"{family}, defaults"
        )
        values = measured(family, params, train, test, seed=seed)
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
