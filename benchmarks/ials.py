"""ials beside `implicit`'s ALS, in one run: seconds of an epoch, and what a few epochs give on held-out pairs.

    make bench
    python benchmarks/ials.py --factors 64,128 --repeats 2

Made events (`data synth scale --users 30000 --items 41000 --events 1000000`). The peer is the library's default,
three steps of conjugate gradient, with as many threads. A ratio is ials over the peer: 1.5x says that ials takes
half as long again. Epochs of the two alternate and the fastest of each counts, since seconds drift with the
machine. The figures of quality are of untuned parameters, each family's defaults, with the same number of epochs:
they say that the fits work, not which family is better.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.config.events import WeighingConfig
from nightrank.config.families import FAMILIES
from nightrank.config.split import SplitConfig
from nightrank.config.strict import validate
from nightrank.data.events import event_files, read_events
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.pools import Pool
from nightrank.data.splits import hold_out
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.models import fit
from nightrank.models.ials import BLOCK, Objective, cells_of, gramian, solve
from nightrank.quality.evaluation import per_user

FACTORS = "64,128,256,512,1024"
EPOCHS, K = 8, 20
EPOCH = "| factors | ials, s an epoch | `implicit`, s an epoch | ratio | ials against half the factors |"
QUALITY = "| family | factors | NDCG@20 | recall@20 |"


def made(*, seed: int) -> Interactions:
    """30,000 users x 41,000 items, 1,000,000 events."""
    rules = validate(WeighingConfig, {"columns": {"time": "timestamp"}}, source="made events")
    recipe = ScaleRecipe(users=30_000, items=41_000, events=1_000_000, seed=seed, rank=16, weights=False)
    with tempfile.TemporaryDirectory() as folder:
        files = event_files(make_scale(Path(folder) / "made", recipe))
        return interactions_of(read_events(files, **rules.columns.model_dump()), rules)


def ials_epoch(matrix: csr_matrix, d: int, *, seed: int, threads: int) -> Callable[[], None]:
    """A function that goes on by one epoch."""
    defaults = FAMILIES["ials"].defaults()
    objective = Objective(*(float(defaults[name]) for name in ("reg", "unobserved_weight", "nu")))
    by_user, by_item = cells_of(matrix), cells_of(matrix.T.tocsr())
    rng = np.random.default_rng(seed)
    sides = [rng.normal(0.0, 0.1 / np.sqrt(d), (n, d)).astype(np.float32) for n in matrix.shape]

    def epoch() -> None:
        for cells, own, other in ((by_user, 0, 1), (by_item, 1, 0)):
            squares = gramian(sides[other], threads=threads)
            given = {"gramian": squares, "objective": objective, "threads": threads}
            sides[own] = solve(cells, sides[own], sides[other], **given)

    return epoch


def implicit_epoch(matrix: csr_matrix, d: int, *, seed: int, threads: int) -> Callable[[], float]:
    """A function that returns the seconds of one epoch, without the library's preparation."""
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(factors=d, iterations=1, num_threads=threads, random_state=seed)

    def epoch() -> float:
        found: list[float] = []
        with threadpool_limits(limits=1, user_api="blas"):
            model.fit(matrix, show_progress=False, callback=lambda _, seconds, *__: found.append(seconds))
        return found[0]

    return epoch


def epochs(matrix: csr_matrix, factors: list[int], *, seed: int, threads: int, repeats: int) -> None:
    """The table of seconds."""
    print(f"{EPOCH}\n|{'---|' * (EPOCH.count('|') - 1)}")
    before: dict[int, float] = {}
    for d in factors:
        own = ials_epoch(matrix, d, seed=seed, threads=threads)
        peer = implicit_epoch(matrix, d, seed=seed, threads=threads)
        own()  # the first one starts from noise, and compiles
        seconds, peers = [], []
        for _ in range(repeats):
            started = time.perf_counter()
            own()
            seconds.append(time.perf_counter() - started)
            peers.append(peer())
        before[d] = min(seconds)
        half = f"{before[d] / before[d // 2]:.1f}x" if d // 2 in before else ""
        ratio = f"{min(seconds) / min(peers):.2f}x"
        print(f"| {d} | {min(seconds):.2f} | {min(peers):.2f} | {ratio} | {half} |", flush=True)


def quality(interactions: Interactions, factors: list[int], *, seed: int, threads: int) -> None:
    """The table of metrics: each user's last pair held out."""
    pool = Pool({"sum": interactions}, how=SplitConfig(kind="leave_last", n=1), seed=seed)
    held_out = hold_out(pool).splits["sum"]
    print(f"\n{QUALITY}\n|{'---|' * (QUALITY.count('|') - 1)}")
    recipes = [("popularity", 0)] + [(family, d) for family in ("als", "ials") for d in factors]
    for family, d in recipes:
        params = FAMILIES[family].defaults() | ({"factors": d, "epochs": EPOCHS} if d else {})
        model = fit(family, held_out.train, params=params, seed=seed, threads=threads)
        given = {"k": K, "truth": held_out.truth, "threads": threads}
        found = [np.nanmean(per_user(model, held_out, metric=name, **given)) for name in ("ndcg", "recall")]
        print(f"| {family} | {d or ''} | {found[0]:.4f} | {found[1]:.4f} |", flush=True)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--factors", default=FACTORS)
    parser.add_argument("--quality-factors", default="64,128,256")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    machine = f"{platform.machine()}, {threads} CPUs"
    interactions = made(seed=options.seed)
    print(
        f"commit {commit.stdout.strip()}, {machine}, seed {options.seed}, {interactions.user_items.shape[0]} users, "
        f"{interactions.user_items.shape[1]} items, {interactions.user_items.nnz} pairs, blocks of {BLOCK}\n"
    )
    given = {"seed": options.seed, "threads": threads}
    factors = [int(d) for d in options.factors.split(",")]
    epochs(interactions.user_items, factors, repeats=options.repeats, **given)
    quality(interactions, [int(d) for d in options.quality_factors.split(",")], **given)


if __name__ == "__main__":
    main()
