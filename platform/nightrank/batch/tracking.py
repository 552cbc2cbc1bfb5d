"""The trials of a sweep in MLflow: what `nightrank[tracking]` adds; without it nothing is tracked.

A trial is one MLflow run, found by its tags before it is created, and ended last. So whatever is killed in between,
the next call completes what is there and makes no second one. Tracking never fails a night: the first error is
logged as a warning, and the rest of the sweep goes on without. MLflow's usual environment variables say where to;
without them it is `mlflow.db` in the store's folder, and nothing leaves the machine.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nightrank.batch.leaderboard import Record
from nightrank.batch.timeline import began
from nightrank.batch.tracked import (
    LONGEST,
    REASON,
    RUN_KEY,
    STATUS,
    TRIAL,
    Point,
    ended,
    is_complete,
    points,
    points_on_test,
    tags_of,
)

log = logging.getLogger("nightrank.tracking")

DATABASE = "mlflow.db"
_BATCH = 1000  # metrics in one request: MLflow's own limit
_ALL = 3  # mlflow.entities.ViewType.ALL: a run that somebody deleted in MLflow stays deleted

# What the process is given where its environment says nothing: a dead server costs seconds, not MLflow's minutes.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for the command's result
}
_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def tracker(store: Path, *, run_key: str, experiment: str, metric: str) -> Tracker | None:
    """A tracker of one run's trials; None where MLflow is not installed or does not answer (the log says which).

    store: the store's folder, for the database. experiment: its name where MLFLOW_EXPERIMENT_NAME says nothing.
    metric: the name of the objective, such as ndcg@10. Takes about 3 s: the import, and the tables of a new database.
    """
    os.environ.update(_NO_TELEMETRY)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        log.info("trials are not tracked in MLflow: install nightrank[tracking] for that")
        return None
    for chatty, level in (
        ("alembic", logging.WARNING),
        ("mlflow", logging.WARNING),
        ("urllib3", logging.ERROR),
    ):
        logging.getLogger(chatty).setLevel(level)
    store.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_database(store)
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or _experiment(
            client, experiment, store=store, uri=uri
        )
    except Exception as error:  # of the database, of HTTP, of MLflow: none of them is worth a night
        _warn(error)
        return None
    log.info("trials are tracked in MLflow, experiment %s", experiment)
    return Tracker(
        client, experiment_id=experiment_id, model=_model_name(experiment), run_key=run_key, metric=metric
    )


def _experiment(client: Any, name: str, *, store: Path, uri: str) -> str:
    """Find or make it. A database in the store keeps its artifacts there too, not in the working directory."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "active":
        return str(found.experiment_id)
    artifacts = (store.absolute() / "mlartifacts").as_uri() if uri == _own_database(store) else None
    return str(
        client.create_experiment(name, artifact_location=artifacts)
    )  # refused by name where it was deleted


def _own_database(store: Path) -> str:
    return f"sqlite:///{store.absolute() / DATABASE}"


class Tracker:
    """Writes the trials of one run. Its methods never raise; after the first error they do nothing."""

    def __init__(self, client: Any, *, experiment_id: str, model: str, run_key: str, metric: str) -> None:
        self.client, self.experiment_id, self.model, self.run_key = client, experiment_id, model, run_key
        self.metric = metric.replace("@", "_at_")  # MLflow refuses @ in the name of a metric
        self.is_well = True

    def log(self, record: Record) -> None:
        """One MLflow run for a trial that ended, however it ended; completed or left alone where there is one.

        A later call with more in the record (`change`, `chosen`) adds that. About 20 ms with the store's database.
        """
        self._guarded(lambda: self._log(record))

    def register(self, winner: Record, *, lineage: Mapping[str, Any], test: Record | None = None) -> None:
        """Make the winner a version of the registered model, once per run key.

        lineage: becomes tags of the version, None left out. test: the sweep's figures on the test split; they become
        metrics of the winner's run.
        """
        self._guarded(lambda: self._register(winner, lineage=lineage, test=test))

    def _guarded(self, work: Callable[[], object]) -> None:
        if not self.is_well:
            return
        try:
            work()
        except Exception as error:  # see `tracker`
            self.is_well = False
            _warn(error)

    def _log(self, record: Record) -> str:
        found = self._find(record["trial"])
        tags = tags_of(record, run_key=self.run_key)
        if found is None:
            start, name = int(began(record) * 1000), f"{record['family']} {record['trial']}"
            found = self.client.create_run(self.experiment_id, start_time=start, tags=tags, run_name=name)
        elif found.info.lifecycle_stage != "active" or is_complete(found, record):
            return str(found.info.run_id)
        for stale in {REASON} & set(found.data.tags) - set(tags):
            self.client.delete_tag(found.info.run_id, stale)
        self._write(found.info.run_id, record, tags=tags)
        return str(found.info.run_id)

    def _find(self, trial: str) -> Any:
        where = f"tags.`{RUN_KEY}` = '{self.run_key}' and tags.`{TRIAL}` = '{trial}'"
        found = self.client.search_runs(
            [self.experiment_id],
            where,
            run_view_type=_ALL,
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return found[0] if found else None

    def _write(self, run_id: str, record: Record, *, tags: Mapping[str, str]) -> None:
        """Everything again: what MLflow has already is the same to it, time and step included."""
        from mlflow.entities import Param, RunTag

        self._log_points(run_id, points(record, metric=self.metric))
        params = {**record["params"], "family": record["family"], "seed": record["seed"]}
        self.client.log_batch(
            run_id,
            params=[Param(name, str(value)) for name, value in sorted(params.items())],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        self.client.set_terminated(run_id, status=STATUS[record["state"]], end_time=ended(record))

    def _log_points(self, run_id: str, found: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in found]
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _register(self, winner: Record, *, lineage: Mapping[str, Any], test: Record | None) -> None:
        run_id = self._log(winner)
        if test is not None:
            self._log_points(run_id, points_on_test(winner, test, metric=self.metric))
        if not self.client.search_registered_models(f"name = '{self.model}'", max_results=1):
            self.client.create_registered_model(self.model)
        where = f"name = '{self.model}' and tags.`{RUN_KEY}` = '{self.run_key}'"
        if self.client.search_model_versions(where, max_results=1):
            return
        tags = {RUN_KEY: self.run_key, TRIAL: winner["trial"], "nightrank.family": winner["family"]}
        tags |= {
            f"nightrank.{name}": str(value)[:LONGEST] for name, value in lineage.items() if value is not None
        }
        # the place in the store; a server takes no local path, and nothing is uploaded
        self.client.create_model_version(
            self.model,
            source=f"nightrank:/runs/{self.run_key}/model",
            run_id=run_id,
            tags=tags,
            await_creation_for=0,
        )


def _model_name(experiment: str) -> str:
    """MLflow refuses / and : in the name of a model."""
    return re.sub(r"[/:%\"']", "-", experiment)


def _warn(error: Exception) -> None:
    told = re.sub(
        r"//[^/@\s]*@", "//", " ".join(str(error).split())
    )  # a user and password in the address stay out
    log.warning(
        "tracking in MLflow failed and is left off for the rest of this sweep, which goes on: %s: %.300s; "
        "`nightrank sweep` again completes it",
        type(error).__name__,
        told,
    )
