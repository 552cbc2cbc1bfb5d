"""Runs whose score stage is next, without a fit: drawn vectors and histories, saved as the train stage does."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import vectors
from scipy.sparse import csr_matrix

from nightrank.batch.inputs import find_inputs
from nightrank.batch.run import Run, start_run
from nightrank.config.cluster import ActorTable
from nightrank.config.job import JobConfig
from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import factor_model
from nightrank.release.model_card import ModelCard
from nightrank.release.model_files import default_buckets, open_model, save_model
from nightrank.release.store import open_store


def made_run(folder: Path, *, users: int, items: int, factors: int, k: int, seen: int, seed: int) -> Run:
    """A run in `folder` that was trained: skewed vectors (`vectors.drawn`), about `seen` items seen by each user.

    Ids are integers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    events = folder / "events.parquet"  # names the run; nobody reads what is in it
    pq.write_table(pa.table({"user_id": [seed], "item_id": [users], "weight": [1.0]}), events)
    run = run_in(folder, k=k, seed=seed)
    save_drawn(run, users=users, items=items, factors=factors, seen=seen)
    run.put_json("stages/train.json", {"seconds": 0.0})
    return run


def save_drawn(run: Run, *, users: int, items: int, factors: int, seen: int) -> ModelCard:
    """The model of `made_run`, saved as the train stage does; the run's seed says what is drawn."""
    seed = run.job.seed
    user_vectors, item_vectors = vectors.drawn("skewed", (users, items), factors, seed=seed)
    params = {"factors": factors, "reg": 0.01, "alpha": 1.0, "epochs": 15}
    model = factor_model("als", params, users=user_vectors, items=item_vectors)
    histories = Interactions(
        user_ids=ids_from_arrays([np.arange(1, users + 1)]),
        item_ids=ids_from_arrays([np.arange(1, items + 1)]),
        user_items=drawn_histories((users, items), seen, seed=seed),
        times=None,
    )
    return save_model(
        model,
        histories,
        store=run.store,
        key=run.name("model"),
        n_buckets=default_buckets(users),
        seed=seed,
    )


def run_in(folder: Path, *, k: int, seed: int) -> Run:
    """The run that `made_run` made there, or its beginning."""
    job = JobConfig.model_validate(
        {
            "store": str(folder / "store"),
            "seed": seed,
            "events": {"path": str(folder / "events.parquet")},
            "split": {"kind": "per_user", "n": 1},
            "train": {"model": "als"},
            "score": {"k": k},
        }
    )
    return start_run(open_store(job.store), job, find_inputs(job))


def score_users(run: Run, actors: ActorTable) -> float:
    """Seconds of the score stage over the users, from nothing to the last bucket's record; similar items left out."""
    from nightrank.batch.score import _score
    from nightrank.batch.units import RECOMMENDATIONS, all_units

    for key in (run.name("buckets"), f"releases/{run.record.release}"):
        run.store.delete_folder(key)
    started = time.perf_counter()
    units = all_units(open_model(run.store, run.name("model")))
    units = [unit for unit in units if unit["table"] == RECOMMENDATIONS]
    _score(run, units, spec=actors.scorer)
    return time.perf_counter() - started


def drawn_histories(shape: tuple[int, int], seen: int, *, seed: int) -> csr_matrix:
    """CSR float32 of ones, `seen` draws a user, the same item at most once."""
    users, items = shape
    drawn = np.sort(np.random.default_rng(seed + 1).integers(0, items, (users, seen), dtype=np.int32), axis=1)
    first = np.ones(drawn.shape, dtype=bool)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    ends = np.r_[0, np.cumsum(first.sum(axis=1))]
    return csr_matrix((np.ones(ends[-1], dtype=np.float32), drawn[first], ends), shape=shape)


def machine() -> str:
    """Processor, commit: what every figure belongs to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "?"
    cpus = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cpus} CPUs, commit {commit}"
