"""What a sweep comes to: the choice, the figures on test, the leaderboard, the plots, and MLflow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import nightrank
from nightrank.batch.inputs import Inputs
from nightrank.batch.leaderboard import leaderboard, lines
from nightrank.batch.on_test import values_on_test
from nightrank.batch.run import Recipe, Run, winner_key
from nightrank.batch.tracking import Tracker
from nightrank.batch.tracking import tracker as open_tracker
from nightrank.batch.trial_files import records_of, values_of
from nightrank.batch.trials import Record, baseline_of, judged
from nightrank.cluster.session import run_task, threads
from nightrank.config.cluster import ActorTable
from nightrank.config.families import BASELINES
from nightrank.config.job import JobConfig
from nightrank.config.locations import nightrank_home
from nightrank.errors import DataError
from nightrank.quality.objective import gain_estimate, value_estimate
from nightrank.release.store import LocalStore, Store

board = logging.getLogger("nightrank.leaderboard")  # a name of its own: `make demo` prints it elsewhere
TRACKED = "sweep/tracked.json"


def conclude(run: Run, actors: ActorTable) -> dict[str, Any]:
    """Choose among the trials, measure the choice on test, and leave table and plots; what the stage leaves behind.

    Raises DataError where every trial failed.
    """
    records, metric = judged_records(run), run.job.objective.name
    with run.store.writing(run.name("leaderboard.parquet")) as path:
        pq.write_table(leaderboard(records, metric=metric), path)
    _plot(run, records, metric=metric)
    winner = next((record for record in records if record["chosen"]), None)
    if winner is None:
        reasons = sorted({str(one["reason"]) for one in records if one["family"] not in BASELINES})
        raise DataError(
            f"every trial of the sweep failed: {'; '.join(reasons[:3])}. Widen sweep.models, or see to the cause; "
            "trials whose process died are tried again by the same command"
        )
    given = (run.job, run.inputs, winner, threads(actors.trainer))
    test = run_task(_on_test, *given, spec=actors.trainer)
    for line in lines(records, metric=metric, min_change=run.job.gate.min_change, test=test):
        board.info("%s", line)
    recipe = Recipe(family=winner["family"], params=winner["params"])
    run.store.put(winner_key(run.job), recipe.as_line())
    return {"winner": winner, "metric": metric, "trials": len(records) - 1, "test": test}


def tracker_of(run: Run) -> Tracker | None:
    """MLflow's side of the run, None where there is none. The experiment is named after the events."""
    events = run.job.events
    experiment = f"nightrank/{events.dataset or 'events'}"
    return open_tracker(
        _database_folder(run.store), run_key=run.key, experiment=experiment, metric=run.job.objective.name
    )


def _database_folder(store: Store) -> Path:
    """The store itself; a database cannot lie in an object store, so beside it then."""
    return store.root if isinstance(store, LocalStore) else nightrank_home()


def catch_up(run: Run) -> None:
    """Bring MLflow up to date with a sweep that is done, unless it is: its server may have been away."""
    if run.get_json(TRACKED) is None:
        track(run, run.finished("sweep"), tracker=tracker_of(run))


def track(run: Run, outcome: dict[str, Any], *, tracker: Tracker | None) -> None:
    """Leave a finished sweep in MLflow, where there is one."""
    if tracker is None:
        return
    for record in judged_records(run):
        tracker.log(record)
    lineage = {
        "run_key": run.key,
        "release": run.record.release,
        "data_fingerprint": run.record.data_fingerprint,
        "config_hash": run.record.config_hash,
        "version": nightrank.__version__,
    }
    tracker.register(outcome["winner"], lineage=lineage, test=outcome["test"])
    if tracker.is_well:
        run.put_json(TRACKED, {"trials": outcome["trials"]})


def judged_records(run: Run) -> list[Record]:
    """The run's trials, with what was chosen of them."""
    return judged(
        records_of(run),
        lambda trial: values_of(run, trial),
        metric=run.job.objective.name,
        min_change=run.job.gate.min_change,
    )


def _plot(run: Run, records: Sequence[Record], *, metric: str) -> None:
    from nightrank.batch.plots import write_plots  # matplotlib: for the driver alone, trials do without

    write_plots(records, store=run.store, key=run.name("plots"), metric=metric)


def _on_test(job: JobConfig, inputs: Inputs, winner: Record, n_threads: int) -> dict[str, Any]:
    """The winner and the baseline on the test split, which no trial saw: what each is worth, and the gain."""
    baseline, metric = baseline_of(job), job.objective.name
    recipes = [Recipe(family=one["family"], params=one["params"]) for one in (winner, baseline)]
    found = values_on_test(job, inputs, recipes, threads=n_threads)
    own, other = (
        value_estimate(values, metric=metric, shares=found.shares, seed=job.seed) for values in found.values
    )
    change = gain_estimate(*found.values, metric=metric, shares=found.shares, seed=job.seed)
    return {
        "metric": metric,
        **own.as_dict(),
        "baseline": {"family": baseline["family"], **other.as_dict()},
        "change": change.as_dict(),
        "n_users": int(np.count_nonzero(~np.isnan(found.values[0]))),
    }
