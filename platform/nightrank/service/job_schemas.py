"""The shapes of jobs over HTTP: what is asked for, and what is said about a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Stage = Literal["sweep", "train", "score", "nightly"]
State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


class JobRequest(BaseModel):
    """A stage to run, with changes to the service's job file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="key or key.path: value, in place of the job file's; as with --set"
    )


class JobSubmitted(BaseModel):
    """A job that the cluster took."""

    id: str
    stage: Stage
    state: State


class JobState(BaseModel):
    """A job, as the cluster knows it. Times are UTC."""

    id: str
    stage: Stage
    state: State
    exit_code: int | None = Field(description="the command's, once it ended: 3 is a gate's refusal")
    submitted: datetime | None
    ended: datetime | None
    seconds: dict[str, float] = Field(description="of each stage that this job finished")
    result: dict[str, Any] | None = Field(description="the summary of the run, once the job ended well")
    message: str | None = Field(description="what the cluster says of it")
    log: list[str] = Field(description="the last lines of its log, without places and traces")


class StageSeconds(BaseModel):
    """How long a stage of the night takes. runs: over how many runs; last: the one that ended last."""

    last: float
    mean: float
    runs: int
