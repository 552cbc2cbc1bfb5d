"""The sweep stage: trials on Ray Tune, each measured on the validation split; the winner measured once on test.

Records are what counts (`trials`); Tune's own files are scratch. Before the search, the baseline (popularity, or mean
for an objective of pairs) and the winner of the last sweep are measured in full, so that the search begins where the
last one ended.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner

from nightrank.batch.inputs import Inputs, load_metadata, load_splits, split_of
from nightrank.batch.run import Run
from nightrank.batch.search import WORTH, Proposal, scheduler, searcher
from nightrank.batch.split_files import COMPLETE, save_splits
from nightrank.batch.sweep_outcome import conclude, track, tracker_of
from nightrank.batch.tracking import Tracker
from nightrank.batch.trial_files import SPLIT, measured, put_record, read_record, records_of
from nightrank.batch.trials import (
    DIED,
    ENDED,
    FAILED,
    RUNNING,
    STOPPED,
    Record,
    Spec,
    baseline_of,
    begun,
    failed,
    spec_of,
    unmeasurable,
)
from nightrank.cluster.session import run_task, threads
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.config.families import BASELINES, learning
from nightrank.config.job import JobConfig
from nightrank.errors import ClusterError
from nightrank.quality.names import signed
from nightrank.release.store import open_store

log = logging.getLogger("nightrank.sweep")


def sweep(run: Run, actors: ActorTable) -> dict[str, Any]:
    """Measure recipes until the job's number of trials has ended; judge them; return what the stage leaves behind.

    Raises DataError where every trial failed.
    """
    found = tracker_of(run)
    with run.recording("sweep") as outcome:
        if run.store.read(run.name(f"{SPLIT}/{COMPLETE}")) is None:
            run_task(_prepare, run.job, run.inputs, run.store.url, run.name(SPLIT), spec=actors.trainer)
        _forgive(run)
        states = {record["trial"]: record["state"] for record in records_of(run)}
        for origin, spec in _first(run):
            if states.get(spec["trial"]) not in ENDED:
                _measure_alone(run, begun(spec, seed=run.job.seed, origin=origin), spec=actors.tune_trial)
        _search(run, actors.tune_trial, tracker=found)
        outcome |= conclude(run, actors)
    track(run, outcome, tracker=found)
    return outcome


def _forgive(run: Run) -> None:
    """What killed a trial's process may have passed: such a failure is measured again, unlike one of the fit."""
    for record in records_of(run):
        if record["state"] == FAILED and record["reason"] == DIED:
            put_record(run.store, run.name(""), {**record, "state": RUNNING, "reason": None})


def _first(run: Run) -> list[tuple[str, Spec]]:
    """What is measured whatever the search does: the baseline, and last time's winner if its family is searched."""
    last = run.record.last_winner
    found = [("baseline", baseline_of(run.job))]
    if last is None or last.family not in run.job.sweep.models:
        return found
    if unmeasurable(run.job, last) is None:
        found.append(("last winner", spec_of(last.family, last.params)))
    return found


def _prepare(job: JobConfig, inputs: Inputs, store: str, key: str) -> None:
    """The validation split: the test pairs go first, validation is held out of what is left."""
    splits = load_splits(job, inputs, families=job.families, validation=True)
    first = next(iter(splits))
    metadata = load_metadata(job, inputs, families=job.families, like=splits[first].train)
    combined = {name: job.combines([name])[0] for name in learning(job.families)}
    # Where nothing repeats there is one split, whatever it is called; families that combine alike share theirs.
    by_how = {how if how in splits else first: name for name, how in combined.items()}
    with_features = {
        how: split_of(job, splits, family=name, metadata=metadata) for how, name in by_how.items()
    }
    save_splits(open_store(store), key, splits=splits, with_features=with_features)


def _measure_alone(run: Run, record: Record, *, spec: ActorSpec) -> None:
    """A recipe that nothing stops, in one task, which Ray starts again where its process dies."""
    try:
        run_task(_alone, record, run.store.url, run.name(""), run.job, threads(spec), spec=spec)
    except ClusterError as error:
        left = read_record(run.store, run.name(""), record["trial"]) or record
        if left["state"] not in ENDED:
            put_record(run.store, run.name(""), failed(left, DIED))
        log.warning("%s %s: %s", record["family"], json.dumps(record["params"]), error)


