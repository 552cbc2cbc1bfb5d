"""Jobs over HTTP: a stage of the night on the cluster, from the installed package and the service's own job file.

A caller chooses the stage and changes settings of the work (`job_overrides`); address, token and job file are the
service's. What can be known to be wrong is refused before anything is submitted. Jobs that are not nightrank's do not
exist here. Everything blocks: call it in a thread.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from nightrank.config.cluster import load_cluster
from nightrank.config.job import JobConfig, load_job
from nightrank.config.service import JobsSettings
from nightrank.errors import SettingsError
from nightrank.service import job_log
from nightrank.service.job_overrides import check_most, command, settings_of
from nightrank.service.job_schemas import JobRequest, JobState, JobSubmitted, Stage
from nightrank.service.jobs_api import JobsApi
from nightrank.service.refusal import RequestError

log = logging.getLogger("nightrank.service")

MARK = "nightrank.stage"  # in a job's metadata: this is nightrank's, and which stage it runs
# A night keeps the whole cluster busy, and each job is a process on the head node while it waits: one that works and
# some that wait are enough, and a caller who repeats a call without end does not fill the node.
MOST_IN_PROGRESS = 4
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Jobs:
    """told: a message without where the store and the node's files are (`ReleaseHolder.told`)."""

    def __init__(self, settings: JobsSettings, *, told: Callable[[str], str]) -> None:
        self._settings = settings
        self._api = JobsApi(settings)
        self._told_of_store = told

    def submit(self, request: JobRequest) -> JobSubmitted:
        """Have the cluster run a stage; returns once it has taken the job, not once it runs.

        One at a time: two side by side would not count each other. Raises RequestError: 422 invalid_overrides,
        409 jobs_busy, 503 jobs_unavailable.
        """
        base = self._base()
        told = self._teller(base)
        try:
            settings = settings_of(request.overrides)
            check_most(self._load(settings), base)
        except SettingsError as error:
            raise RequestError(422, "invalid_overrides", told(str(error))) from None
        job_id = f"nightrank-{request.stage}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        job = {
            "submission_id": job_id,
            "entrypoint": self._entrypoint(request.stage, settings),
            "metadata": {MARK: request.stage},
        }
        log.info("job %s: %s", job_id, ", ".join(settings) or "as the job file says")
        self._check_busy()
        try:
            self._api.submit(job)
        except RequestError as error:  # an answer that was lost is no proof that the job was not taken
            message = f"{error}. Should job {job_id} have been taken all the same, asking for it tells"
            raise RequestError(503, "jobs_unavailable", message) from None
        return JobSubmitted(id=job_id, stage=request.stage, state="PENDING")

    def _check_busy(self) -> None:
        """Counts nightrank's own, however they were submitted."""
        n_jobs = sum(
            one.get("status") in ("PENDING", "RUNNING") and MARK in (one.get("metadata") or {})
            for one in self._api.all_details()
        )
        if n_jobs >= MOST_IN_PROGRESS:
            raise RequestError(
                409,
                "jobs_busy",
                f"{n_jobs} jobs of nightrank's are pending or running; expected fewer than {MOST_IN_PROGRESS}: "
                "wait until one has ended",
            )

    def state(self, job_id: str) -> JobState:
        """What the cluster knows of a job. Raises RequestError: 404 unknown_job, 503 jobs_unavailable."""
        details = self._api.details(job_id) if JOB_ID.fullmatch(job_id) else None
        mark = None if details is None else (details.get("metadata") or {}).get(MARK)
        stage: Stage | None = next((one for one in get_args(Stage) if one == mark), None)
        if details is None or stage is None:
            message = f"there is no job {job_id[:128]!r} of nightrank's on the cluster"
            raise RequestError(404, "unknown_job", self._told_of_store(message))
        return self._described(job_id, stage, details)

    def _described(self, job_id: str, stage: Stage, details: dict[str, Any]) -> JobState:
        told = self._teller(self._loaded_base())
        state, message = details["status"], details.get("message")
        text, problem = self._api.log_of(job_id)
        said = None if message is None else told(_first_sentence(message))
        if problem is not None:
            said = problem if said is None else f"{said.removesuffix('.')}; {problem}"
        return JobState(
            id=job_id,
            stage=stage,
            state=state,
            exit_code=details.get("driver_exit_code"),
            submitted=_time(details.get("start_time")),
            ended=_time(details.get("end_time")),
            seconds=job_log.stage_seconds(text),
            result=job_log.summary(text, told=told) if state == "SUCCEEDED" else None,
            message=said,
            log=job_log.tail(text, told=told),
        )

    def _entrypoint(self, stage: str, settings: Sequence[str]) -> str:
        cluster = self._settings.cluster
        files = ["--config", self._settings.config, *([] if cluster is None else ["--cluster", cluster])]
        changes = [word for text in settings for word in ("--set", text)]
        return command([sys.executable, "-m", "nightrank", stage, *files, *changes])

    def _load(self, settings: Sequence[str] = ()) -> JobConfig:
        return load_job(self._settings.config, overrides=settings, inside_job=True)

    def _base(self) -> JobConfig:
        """The job file as it is: what is wrong with it is not the caller's fault."""
        try:
            if self._settings.cluster is not None:
                load_cluster(Path(self._settings.cluster))
            return self._load()
        except SettingsError as error:
            log.error("the files that jobs over HTTP run cannot be used: %s", error)
            message = "the service's job file or cluster file cannot be used; see the service's log"
            raise RequestError(503, "jobs_unavailable", message) from None

    def _loaded_base(self) -> JobConfig | None:
        try:
            return self._load()
        except SettingsError:
            return None  # a job that ran can be told about without it

    def _teller(self, base: JobConfig | None) -> Callable[[str], str]:
        """What hides places in a text: first those known by name; a path with a blank does not look like one."""
        settings = self._settings
        known = {settings.config: "the job file", settings.address.rstrip("/"): "the jobs API"}
        known |= {str(Path(settings.config).parent): "...", sys.prefix: "...", self._api.token() or "": "..."}
        if settings.cluster is not None:
            known[settings.cluster] = "the cluster file"
        if base is not None:
            known |= {f"store {base.store}": "the store", base.store: "the store"}
            tables = [one.path for one in (base.items, base.users) if one is not None]
            paths = [path for path in (base.events.path, *tables) if path is not None]
            known |= {path: Path(path).name for path in paths}
        longest_first = sorted((text for text in known if len(text) > 1), key=len, reverse=True)

        def told(text: str) -> str:
            for hidden in longest_first:
                text = text.replace(hidden, known[hidden])
            return job_log.without_addresses(self._told_of_store(text))

        return told


def _time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _first_sentence(message: str) -> str:
    """Of Ray's message: not the log that it ends with, nor a trace."""
    return message.partition("\n")[0].partition(", last available logs")[0]
