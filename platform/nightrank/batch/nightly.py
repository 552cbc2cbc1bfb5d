"""The whole night, stage by stage, and its summary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightrank.batch.inputs import find_inputs, refuse_erased
from nightrank.batch.publish import in_service, publish
from nightrank.batch.run import STAGES, Run, chosen_run, has_run, start_run
from nightrank.batch.score import missing_units, score
from nightrank.batch.sweep import sweep
from nightrank.batch.sweep_outcome import catch_up
from nightrank.batch.train import train
from nightrank.config.cluster import ActorTable
from nightrank.config.job import JobConfig
from nightrank.errors import DataError
from nightrank.release.lease import Lease, leased
from nightrank.release.model_files import saved_model_hash
from nightrank.release.publish import published
from nightrank.release.store import open_store

log = logging.getLogger("nightrank")

Summary = dict[str, Any]


def open_run(job: JobConfig, *, key: str | None = None, first: str = "sweep") -> Run:
    """The run of a job: the one that its inputs and settings name, or the one given.

    Only a night's first stage (sweep, or train of a named model) begins a run.
    """
    store = open_store(job.store)
    inputs = find_inputs(job)
    if key is not None:
        return chosen_run(store, job, inputs, key=key)
    begins = first == "sweep" or (first == "train" and job.train.model is not None)
    if begins or has_run(store, job, inputs):
        return start_run(store, job, inputs)
    before = STAGES[STAGES.index(first) - 1]
    raise DataError(
        f"store {store.url} has no run of these events and settings, so it has not finished its {before} stage; "
        f"run `nightrank {before} --config JOB` first"
    )


def run_stages(run: Run, actors: ActorTable, *, stages: Sequence[str], force: bool = False) -> Summary:
    """Run the given stages in order and sum up. A job that names its model has no sweep. force: see `train`."""
    skipped: list[str] = []
    with leased(run.store, run.name("lease")) as lease:
        work: dict[str, Callable[[], Any]] = {
            "sweep": lambda: sweep(run, actors),
            "train": lambda: train(run, actors, force=force),
            "score": lambda: score(run, actors),
            "publish": lambda: publish(run, still=lease.check),
        }
        run.refuse_gone()
        refuse_erased(run.store, run.inputs)
        _run(run, work, stages=stages, skipped=skipped, lease=lease)
    return summary(run, skipped=skipped)


def check_order(run: Run, stages: Sequence[str]) -> None:
    """Refuse a stage whose forerunner has not run, before anything is started. Raises DataError."""
    first = stages[0]
    if first == "train" and run.job.train.model is None:
        run.finished("sweep")
    elif first in ("score", "publish"):
        run.finished(STAGES[STAGES.index(first) - 1])


def _run(
    run: Run,
    work: Mapping[str, Callable[[], Any]],
    *,
    stages: Sequence[str],
    skipped: list[str],
    lease: Lease,
) -> None:
    for stage in stages:
        lease.check()
        if stage == "sweep" and run.job.train.model is not None:
            log.info("sweep: left out, the job names its model (%s)", run.job.train.model)
        elif is_done(run, stage):
            skipped.append(stage)
            log.info("%s: done before", stage)
            if stage == "sweep":
                catch_up(run)
        else:
            log.info("%s: started (run %s)", stage, run.key)
            work[stage]()
            log.info("%s: done in %.2f s", stage, run.finished(stage)["seconds"])


def is_done(run: Run, stage: str) -> bool:
    """A stage that is recorded and whose outcome is still there: the model, the lists, the release."""
    done = run.stage(stage)
    if done is None or stage == "sweep":
        return done is not None
    if run.record.release in published(run.store):
        return True
    if stage == "train":
        return bool(saved_model_hash(run.store, run.name("model")) == done["model"]["model_hash"])
    return stage == "score" and not missing_units(run)


def summary(run: Run, *, skipped: Sequence[str] = ()) -> Summary:
    """What a run has come to, for the last line of its log."""
    stages = {stage: run.stage(stage) for stage in STAGES}
    trained, scored = stages["train"], stages["score"]
    counts = {} if trained is None else {key: trained["model"][key] for key in ("users", "items", "pairs")}
    if trained is not None:
        read = trained["model"]["counts"]
        counts["events_read"] = read["rows"]
        counts["events_dropped"] = sum(
            read.get(f"{why}_events", 0) for why in ("suppressed", "rare_item", "rare_user")
        )
        counts["pairs_dropped"] = read["zero_pairs"]
    if scored is not None:
        counts["recommendations"] = scored["rows"]
    metrics = {}
    if stages["sweep"] is not None:
        metrics[f"validation_{stages['sweep']['metric']}"] = stages["sweep"]["winner"]["value"]
    if trained is not None:
        metrics[f"test_{trained['quality']['metric']}"] = trained["quality"]["candidate"]
        metrics["change"] = trained["quality"]["change"]
    return {
        "run": run.key,
        "release": run.record.release if stages["publish"] is not None else None,
        "in_service": in_service(run),
        "recipe": None if trained is None else {k: trained["recipe"][k] for k in ("family", "params")},
        "metrics": metrics,
        "counts": counts,
        "seconds": {stage: done["seconds"] for stage, done in stages.items() if done is not None},
        "skipped": list(skipped),
    }
