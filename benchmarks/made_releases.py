"""Releases of drawn vectors for the benchmarks of the service: scored and published by the package, in this process.

Nothing is trained, so the record of the train stage is made up; all that a service opens is real.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_runs import save_drawn

from nightrank.batch.inputs import find_inputs
from nightrank.batch.publish import publish
from nightrank.batch.run import Run, start_run
from nightrank.batch.scorer import ScoreUnits
from nightrank.batch.units import RECOMMENDATIONS, all_units, record_name
from nightrank.config.job import JobConfig
from nightrank.release.model_card import ModelCard
from nightrank.release.model_files import open_model
from nightrank.release.store import open_store

K, SEEN, CATEGORIES = 100, 20, 12


def made_release(folder: Path, *, store: Path, users: int, items: int, factors: int, seed: int) -> str:
    """The id of a release that is in service in `store` from now on; `folder` is for its inputs.

    Users are 1 to `users`, items likewise, with titles and one of 12 categories each. The top 100 of every user
    without what they have seen, about 20 items; 10 similar items.
    """
    run = _begun(folder, store, items=items, seed=seed)
    card = save_drawn(run, users=users, items=items, factors=factors, seen=SEEN)
    run.put_json("stages/train.json", _trained(card))
    scorer = ScoreUnits(
        store=run.store.url,
        run=run.name(""),
        run_key=run.key,
        release=run.record.release,
        settings=run.job.score.model_dump(),
        metric="ndcg@10",
        n_threads=len(os.sched_getaffinity(0)),
    )
    totals: Counter[str] = Counter(users=0, rows=0, empty_users=0)
    for unit in all_units(open_model(run.store, run.name("model"))):
        scorer.write(unit)
        if unit["table"] == RECOMMENDATIONS:
            record = run.get_json(record_name(unit))
            totals.update({name: record[name] for name in totals})
    run.put_json("stages/score.json", {**totals, "seconds": 0.0})
    publish(run)
    return run.record.release


def _begun(folder: Path, store: Path, *, items: int, seed: int) -> Run:
    """A run on an event of its own, which nobody reads, and on a table of the items."""
    folder.mkdir(parents=True, exist_ok=True)
    events, described = folder / "events.parquet", folder / "items.parquet"
    pq.write_table(pa.table({"user_id": [seed], "item_id": [1], "weight": [1.0]}), events)
    rows = np.arange(1, items + 1)
    titles = [f"The made item {row}, volume {row % 7}" for row in rows]
    categories = [f"Category {row % CATEGORIES}" for row in rows]
    pq.write_table(pa.table({"item_id": rows, "title": titles, "genres": categories}), described)
    job = JobConfig.model_validate(
        {
            "store": str(store),
            "seed": seed,
            "events": {"path": str(events)},
            "items": {"path": str(described), "title": "title", "categories": "genres"},
            "split": {"kind": "per_user", "n": 1},
            "train": {"model": "als"},
            "score": {"k": K, "similar_items_k": 10},
            "gate": {"min_coverage": 0.0},  # drawn norms: a part of the items is in nobody's list
        }
    )
    return start_run(open_store(job.store), job, find_inputs(job))


def _trained(card: ModelCard) -> dict[str, object]:
    events = {"rows": card.n_pairs, "rare_item_events": 0, "rare_user_events": 0, "zero_pairs": 0}
    sizes = {"users": card.n_users, "items": card.n_items, "pairs": card.n_pairs}
    return {
        "seconds": 0.0,
        "recipe": {"family": card.family, "params": card.params},
        "quality": {"metric": "ndcg@10", "candidate": 0.0, "change": 0.0, "passed": True},
        "model": {**sizes, "counts": events, "model_hash": card.model_hash},
    }
