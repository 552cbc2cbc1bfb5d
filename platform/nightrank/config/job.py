"""The job file: one YAML that drives every stage, as frozen settings.

Only what this version does is accepted. Keys and values of later versions (users, label, other families, s3://
stores) are refused by name with what is available instead; no setting is read and ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator, model_validator

from nightrank.config.events import EventsConfig, ItemsConfig
from nightrank.config.families import Space, Value, combines
from nightrank.config.locations import absolute_path, check_store, home_store, is_relative
from nightrank.config.objective import ObjectiveConfig, objective_problems
from nightrank.config.problems import Problem, ProblemsError, settings_error, shown
from nightrank.config.rules import Rule, parse_rule
from nightrank.config.spaces import dump_models, family_named, parse_models, parse_params
from nightrank.config.split import WITHOUT_TIMES, SplitConfig
from nightrank.config.strict import StrictModel, load

JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entry point of a submitted job


class TrainConfig(StrictModel):
    """A family by name (the sweep is skipped, `params` are complete), or null for the sweep's winner."""

    model: str | None = None
    params: dict[str, Value] = Field(default_factory=dict, validate_default=True)

    @field_validator("model")
    @classmethod
    def _known_family(cls, value: str | None) -> str | None:
        if value is not None:
            family_named(value)
        return value

    @field_validator("params", mode="plain")
    @classmethod
    def _complete(cls, value: Any, info: ValidationInfo) -> Any:
        """The named family's defaults filled in; types and bounds are the family table's."""
        if not isinstance(value, dict):
            raise ValueError(f"found {shown(value)}, expected a mapping of parameters")
        model = info.data.get("model")
        if model is not None:
            return parse_params(family_named(model), value)
        if value and "model" in info.data:  # a model that is wrong has its own problem already
            raise ValueError(f"found {shown(value)} without train.model; name the model, or remove them")
        return value


class SweepConfig(StrictModel):
    """How many trials over which families; each family's space is complete after loading."""

    trials: int = Field(default=24, ge=1)
    models: Annotated[
        dict[str, dict[str, Space]], PlainValidator(parse_models), PlainSerializer(dump_models)
    ] = Field(default_factory=lambda: parse_models({"als": {}}))


class GateConfig(StrictModel):
    """What a candidate must hold against the recipe in service, and how much of the catalogue it shows."""

    min_change: float = Field(default=-0.002, ge=-1.0, le=1.0)
    min_coverage: float = Field(default=0.05, ge=0.0, le=1.0)


class ScoreConfig(StrictModel):
    """The lists that are written; `buckets` null is the next power of two from n_users / 20,000."""

    k: int = Field(default=100, ge=1)
    exclude_seen: bool = True
    buckets: int | None = Field(default=None, ge=1)
    similar_items_k: int = Field(default=50, ge=1)


class JobConfig(StrictModel):
    """Everything a night needs to know."""

    not_yet: ClassVar[Mapping[str, str]] = {
        "users": "models here use no user features; remove it",
        "label": "there is no model with labels; remove it",
    }

    store: str = Field(default_factory=home_store)
    seed: int = Field(default=0, ge=0)
    events: EventsConfig
    items: ItemsConfig | None = None
    split: SplitConfig = Field(default_factory=SplitConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sweep: SweepConfig = Field(default_factory=SweepConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)

    @field_validator("store")
    @classmethod
    def _reachable(cls, value: str) -> str:
        return check_store(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = self.split.kind
        if kind in WITHOUT_TIMES and self.events.columns.time is None:
            cure = f"name it in events.columns.time, or use {WITHOUT_TIMES[kind]}"
            problem = Problem(("split", "kind"), f"{kind} goes by time and there is no time column; {cure}")
            raise ProblemsError([problem])
        return self

    @property
    def families(self) -> tuple[str, ...]:
        """The families that this job may fit: the one it names, or those that it searches."""
        return tuple(self.sweep.models) if self.train.model is None else (self.train.model,)

    def combines(self, families: Iterable[str]) -> tuple[str, ...]:
        """How repeated pairs combine for these families: as the job says, else each family's own default."""
        return combines(families) if self.events.combine is None else (self.events.combine,)

    def without_locations(self) -> dict[str, Any]:
        """Plain values (JSON) of everything but where things are: what the run key hashes."""
        return self.model_dump(
            mode="json", exclude={"store": True, "events": {"path": True}, "items": {"path": True}}
        )


def inside_job() -> bool:
    """Is this process the entry point of `ray job submit`?"""
    return JOB_MARK in os.environ


def load_job(path: Path | str, *, overrides: Sequence[str] = (), inside_job: bool = False) -> JobConfig:
    """The job file with overrides applied and every path absolute.

    Raises SettingsError naming the file and every key that cannot be used. `inside_job`: `ray job submit`
    started this process; its working directory does not outlive it, so relative paths are refused.
    """
    path = Path(path)
    job = load(JobConfig, path, overrides=overrides)
    return resolve_paths(job, base=path.parent, inside_job=inside_job, source=str(path))


def resolve_paths(
    job: JobConfig, *, base: Path, inside_job: bool = False, source: str = "the job file"
) -> JobConfig:
    """The same job with absolute paths; relative ones start at `base`; in a Ray job they are refused."""
    problems: list[Problem] = []

    def resolved(value: str, *key: str) -> str:
        try:
            if inside_job and is_relative(value):
                why = "inside a Ray job the working directory is a temporary copy; write the path out in full"
                raise ValueError(f'found the relative path "{value}"; {why}')
            return absolute_path(value, base=base)
        except ValueError as error:
            problems.append(Problem(key, str(error)))
            return value

    changes: dict[str, Any] = {"store": resolved(job.store, "store")}
    if job.events.path is not None:
        path = resolved(job.events.path, "events", "path")
        changes["events"] = job.events.model_copy(update={"path": path})
    if job.items is not None:
        path = resolved(job.items.path, "items", "path")
        changes["items"] = job.items.model_copy(update={"path": path})
    if problems:
        raise settings_error(source, problems)
    return job.model_copy(update=changes)