def _search(run: Run, spec: ActorSpec, *, tracker: Tracker | None) -> None:
    """Rounds of Tune until enough distinct recipes have ended, or all that the space holds."""
    proposal, before = Proposal(run.job.sweep.models), -1
    while True:
        records = [record for record in records_of(run) if record["family"] not in BASELINES]
        ended = [record for record in records if record["state"] in ENDED]
        n_outside = sum(proposal.values(one["family"], one["params"]) is None for one in ended)
        wanted = min(run.job.sweep.trials, proposal.size + n_outside)
        if len(ended) >= wanted:
            if wanted < run.job.sweep.trials:
                log.warning("the search space holds only %d recipes; all are tried", wanted)
            return
        if len(ended) == before:
            raise ClusterError(
                f"the sweep stopped before {wanted - len(ended):g} of its trials had ended; run the same command "
                "again, it goes on with those"
            )
        before = len(ended)
        _tune(run, records, missing=int(wanted - len(ended)), spec=spec, tracker=tracker)


def _tune(
    run: Run, records: Sequence[Record], *, missing: int, spec: ActorSpec, tracker: Tracker | None
) -> None:
    trainable = tune.with_parameters(
        _trial, store=run.store.url, run=run.name(""), job=run.job, n_threads=threads(spec)
    )
    resources = {"cpu": spec.num_cpus, "gpu": spec.num_gpus, "memory": spec.memory}
    ended = [record["trial"] for record in records if record["state"] in ENDED]
    progress, metric = _Progress(run, done=ended, tracker=tracker), run.job.objective.name
    with tempfile.TemporaryDirectory(
        prefix="nightrank-"
    ) as scratch:  # Tune's own files; records are what counts
        Tuner(
            tune.with_resources(trainable, resources),
            tune_config=TuneConfig(
                search_alg=searcher(run.job.sweep.models, records, metric=metric, seed=run.job.seed),
                scheduler=scheduler(run.job.sweep.models, records, metric=metric),
                num_samples=missing,
                max_concurrent_trials=spec.max_count,
                reuse_actors=True,  # starting a process takes longer than most fits
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                failure_config=FailureConfig(
                    max_failures=2
                ),  # of the process; a fit that fails is an outcome
                callbacks=[progress],
            ),
        ).fit()


def _trial(config: dict[str, Any], *, store: str, run: str, job: JobConfig, n_threads: int) -> None:
    """One Tune trial. Started again after it had ended, it only tells its record."""
    folder, spec, metric = open_store(store), config["spec"], job.objective.name
    before = read_record(folder, run, spec["trial"])
    if before is not None and before["state"] in ENDED:
        tune.report(_told(before, metric=metric))
        return

    def report(record: Record) -> None:
        put_record(folder, run, record)
        if record["history"][-1]["share"] < 100:  # the last word comes with the values
            tune.report(_told(record, metric=metric))

    record = begun(spec, seed=job.seed, origin="search")
    ended = measured(record, folder, run, job=job, threads=n_threads, report=report)
    tune.report(_told(ended, metric=metric))


def _alone(record: Record, store: str, run: str, job: JobConfig, n_threads: int) -> None:
    """A recipe that nothing stops."""
    folder = open_store(store)
    measured(
        record, folder, run, job=job, threads=n_threads, report=lambda found: put_record(folder, run, found)
    )


def _told(record: Record, *, metric: str) -> dict[str, Any]:
    """What Tune hears. A failure is worth NaN, which is neither good nor bad to ASHA, and failed to Optuna."""
    worth = np.nan if record["state"] == FAILED else signed(record["value"], metric=metric)
    share = record["history"][-1]["share"] if record["state"] in (RUNNING, STOPPED) else 100
    return {WORTH: worth, "share": share}


class _Progress(Callback):  # type: ignore[misc]
    """Ends the record of a trial that Tune ended, and says so in a line."""

    def __init__(self, run: Run, *, done: Iterable[str], tracker: Tracker | None) -> None:
        self.store, self.run = run.store, run.name("")
        self.total, self.seed = run.job.sweep.trials, run.job.seed
        self.done = set(done)
        self.tracker = tracker

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks; a connection cannot be."""
        return {**self.__dict__, "tracker": None}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = read_record(self.store, self.run, trial.config["spec"]["trial"])
        if record is not None and record["state"] == RUNNING:
            record["state"] = STOPPED
        self._ended(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = trial.config["spec"]
        record = read_record(self.store, self.run, spec["trial"]) or begun(
            spec, seed=self.seed, origin="search"
        )
        if record["state"] not in ENDED:
            self._ended(failed(record, DIED))

    def _ended(self, record: Record | None) -> None:
        if record is None or record["trial"] in self.done:
            return
        put_record(self.store, self.run, record)
        self.done.add(record["trial"])
        if self.tracker is not None:
            self.tracker.log(record)
        value = record["reason"] if record["value"] is None else f"{record['value']:.4f}"
        params = json.dumps(record["params"])
        log.info(
            "trial %d/%d %s %s: %s, %s",
            len(self.done),
            self.total,
            record["family"],
            params,
            record["state"],
            value,
        )
