"""Does a sweep pay, and what does a trial take in memory?

    make bench
    python benchmarks/sweep.py --seeds 0,1,2 --trials 24

The first table: on MovieLens 100K, every rating an event of weight 1, a sweep for each seed, and what its choice is
worth on the test split that no trial saw, beside `implicit`'s ALS at the library's own defaults and popularity;
differences are paired per user, with 95% intervals. The second: on made events, two trials of a family at once on one
node, each in a process of its own; of the second one the private memory at its peak, beyond what the process takes
empty and beyond its vectors, as a share of the CSR of train, which both map from the same files. Families that learn
from features have a category of each user and of each item beside the events.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from nightrank.batch.inputs import find_inputs, load_splits
from nightrank.batch.on_test import values_on_test
from nightrank.batch.run import Recipe
from nightrank.batch.split_files import open_split, save_splits
from nightrank.config.families import FAMILIES, Value
from nightrank.config.job import JobConfig
from nightrank.data.features import FeatureColumn, Features, SideFeatures
from nightrank.data.splits import Split
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.models import fit
from nightrank.quality.intervals import UserSums, estimates
from nightrank.release.store import LocalStore

MODELS: dict[str, Any] = {name: {} for name, family in FAMILIES.items() if family.searchable}
# A fifth of all ratings is held out: with one rating a user, the noise of 943 users hides differences of a tenth.
JOB: dict[str, Any] = {
    "events": {"dataset": "movielens-100k", "columns": {"weight": None}},
    "split": {"kind": "random_mask", "share": 0.2},
}
# fm and svd predict ratings, and there are none; hybrid knows metadata, which the others do not.
SEARCHED = {name: space for name, space in MODELS.items() if name not in ("fm", "hybrid", "svd")}
# `implicit`'s own defaults
LIBRARY: dict[str, Value] = {"factors": 100, "reg": 0.01, "alpha": 1.0, "epochs": 15}
COLUMNS = {"weight": "weight", "time": "timestamp"}  # of the made events
PAYS = "| seed | chosen | NDCG@10 on test | als, defaults | its difference | popularity | its difference | sweep, s |"
MEMORY = "| family | private memory of a second trial | share of the CSR |"


def pays(seed: int, *, trials: int, folder: Path) -> str:
    """A row of the first table."""
    from nightrank.batch.nightly import open_run, run_stages
    from nightrank.cli.night import some_cluster
    from nightrank.config.cluster import load_cluster

    given = JOB | {"store": str(folder / str(seed)), "seed": seed}
    job = JobConfig.model_validate(given | {"sweep": {"trials": trials, "models": SEARCHED}})
    run = open_run(job)
    with some_cluster():
        started = time.perf_counter()
        run_stages(run, load_cluster(), stages=("sweep",))
        seconds = time.perf_counter() - started
    winner = run.finished("sweep")["winner"]
    recipes = {
        "winner": Recipe(family=winner["family"], params=winner["params"]),
        "als": Recipe(family="als", params=LIBRARY),
        "popularity": Recipe(family="popularity", params={}),
    }
    found = values_on_test(job, find_inputs(job), list(recipes.values()), threads=2)
    values = dict(zip(recipes, found.values, strict=True))
    for peer in ("als", "popularity"):
        values[f"over {peer}"] = values["winner"] - values[peer]
    users = np.flatnonzero(~np.isnan(values["winner"]))
    measured = estimates({name: UserSums.of_values(one) for name, one in values.items()}, users, seed=seed)
    cells = [f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in measured.values()]
    params = ", ".join(f"{name} {value}" for name, value in winner["params"].items())
    means = [f"{measured[name].value:.4f}" for name in ("winner", "als", "popularity")]
    return (
        f"| {seed} | {winner['family']}: {params} | {means[0]} | {means[1]} | {cells[3]} | {means[2]} | {cells[4]} | "
        f"{seconds:.0f} |"
    )


def trial(folder: Path, family: str, pipe: Connection) -> None:
    """A fit in this process: says when it has all that is imported, and how large its vectors are."""
    features = FAMILIES[family].uses_features
    fit("popularity", open_split(LocalStore(folder), "warm", combine="sum").train, params={}, seed=0)
    few = {"factors": 16, "epochs": 3}  # so that the vectors, which every trial has, do not hide the rest
    params = {name: few.get(name, value) for name, value in FAMILIES[family].defaults().items()}
    small = open_split(LocalStore(folder), "warm", combine="sum", with_features=features)
    fit(family, small.train, params=params, seed=0)  # what is compiled or allocated once
    pipe.send(None)
    pipe.recv()
    split = open_split(LocalStore(folder), "split", combine="sum", with_features=features)
    model = fit(family, split.train, params=params, seed=0)
    pipe.send(model.user_vectors.nbytes + model.item_vectors.nbytes)
    pipe.recv()


def featured(split: Split) -> Split:
    """The same with one of twenty categories of every user and every item, at random."""
    rng = np.random.default_rng(0)
    column = FeatureColumn("group", tuple(f"group {n:02}" for n in range(20)))

    def side(n: int) -> Features:
        ones = np.ones(n, np.float32), rng.integers(20, size=n, dtype=np.int32), np.arange(n + 1)
        return Features(csr_matrix(ones, shape=(n, 20)), (column,))

    users, items = split.train.user_items.shape
    return replace(split, train=replace(split.train, features=SideFeatures(side(users), side(items))))


def anonymous_bytes(pid: int | None) -> int:
    """Memory of a process that no file backs: its own, whoever else maps the same files. Linux."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


