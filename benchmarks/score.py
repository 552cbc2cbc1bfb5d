"""The score stage in a running driver beside the least that it could cost.

    make bench
    python benchmarks/score.py --users 160000 --items 60000 --factors 128 --k 100

The stage: from its start to the last bucket's record, recommendations alone, with Ray running and joined, and actors
as the shipped cluster.yaml has them. The least: the engine alone over all users, on as many threads as the stage has
in all, plus one plain pyarrow write (zstd) of the same rows, into one file, by one process. Neither of these hashes,
syncs, or keeps the lists as arrays for serving; the stage does. Every round is stage, engine and write in turn, and
the ratio is the stage's seconds over the sum of the other two. In the first round Ray has no worker process with the
libraries loaded yet, as in a night.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_runs import machine, made_run, score_users

from nightrank.batch.run import Run
from nightrank.config.cluster import ActorTable, load_cluster
from nightrank.ranking import TopK
from nightrank.ranking.ranker import Ranker
from nightrank.release.model_files import ModelFiles, open_model
from nightrank.release.tables import list_rows, recommendations_schema

HEADER = "| round | stage, s | engine alone, s | one plain write, s | stage / (engine + write) | lists/s |"


def engine(model: ModelFiles, *, k: int, threads: int) -> tuple[float, TopK]:
    """Seconds of the engine alone, prepared anew from the saved arrays, and what it found."""
    started = time.perf_counter()
    ranker = Ranker(index=model.item_index(threads=threads), user_vectors=model.user_vectors, seen=model.seen)
    topk = ranker.rank(slice(0, model.card.n_users), k)
    return time.perf_counter() - started, topk


def plain_write(path: Path, topk: TopK, model: ModelFiles) -> float:
    """Seconds of writing the same rows as one file; making the rows is not counted."""
    schema = recommendations_schema(model.card.user_id_type, model.card.item_id_type)
    owners = model.user_ids.take(np.arange(model.card.n_users))
    table = pa.Table.from_batches([list_rows(topk, owners=owners, item_ids=model.item_ids, schema=schema)])
    started = time.perf_counter()
    pq.write_table(table, path, compression="zstd")
    return time.perf_counter() - started


def same_rows(run: Run, plain: Path) -> None:
    """Stops where the stage and the plain file differ in any row."""
    folder = Path(run.store.url) / f"releases/{run.record.release}/recommendations"
    start = 0
    with pq.ParquetFile(plain) as whole:
        rows = whole.read()
    for file in sorted(folder.iterdir()):
        with pq.ParquetFile(file) as opened:
            part = opened.read()
        if not part.equals(rows.slice(start, len(part))):
            raise SystemExit(f"{file.name} differs from what the engine says")
        start += len(part)
    if start != len(rows):
        raise SystemExit(f"the stage wrote {start} rows of {len(rows)}")


def rounds(run: Run, actors: ActorTable, *, n_rounds: int) -> None:
    """The table: a row a round, and the middle of the ratios."""
    model = open_model(run.store, run.name("model"))
    k = run.job.score.k
    threads = actors.scorer.max_count * max(1, int(actors.scorer.num_cpus))
    plain = Path(run.store.url) / "plain.parquet"
    engine(model, k=k, threads=threads)  # compiles, and brings the model into the page cache
    print(f"{threads} threads each\n\n{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")
    ratios = []
    for number in range(1, n_rounds + 1):
        whole = score_users(run, actors)
        alone, topk = engine(model, k=k, threads=threads)
        written = plain_write(plain, topk, model)
        ratios.append(whole / (alone + written))
        speed = model.card.n_users / whole
        print(
            f"| {number} | {whole:.2f} | {alone:.2f} | {written:.2f} | {ratios[-1]:.2f}x | {speed:,.0f} |",
            flush=True,
        )
    same_rows(run, plain)
    print(f"\nmiddle of the ratios: {statistics.median(ratios):.2f}x")


def main() -> None:
    """Make the model, start a cluster, time, print."""
    from nightrank.cluster.local import applied_env, local_cluster
    from nightrank.cluster.session import joined

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=160_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--seen", type=int, default=60, help="items that each user has seen")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("users", "items", "factors", "k", "seen", "seed")}
    actors = load_cluster()
    print(f"{machine()}, " + ", ".join(f"{name} {value}" for name, value in sizes.items()))
    with tempfile.TemporaryDirectory() as name:
        run = made_run(Path(name) / "run", **sizes)
        with (
            local_cluster(home=Path(name) / "home") as cluster,
            applied_env(cluster),
            joined(cluster.address),
        ):
            rounds(run, actors, n_rounds=options.rounds)


if __name__ == "__main__":
    main()
