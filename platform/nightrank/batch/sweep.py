"""The sweep stage: trials on Ray Tune, each measured on the validation split."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner

from nightrank.batch.inputs import Inputs, load_splits
from nightrank.batch.run import Run
from nightrank.batch.split_files import DONE, open_split, save_splits
from nightrank.batch.trials import Spec, died, leaderboard, measure, specs, winner
from nightrank.cluster.session import run_task, threads
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.config.job import JobConfig
from nightrank.errors import ClusterError, DataError
from nightrank.release.store import open_store, replacing

log = logging.getLogger("nightrank.sweep")


def sweep(run: Run, actors: ActorTable) -> dict[str, Any]:
    """Measure every trial that has no record yet; write the leaderboard; return the winner's outcome.

    Raises DataError where every trial failed.
    """
    with run.recording("sweep") as outcome:
        if not run.path(f"sweep/split/{DONE}").is_file():
            run_task(_prepare, run.job, run.inputs, str(run.path("sweep/split")), spec=actors.trainer)
        wanted = specs(run.job.sweep.models, trials=run.job.sweep.trials, seed=run.job.seed)
        if len(wanted) <= run.job.sweep.trials:
            log.warning("the search space holds only %d recipes; all are tried", len(wanted) - 1)
        missing = [spec for spec in wanted if run.get_json(_record(spec)) is None]
        if missing:
            _tune(run, missing, total=len(wanted), spec=actors.tune_trial)
        outcomes = [run.get_json(_record(spec)) or died(spec, seed=run.job.seed) for spec in wanted]
        best = winner(outcomes)
        metric = f"{run.job.objective.metric}@{run.job.objective.k}"
        with replacing(run.path("leaderboard.parquet")) as temporary:
            pq.write_table(leaderboard(outcomes, metric=metric), temporary)
        if best is None:
            reasons = sorted({str(one["reason"]) for one in outcomes})
            raise DataError(f"every trial of the sweep failed: {'; '.join(reasons[:3])}")
        outcome["winner"] = dict(best)
        outcome["metric"] = metric
        outcome["trials"] = len(outcomes) - 1
    return outcome


def _record(spec: Spec) -> str:
    return f"sweep/trials/{spec['trial']}.json"


def _prepare(job: JobConfig, inputs: Inputs, folder: str) -> None:
    """The validation split: the test pairs go first, validation is held out of what is left."""
    save_splits(Path(folder), load_splits(job, inputs, families=job.sweep.models, validation=True))


def _tune(run: Run, missing: Sequence[Spec], *, total: int, spec: ActorSpec) -> None:
    trainable = tune.with_parameters(
        _trial, store=run.store.url, run=run.name(""), job=run.job, n_threads=threads(spec)
    )
    resources = {"cpu": spec.num_cpus, "gpu": spec.num_gpus, "memory": spec.memory}
    results = Tuner(
        tune.with_resources(trainable, resources),
        param_space={"spec": tune.grid_search(list(missing))},
        tune_config=TuneConfig(
            max_concurrent_trials=spec.max_count,
            reuse_actors=True,  # starting a process takes longer than most fits
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(run.path("sweep")),
            verbose=0,
            failure_config=FailureConfig(max_failures=2),  # of the process; a fit that fails is an outcome
            callbacks=[_Progress(done=total - len(missing), total=total)],
        ),
    ).fit()
    stopped = [one for one in missing if run.get_json(_record(one)) is None]
    if len(stopped) > results.num_errors:
        raise ClusterError(
            f"the sweep stopped before {len(stopped) - results.num_errors} of its trials had ended; run the same "
            "command again, it goes on with those"
        )


def _trial(config: dict[str, Any], *, store: str, run: str, job: JobConfig, n_threads: int) -> None:
    """One Tune trial: measure, put the record in the run, report."""
    folder = open_store(store)
    spec = config["spec"]
    split = open_split(folder.path(f"{run}sweep/split"), combine=job.combines([spec["family"]])[0])
    outcome = measure(spec, split, job=job, threads=n_threads)
    record = json.dumps(outcome, indent=1, sort_keys=True).encode() + b"\n"
    folder.put(f"{run}{_record(spec)}", record)
    tune.report({**outcome, "params": json.dumps(outcome["params"])})


class _Progress(Callback):  # type: ignore[misc]
    """A line for every trial that ended."""

    def __init__(self, *, done: int, total: int) -> None:
        self.done, self.total = done, total

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.done += 1
        result = trial.last_result
        value = result.get("reason") if result.get("value") is None else f"{result['value']:.4f}"
        log.info("trial %d/%d %s %s: %s", self.done, self.total, result["family"], result["params"], value)
