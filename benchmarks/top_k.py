"""The exact engine beside its peers, in one run: top-k of all users. Every figure but the seconds is a ratio.

    make bench
    python benchmarks/top_k.py --events FOLDER --columns user=USER,item=ITEM --vectors als:64,ials:256 --ks 10,100
    python benchmarks/top_k.py --plot docs/engine.svg

A ratio is the peer's time for a user over the engine's: 2.0x says that the peer takes twice as long. The engine, the
peers named `implicit` and the bare product do all users; slower peers do the first 2,000. Only the engine and
`implicit` leave out what a user has seen. Seconds drift with the machine; compare ratios.
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

import faiss
import numpy as np
import peers
import vectors
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.config.events import WeighingConfig
from nightrank.config.strict import validate
from nightrank.data.events import event_files, read_events
from nightrank.data.interactions import interactions_of
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.ranking import ItemIndex

VECTORS = "als:64,als:128,ials:256,ials:512,gauss:64,gauss:128"
HEADER = (
    "| vectors | k | engine, s | implicit | bare product | faiss flat | argpartition | HNSW | full sort |"
    " HNSW recall, build | screened | prepare, s |"
)
ALONE = "| vectors | k | µs | numpy product + argpartition | µs a user in a batch |"
SIZED = "| vectors | items | d | k = 1 | k = 10 | k = 100 |"
SOME = 2_000  # users that a slow peer is timed on
SIZES = ((4_000, 64), (40_000, 16), (40_000, 64), (40_000, 512), (400_000, 64))


def seen_items(events: str | None, columns: str, *, seed: int) -> tuple[str, csr_matrix]:
    """A name and the interactions: of some files, or made ones, 30,000 users x 41,000 items x 1,000,000 events."""
    roles = {"user": "user_id", "item": "item_id"} | dict(
        pair.split("=") for pair in columns.split(",") if pair
    )
    rules = validate(WeighingConfig, {"columns": roles}, source="--columns")
    with tempfile.TemporaryDirectory() as folder:
        if events is None:
            recipe = ScaleRecipe(
                users=30_000, items=41_000, events=1_000_000, seed=seed, rank=16, weights=False
            )
            files, name = event_files(make_scale(Path(folder) / "made", recipe)), "scale"
        else:
            files, name = event_files(events), Path(events).stem
        found = interactions_of(read_events(files, **rules.columns.model_dump()), rules)
    matrix = found.user_items
    matrix.data[:] = 1.0
    return name, matrix


def timed(run: Callable[..., object], *arguments: object, repeats: int = 3, **options: object) -> float:
    """The best of some runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run(*arguments, **options)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def all_users(name: str, seen: csr_matrix, ks: list[int], *, data: str, seed: int, threads: int) -> None:
    """One kind of vectors, every k, every peer."""
    family, d = name.split(":")
    users, items = vectors.fitted(family, seen, int(d), data=data, seed=seed)
    prepared = timed(ItemIndex, items, threads=threads, repeats=1)
    index, some = ItemIndex(items, threads=threads), users[:SOME]
    share = len(users) / len(some)
    product = timed(peers.bare_product, users, items, threads=threads)
    flat, started = peers.flat(items), time.perf_counter()
    graph = peers.hnsw(items)
    build = time.perf_counter() - started
    for k in ks:
        exact, screened = index.search(some, k)
        found = graph(some, k)
        recall = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact.item_rows, found, strict=True)])
        engine = timed(index.top_k, users, k, exclude=seen)
        _, screened = index.search(users, k, exclude=seen)
        ratios = [
            timed(peers.implicit_recommend, users, items, seen, k, threads=threads, repeats=2),
            product,
            share * timed(flat, some, k, repeats=2),
            share * timed(peers.argpartition, some, items, k, repeats=2),
            share * timed(graph, some, k, repeats=2),
            share * 4 * timed(peers.full_sort, users[: SOME // 4], items, k, repeats=1),
        ]
        columns = " | ".join(f"{seconds / engine:.1f}x" for seconds in ratios)
        rest = f"{recall:.2f}, {build:.1f} s | {screened / len(users) / len(items):.1%} | {prepared:.2f}"
        print(f"| {name} | {k} | {engine:.3f} | {columns} | {rest} |", flush=True)


def one_user(name: str, seen: csr_matrix, *, data: str, seed: int) -> None:
    """A single user, as a live request is: microseconds, and numpy's product + argpartition beside it."""
    family, d = name.split(":")
    users, items = vectors.fitted(family, seen, int(d), data=data, seed=seed)
    index = ItemIndex(items, threads=1)
    alone = users[:1]
    for k in (10, 100):
        engine = timed(index.top_k, alone, k, repeats=300)
        with threadpool_limits(limits=1, user_api="blas"):
            peer = timed(peers.argpartition, alone, items, k, repeats=300)
        batch = timed(index.top_k, users[:SOME], k) / SOME
        print(f"| {name} | {k} | {1e6 * engine:.0f} | {peer / engine:.1f}x | {1e6 * batch:.1f} |", flush=True)


def sizes(*, seed: int, threads: int) -> None:
    """Drawn vectors of many sizes against the bare product: where skipping helps, and where it cannot."""
    for n_items, d in SIZES:
        for family in ("skewed", "gauss"):
            users, items = vectors.drawn(family, (SOME, n_items), d, seed=seed)
            index = ItemIndex(items, threads=threads)
            product = timed(peers.bare_product, users, items, threads=threads)
            ratios = []
            for k in (1, 10, 100):
                engine = timed(index.top_k, users, k)
                _, screened = index.search(users, k)
                ratios.append(f"{product / engine:.1f}x ({screened / len(users) / n_items:.0%})")
            print(f"| {family} | {n_items:,} | {d} | {' | '.join(ratios)} |", flush=True)


def plot(file: str, names: list[str], seen: csr_matrix, *, data: str, seed: int) -> None:
    """The share of the catalogue that is screened, by k."""
    import matplotlib.pyplot as plt

    ks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name in names:
        family, d = name.split(":")
        users, items = vectors.fitted(family, seen, int(d), data=data, seed=seed)
        index = ItemIndex(items)
        some = users[:SOME]
        shares = [index.search(some, k, exclude=seen[:SOME])[1] / len(some) / len(items) for k in ks]
        axes.plot(ks, shares, marker="o", label=f"{family}, d = {d}")
    axes.set(xscale="log", xlabel="k", ylabel="share of the catalogue screened", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "nightrank"
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Fit, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", help="a file, folder or glob of events; made ones where not given")
    parser.add_argument("--columns", default="", help="user=NAME,item=NAME of these events")
    parser.add_argument("--vectors", default=VECTORS, help="family:d,...: als, ials, gauss or skewed")
    parser.add_argument("--ks", default="1,10,100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", help="write the plot of the share screened to this file, and nothing else")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    faiss.omp_set_num_threads(threads)
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "?"
    data, seen = seen_items(options.events, options.columns, seed=options.seed)
    names = options.vectors.split(",")
    if options.plot:
        plot(options.plot, names, seen, data=data, seed=options.seed)
        return
    print(f"{_cpu()}, {threads} CPUs, commit {commit}, seed {options.seed}")
    print(f"{data}: {seen.shape[0]} users x {seen.shape[1]} items, {seen.nnz} pairs\n")
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    for name in names:
        all_users(
            name,
            seen,
            [int(k) for k in options.ks.split(",")],
            data=data,
            seed=options.seed,
            threads=threads,
        )
    print(f"\none user, one thread each\n\n{ALONE}\n|---|---|---|---|---|")
    for name in names:
        one_user(name, seen, data=data, seed=options.seed)
    if options.events is None:
        print(
            f"\ndrawn vectors, the bare product as a ratio (share screened)\n\n{SIZED}\n|---|---|---|---|---|---|"
        )
        sizes(seed=options.seed, threads=threads)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