def memory(folder: Path, family: str, csr_bytes: int) -> str:
    """A row of the second table."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=trial, args=(folder, family, child)) for _, child in pairs]
    for process in processes:
        process.start()
    pipes = [parent for parent, _ in pairs]
    for pipe in pipes:
        pipe.recv()
    second = processes[1].pid
    before = peak = anonymous_bytes(second)
    for pipe in pipes:
        pipe.send(None)
    while not pipes[1].poll():
        peak = max(peak, anonymous_bytes(second))
        time.sleep(0.005)
    own = peak - before - pipes[1].recv()
    pipes[0].recv()
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return f"| {family} | {max(own, 0) / 2**20:.1f} MiB | {max(own, 0) / csr_bytes:.0%} |"


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--trials", type=int, default=24)
    options = parser.parse_args()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    threads = len(os.sched_getaffinity(0))
    print(
        f"commit {commit.stdout.strip()}, {platform.machine()}, {threads} CPUs, {options.trials} trials a sweep\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.seeds:
            print(f"{PAYS}\n|{'---|' * (PAYS.count('|') - 1)}")
            for seed in options.seeds.split(","):
                print(pays(int(seed), trials=options.trials, folder=folder), flush=True)
        for made, (users, items, events) in {
            "split": (60_000, 41_000, 5_000_000),
            "warm": (500, 400, 9_000),
        }.items():
            recipe = ScaleRecipe(users=users, items=items, events=events, seed=0, rank=16, weights=True)
            path = make_scale(folder / f"{made}-events", recipe)
            job = JobConfig.model_validate({"store": name, "events": {"path": str(path), "columns": COLUMNS}})
            splits = load_splits(job, find_inputs(job), families=["als"])
            with_features = {how: featured(split) for how, split in splits.items()}
            save_splits(LocalStore(folder), made, splits=splits, with_features=with_features)
        matrix = open_split(LocalStore(folder), "split", combine="sum").train.user_items
        csr_bytes = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
        print(f"\nCSR of train: {csr_bytes / 2**20:.1f} MiB, {matrix.nnz} pairs\n\n{MEMORY}\n|{'---|' * 3}")
        for family in MODELS:
            print(memory(folder, family, csr_bytes), flush=True)


if __name__ == "__main__":
    main()
