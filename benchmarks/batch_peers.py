"""All users' lists into Parquet: the score stage, `implicit` with pandas, and Spark's recommendForAllUsers.

    make bench
    python benchmarks/batch_peers.py --users 60000 --items 20000 --events 3000000

The same events (`nightrank data synth scale`), rank and k for all; scoring and writing are timed, fits are not. The
stage and `implicit` share one model and leave out what a user has seen. Spark fits a model of its own (implicit
preferences) on the same pairs; it cannot leave out seen items, so its lists are the easier ones to make, and it
multiplies in Java where the machine has no BLAS library for it. Each has all CPUs of the machine: the stage as the
shipped cluster.yaml says, Spark as local[CPUs]. Starting Ray or the JVM is not in the seconds; starting the stage's
actors is, two seconds of it, and up to 20,000 users are one bucket, which one of them does alone. Spark needs what
`make soak` installs, and Java 17; where one is missing the script says so and ends with 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from implicit.cpu.als import AlternatingLeastSquares
from made_runs import machine, run_in, score_users
from threadpoolctl import threadpool_limits

from nightrank.batch.inputs import load_interactions
from nightrank.batch.run import Run
from nightrank.config.cluster import load_cluster
from nightrank.data.interactions import Interactions
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.models.factor_model import factor_model
from nightrank.release.model_files import default_buckets, save_model

HEADER = "| what | lists + Parquet, s | rows | rows/s | against the stage | Parquet, MB |"
EPOCHS = 5
MODEL = {"seed": 0, "reg": 0.01, "alpha": 1.0}


def library(model: AlternatingLeastSquares, data: Interactions, k: int, out: Path, *, threads: int) -> float:
    """Seconds of `recommend` for all users and of to_parquet: what a notebook does."""
    users, items = data.user_ids.column.to_numpy(), data.item_ids.column.to_numpy()
    model.num_threads = threads
    started = time.perf_counter()
    with threadpool_limits(limits=1, user_api="blas"):
        rows, scores = model.recommend(np.arange(len(users)), data.user_items, N=k)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(users, k),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(users)),
            "item_id": items[rows.ravel()],
            "score": scores.ravel(),
        }
    )
    out.mkdir()
    frame.to_parquet(out / "lists.parquet", compression="zstd")
    return time.perf_counter() - started


def spark(pairs: Path, k: int, factors: int, out: Path, *, threads: int) -> float:
    """Seconds of recommendForAllUsers and of writing its rows, flat as the others', after its own fit."""
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as sql

    session = (
        SparkSession.builder.master(f"local[{threads}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .config("spark.sql.shuffle.partitions", str(4 * threads))
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    try:
        events = session.read.parquet(str(pairs)).cache()
        model = ALS(
            rank=factors,
            maxIter=EPOCHS,
            regParam=MODEL["reg"],
            implicitPrefs=True,
            seed=MODEL["seed"],
            userCol="user_id",
            itemCol="item_id",
            ratingCol="weight",
        ).fit(events)
        model.userFactors.cache().count()
        model.itemFactors.cache().count()
        started = time.perf_counter()
        lists = model.recommendForAllUsers(k)
        flat = lists.select("user_id", sql.posexplode("recommendations").alias("place", "one")).select(
            "user_id",
            (sql.col("place") + 1).alias("rank"),
            sql.col("one.item_id").alias("item_id"),
            sql.col("one.rating").alias("score"),
        )
        flat.write.parquet(str(out))
        return time.perf_counter() - started
    finally:
        session.stop()


def missing_of_spark() -> str | None:
    """What Spark lacks here, None where it can run."""
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed (pip install pyspark)"
    java = shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin:{os.environ.get('PATH', '')}")
    return None if java is not None else "there is no Java (a JDK 17, and JAVA_HOME or PATH that name it)"


def stage(run: Run) -> float:
    """Seconds of the score stage over the users, in a driver that has joined; the better of two."""
    from nightrank.cluster.local import applied_env, local_cluster
    from nightrank.cluster.session import joined

    with (
        tempfile.TemporaryDirectory() as home,
        local_cluster(home=Path(home)) as cluster,
        applied_env(cluster),
        joined(cluster.address),
    ):
        return min(score_users(run, load_cluster()) for _ in range(2))


def report(name: str, seconds: float, folder: Path, *, own: float | None) -> None:
    """A row of the table."""
    files = sorted(folder.glob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    size = sum(file.stat().st_size for file in files) / 1e6
    ratio = "" if own is None else f"{seconds / own:.1f}x"
    print(f"| {name} | {seconds:.2f} | {rows:,} | {rows / seconds:,.0f} | {ratio} | {size:.0f} |", flush=True)


def main() -> None:
    """Events, one fit, three ways to the lists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, value in {
        "users": 60_000,
        "items": 20_000,
        "events": 3_000_000,
        "factors": 64,
        "k": 100,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    print(f"{machine()}, " + ", ".join(f"{name} {value}" for name, value in vars(options).items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = ScaleRecipe(
            users=options.users, items=options.items, events=options.events, seed=options.seed
        )
        made = make_scale(folder / "made", recipe)
        pq.write_table(pq.read_table(made), folder / "events.parquet")
        run = run_in(folder, k=options.k, seed=options.seed)
        data = load_interactions(run.job, run.inputs, family="als")
        with threadpool_limits(limits=1, user_api="blas"):
            model = AlternatingLeastSquares(
                factors=options.factors, iterations=EPOCHS, regularization=MODEL["reg"], random_state=0
            )
            model.fit(data.user_items, show_progress=False)
        vectors = factor_model("als", {}, users=model.user_factors, items=model.item_factors)
        buckets = default_buckets(len(data.user_ids))
        save_model(
            vectors,
            data,
            store=run.store,
            key=run.name("model"),
            n_buckets=buckets,
            seed=options.seed,
        )
        run.put_json("stages/train.json", {"seconds": 0.0})
        print(f"{len(data.user_ids):,} users, {len(data.item_ids):,} items, {data.user_items.nnz:,} pairs\n")
        print(f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")
        own = stage(run)
        lists = Path(run.store.url) / f"releases/{run.record.release}/recommendations"
        report("score stage", own, lists, own=own)
        peers: dict[str, Callable[[Path], float]] = {
            "`implicit`, pandas": lambda out: library(model, data, options.k, out, threads=threads),
            "Spark, seen items not left out": lambda out: spark(
                pairs_file(data, folder / "pairs.parquet"), options.k, options.factors, out, threads=threads
            ),
        }
        missing = missing_of_spark()
        if missing is not None:
            del peers["Spark, seen items not left out"]
        for number, (what, peer) in enumerate(peers.items()):
            report(what, peer(folder / f"peer-{number}"), folder / f"peer-{number}", own=own)
    if missing is not None:
        sys.exit(f"no row of Spark: {missing}")


def pairs_file(data: Interactions, path: Path) -> Path:
    """The combined pairs with ids as Spark's ALS takes them: integers of 32 bits."""
    columns = {
        "user_id": data.user_ids.column.to_numpy()[data.pair_users()].astype(np.int32),
        "item_id": data.item_ids.column.to_numpy()[data.user_items.indices].astype(np.int32),
        "weight": data.user_items.data,
    }
    pq.write_table(pa.table(columns), path)
    return path


if __name__ == "__main__":
    main()
