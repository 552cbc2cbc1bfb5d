"""Trials: what one recipe is worth on the validation split, as a record; and which of them wins.

A record is plain JSON, in place before the fit begins and brought up to date after every measurement. Its state:
running (or cut short), done, stopped (by ASHA), failed. A sweep that was killed goes on from them.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.batch.run import Recipe
from nightrank.config.families import BASELINES, Value
from nightrank.config.job import JobConfig
from nightrank.config.objective import LOSSES
from nightrank.data.splits import Split
from nightrank.errors import DataError
from nightrank.models import fit
from nightrank.models.fitting import Epoch
from nightrank.quality.names import signed
from nightrank.quality.objective import Objective, gain, value_estimate, value_of

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
ENDED = (DONE, STOPPED, FAILED)
DIED = "the process of the trial died each time (killed, or out of memory)"
POINTS = 10  # measurements of a trial, evenly spread over its epochs

Spec = dict[str, Any]
Record = dict[str, Any]
Values = NDArray[np.float64]


def objective_of(job: JobConfig) -> Objective:
    """What the job's recipes are compared by."""
    asked = job.objective
    k = None if asked.metric in LOSSES else asked.k
    return Objective(asked.metric, k=k, relevant=asked.rule, label=job.label_rule)


def baseline_of(job: JobConfig) -> Spec:
    """What stands in where nothing else can be compared with: popularity, or mean where pairs are predicted."""
    if job.objective.metric not in LOSSES:
        return spec_of("popularity", {})
    return spec_of("mean", {"task": "label" if job.objective.metric == "logloss" else "rating"})


def unmeasurable(job: JobConfig, recipe: Recipe) -> str | None:
    """Why a recipe of another night cannot be fitted by this job's settings, or give its objective; None: it can."""
    task = recipe.params.get("task")
    if not job.objective.suits(recipe.family, task):
        return f"cannot give {job.objective.name}"
    if task == "label" and job.label is None and recipe.label is None:
        return "learns classes by a rule that neither its release nor the job gives (label)"
    return None


def spec_of(family: str, params: Mapping[str, Value]) -> Spec:
    """A recipe with the id that its records go by: a hash of family and parameters."""
    content = json.dumps([family, dict(sorted(params.items()))])
    return {
        "trial": hashlib.sha256(content.encode()).hexdigest()[:12],
        "family": family,
        "params": dict(params),
    }


def begun(spec: Spec, *, seed: int, origin: str) -> Record:
    """The record of a trial that begins. origin: search, last winner or baseline."""
    return {
        **spec,
        "seed": seed,
        "origin": origin,
        "state": RUNNING,
        "value": None,
        "low": None,
        "high": None,
        "history": [],
        "fit_s": None,
        "rank_s": None,
        "reason": None,
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def failed(record: Mapping[str, Any], reason: str) -> Record:
    """The record of a trial that has no value, and why."""
    return {**record, "state": FAILED, "value": None, "reason": reason}


def measure(
    record: Mapping[str, Any],
    split: Split,
    *,
    job: JobConfig,
    threads: int,
    report: Callable[[Record], None],
) -> tuple[Record, Values | None]:
    """Fit a recipe and score it on the truth, at POINTS of its epochs; the last record, and each user's value.

    report: told the record after every measurement; what it raises ends the trial. A fit that fails is an outcome,
    not an exception, and has no values: float64 (n_train_users,), NaN without truth.
    """
    trial = _Trial(dict(record), split, job=job, threads=threads, report=report)
    try:
        return trial.run()
    except Exception as error:  # libraries have errors of their own (implicit: ModelFitError)
        return failed(trial.record, f"{type(error).__name__}: {error}"), None


class _Trial:
    """One measurement under way."""

    def __init__(
        self,
        record: Record,
        split: Split,
        *,
        job: JobConfig,
        threads: int,
        report: Callable[[Record], None],
    ) -> None:
        self.record, self.split, self.job, self.threads = record, split, job, threads
        self.report = report
        self.objective = objective_of(job)
        self.truth = self.objective.truth(split)
        self.started = time.monotonic()
        self.rank_s = 0.0
        self.values: Values = np.empty(0)

    def run(self) -> tuple[Record, Values]:
        fit(
            self.record["family"],
            self.split.train,
            params=self.record["params"],
            seed=self.record["seed"],
            threads=self.threads,
            label=self.job.label_rule,
            on_epoch=self.on_epoch,
        )
        interval = value_estimate(
            self.values,
            metric=self.objective.metric,
            shares=self.objective.shares(self.truth),
            seed=self.record["seed"],
        )
        ended = {"state": DONE, "low": interval.low, "high": interval.high}
        return {**self.record, **ended, **self.seconds()}, self.values

    def on_epoch(self, epoch: Epoch) -> bool:
        if epoch.number not in measured_epochs(epoch.of):
            return True
        began = time.monotonic()
        self.values = self.objective.per_user(
            epoch.model(), self.split, truth=self.truth, threads=self.threads
        )
        if np.isnan(self.values).all():
            raise DataError("no user has relevant held-out items; check objective.relevant")
        value = value_of(self.values, metric=self.objective.metric)
        now = time.monotonic()
        self.rank_s += now - began
        point = {
            "epoch": epoch.number,
            "share": 100 * epoch.number // epoch.of,
            "value": value,
            "seconds": round(now - self.started, 3),
        }
        history = [*self.record["history"], point]
        self.record = {**self.record, "value": value, "history": history, **self.seconds()}
        self.report(self.record)
        return True

    def seconds(self) -> dict[str, float]:
        spent = time.monotonic() - self.started
        return {"fit_s": round(spent - self.rank_s, 3), "rank_s": round(self.rank_s, 3)}


def measured_epochs(epochs: int) -> frozenset[int]:
    """After which epochs a trial is measured: POINTS of them, the last among them; all where there are no more."""
    return frozenset(math.ceil(epochs * point / POINTS) for point in range(1, POINTS + 1))


def judged(
    records: Sequence[Mapping[str, Any]], values: Callable[[str], Values], *, metric: str, min_change: float
) -> list[Record]:
    """The records with `change`, the gain over the best (`objective.gain`), and `chosen`, true of one at most.

    metric: the name of the objective. Only trials that are done count, and not the baseline. Of those no worse than
    the best by more than min_change allows (nothing above 0), the cheapest is chosen: fewer factors, then fewer
    epochs, then the better, then the id. values: each user's value by trial id.
    """
    running = [record for record in records if record["state"] == DONE]
    candidates = [record for record in running if record["family"] not in BASELINES]
    if not candidates:
        return [{**record, "change": None, "chosen": False} for record in records]
    worth = {one["trial"]: signed(one["value"], metric=metric) for one in running}
    best = values(min(candidates, key=lambda one: (-worth[one["trial"]], *_cost(one)))["trial"])
    changes = {one["trial"]: gain(values(one["trial"]), best, metric=metric) for one in running}
    eligible = [one for one in candidates if changes[one["trial"]] >= min(min_change, 0.0)]
    choice = min(eligible, key=lambda one: (*_cost(one)[:2], -worth[one["trial"]], one["trial"]))["trial"]
    return [{**one, "change": changes.get(one["trial"]), "chosen": one["trial"] == choice} for one in records]


def _cost(record: Mapping[str, Any]) -> tuple[float, float, str]:
    params = record["params"]
    return params.get("factors", 0), params.get("epochs", 0), record["trial"]
