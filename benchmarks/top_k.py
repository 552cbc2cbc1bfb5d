"""The exact engine beside its peers, in one run: top-k of all users, seen items left out where the peer can.

    make bench

Vectors are `implicit`'s ALS on synthetic events (Zipf items, log-normal activity, latent taste). Every figure
is a ratio to the engine in the same run; absolute seconds drift with the machine. Peers: `implicit`'s own
recommend, numpy's product + argpartition + sort, and the bare product in preallocated tiles on two threads.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.ranking import ItemIndex

TILE_USERS, TILE_ITEMS = 512, 4096
Vectors = NDArray[np.float32]


def synthetic(n_users: int, n_items: int, n_events: int, *, seed: int) -> csr_matrix:
    """Users x items, weights 1: an item is drawn by popularity times affinity of 16 latent tastes."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0.0, 1.0, n_users)
    counts = rng.poisson(activity / activity.sum() * n_events)
    tastes = rng.integers(16, size=n_users)
    home = rng.integers(16, size=n_items)
    popularity = 1.0 / np.arange(1, n_items + 1) ** 0.8
    users, items = [], []
    for taste in range(16):
        weights = popularity * np.where(home == taste, 8.0, 1.0)
        owners = np.repeat(np.flatnonzero(tastes == taste), counts[tastes == taste])
        users.append(owners)
        items.append(rng.choice(n_items, size=len(owners), p=weights / weights.sum()))
    rows, columns = np.concatenate(users), np.concatenate(items)
    matrix = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(n_users, n_items))
    matrix.data[:] = 1.0
    return matrix


def timed(run: Callable[[], object], *, repeats: int = 3) -> float:
    """The best of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def bare_product(users: Vectors, items: Vectors, *, threads: int) -> None:
    """The matrix product alone, in preallocated tiles, one BLAS thread in each of our threads."""
    tiles = [np.empty((TILE_USERS, TILE_ITEMS), dtype=np.float32) for _ in range(threads)]

    def work(which: int) -> None:
        for start in range(which * TILE_USERS, len(users), threads * TILE_USERS):
            part = users[start : start + TILE_USERS]
            for first in range(0, len(items), TILE_ITEMS):
                block = items[first : first + TILE_ITEMS]
                np.matmul(part, block.T, out=tiles[which][: len(part), : len(block)])

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def argpartition(users: Vectors, items: Vectors, *, k: int) -> None:
    """What most code does: product, argpartition, sort of the k."""
    for start in range(0, len(users), TILE_USERS):
        scores = users[start : start + TILE_USERS] @ items.T
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1)), axis=1)


def main() -> None:
    """Fit, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--items", type=int, default=41_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(f"{platform.machine()}, {threads} CPUs, commit {commit.stdout.strip() or '?'}, seed {options.seed}")
    seen = synthetic(options.users, options.items, options.events, seed=options.seed)
    print(f"{seen.shape[0]} users x {seen.shape[1]} items, {seen.nnz} pairs; ALS, 3 epochs")
    print(
        "   d    k   engine s   implicit   argpartition   bare product   (ratios to the engine; > 1: slower)"
    )
    for d in (64, 128):
        with threadpool_limits(limits=1, user_api="blas"):
            model = AlternatingLeastSquares(factors=d, iterations=3, random_state=options.seed)
            model.fit(seen, show_progress=False)
        users, items = model.user_factors, model.item_factors
        index = ItemIndex(items, threads=threads)
        everybody = np.arange(len(users))
        product = timed(lambda u=users, v=items: bare_product(u, v, threads=threads))
        for k in (10, 100):
            engine = timed(lambda i=index, u=users, n=k: i.top_k(u, n, exclude=seen))
            peer = timed(lambda m=model, e=everybody, n=k: m.recommend(e, seen, N=n), repeats=1)
            plain = timed(lambda u=users, v=items, n=k: argpartition(u, v, k=n), repeats=1)
            ratios = f"{peer / engine:9.2f}x {plain / engine:13.2f}x {product / engine:13.2f}x"
            print(f"{d:4d} {k:4d} {engine:10.2f} {ratios}")


if __name__ == "__main__":
    main()
