"""The score stage: Ray Data sends buckets through a pool of actors, each writing whole files.

The unit of work is one bucket of users, or one part of the catalogue for similar items. A unit's files are put
in place in one step each, its record after them; a rerun skips units that are recorded and whose files are
intact. The driver sees records only, never rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from nightrank.batch.records import BucketRecord
from nightrank.batch.run import Run
from nightrank.batch.scorer import ScoreUnits
from nightrank.batch.units import RECOMMENDATIONS, Unit, all_units, intact, record_name
from nightrank.cluster.session import options, threads, translated
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.errors import ClusterError
from nightrank.release.model_files import open_model, refuse_damaged

log = logging.getLogger("nightrank.score")

PROGRESS_S = 2.0


def score(run: Run, actors: ActorTable) -> dict[str, Any]:
    """Write every unit that is not there yet into the run's release folder; return counts."""
    run.finished("train")
    with run.recording("score") as outcome:
        refuse_damaged(run.store, run.name("model"))
        units = list(all_units(open_model(run.store, run.name("model"))))
        missing = missing_units(run)
        if len(missing) < len(units):
            log.info("%d of %d parts are there already", len(units) - len(missing), len(units))
        if missing:
            _score(run, missing, spec=actors.scorer)
        records = [
            run.get_json(record_name(unit), shape=BucketRecord)
            for unit in units
            if unit["table"] == RECOMMENDATIONS
        ]
        for count in ("users", "rows", "empty_users"):
            outcome[count] = sum(record[count] for record in records)
    return outcome


def missing_units(run: Run) -> list[Unit]:
    """The units without a record, or whose files are not what their record says; reads them all."""
    model = open_model(run.store, run.name("model"))
    given = {"run": run.name(""), "release": run.record.release}
    return [unit for unit in all_units(model) if intact(run.store, unit, **given, card=model.card) is None]


def _score(run: Run, units: list[Unit], *, spec: ActorSpec) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own lines say what it would
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    most = min(spec.max_count, len(units))
    # All at once: Ray Data would start the others only when the first has been at work for a while.
    pool = ActorPoolStrategy(min_size=min(spec.min_count, most), max_size=most, initial_size=most)
    results = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        ScoreUnits,
        batch_size=1,
        compute=pool,
        fn_constructor_kwargs={
            "store": run.store.url,
            "run": run.name(""),
            "run_key": run.key,
            "release": run.record.release,
            "settings": run.job.score.model_dump(),
            "metric": run.job.objective.name,
            "n_threads": threads(spec),
        },
        **options(spec),
    )
    with translated("scoring"):
        _follow(results.iter_rows(), units)


def _follow(results: Iterable[dict[str, Any]], units: list[Unit]) -> None:
    """A line every two seconds, and at the end; the estimate goes by users and items, not by parts."""
    total = sum(unit["stop"] - unit["start"] for unit in units)
    lists, users, started, told = 0, 0, time.monotonic(), 0.0
    for done, result in enumerate(results, start=1):
        if result["problem"]:
            raise ClusterError(
                f"scoring stopped: {result['problem']}; mend that and run the same command again, it goes on with "
                "the parts that are missing"
            )
        users, lists = users + result["users"], lists + result["lists"]
        elapsed = time.monotonic() - started
        if elapsed - told < PROGRESS_S and done < len(units):
            continue
        told = elapsed
        left = elapsed / max(1, lists) * (total - lists)
        log.info(
            "part %d/%d, %d users, %.0f lists/s, %.0f s left", done, len(units), users, lists / elapsed, left
        )
