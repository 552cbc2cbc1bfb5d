"""The job file: one YAML that drives every stage, as frozen settings.

Only what this version does is accepted: what it does not know is refused by name with what is available instead; no
setting is read and ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator, model_validator

from nightrank.config.events import EventsConfig
from nightrank.config.families import Choices, Space, Value, combines
from nightrank.config.locations import absolute_path, check_store, home_store, is_relative
from nightrank.config.metadata import (
    DATASET_ITEMS,
    DATASET_USERS,
    ItemsConfig,
    SideColumns,
    UsersConfig,
    id_problems,
)
from nightrank.config.objective import ObjectiveConfig, objective_problems
from nightrank.config.problems import Key, Problem, ProblemsError, settings_error, shown
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

    store: str = Field(default_factory=home_store)
    seed: int = Field(default=0, ge=0)
    events: EventsConfig
    items: ItemsConfig | None = None
    users: UsersConfig | None = None
    split: SplitConfig = Field(default_factory=SplitConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    label: str | None = None  # the rule that makes classes of weights
    train: TrainConfig = Field(default_factory=TrainConfig)
    sweep: SweepConfig = Field(default_factory=SweepConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)

    @field_validator("store")
    @classmethod
    def _reachable(cls, value: str) -> str:
        return check_store(value)

    @field_validator("label")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        return None if value is None else str(parse_rule(value))

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            *self._time_problems(),
            *self._label_problems(),
            *objective_problems(self.objective, self._tasks(), has_label=self.label is not None),
        ]
        for key, table, column in (
            ("items", self.items, self.events.columns.item),
            ("users", self.users, self.events.columns.user),
        ):
            problems += [] if table is None else id_problems(table.features, key=key, column=column)
        if problems:
            raise ProblemsError(problems)
        return self

    def _time_problems(self) -> list[Problem]:
        kind = self.split.kind
        if kind not in WITHOUT_TIMES or self.events.columns.time is not None:
            return []
        cure = f"name it in events.columns.time, or use {WITHOUT_TIMES[kind]}"
        return [Problem(("split", "kind"), f"{kind} goes by time and there is no time column; {cure}")]

    def _label_problems(self) -> list[Problem]:
        """A family that may be fitted to classes, and no rule that makes them."""
        if self.label is not None:
            return []
        cure = 'say which weights are of the class with label, for example "weight>=4"'
        if self.train.model is not None:
            found = self.train.params.get("task") == "label"
            text = f'found "label" without the setting label; {cure}'
            return [Problem(("train", "params", "task"), text)] if found else []
        tasks = {name: space["task"] for name, space in self.sweep.models.items() if "task" in space}
        return [
            Problem(("sweep", "models", name, "task"), f'found "label" without the setting label; {cure}')
            for name, task in tasks.items()
            if isinstance(task, Choices) and "label" in task.values
        ]

    def _tasks(self) -> list[tuple[Key, str, Value | None]]:
        """Key, family and task of whatever this job may fit."""
        if self.train.model is not None:
            return [(("train", "model"), self.train.model, self.train.params.get("task"))]
        found: list[tuple[Key, str, Value | None]] = []
        for name, spaces in self.sweep.models.items():
            space = spaces.get("task")
            tasks = space.values if isinstance(space, Choices) else (None,)
            found += [(("sweep", "models", name), name, task) for task in tasks]
        return found

    @property
    def families(self) -> tuple[str, ...]:
        """The families that this job may fit: the one it names, or those that it searches."""
        return tuple(self.sweep.models) if self.train.model is None else (self.train.model,)

    def combines(self, families: Iterable[str]) -> tuple[str, ...]:
        """How repeated pairs combine for these families: as the job says, else each family's own default."""
        return combines(families) if self.events.combine is None else (self.events.combine,)

    @property
    def label_rule(self) -> Rule | None:
        """`label`, ready to apply."""
        return None if self.label is None else parse_rule(self.label)

    @property
    def user_columns(self) -> SideColumns | None:
        """What models with features read of the users' table: the job's own, or a data set's; None for nothing."""
        if self.users is not None:
            return SideColumns(self.events.columns.user, tuple(self.users.features), self.users.separator)
        return None if self.events.dataset is None else DATASET_USERS[self.events.dataset]

    @property
    def item_columns(self) -> SideColumns | None:
        """The same of the items' table; None where `items` names no features."""
        if self.items is None:
            return None if self.events.dataset is None else DATASET_ITEMS[self.events.dataset]
        if not self.items.features:
            return None
        return SideColumns(self.events.columns.item, tuple(self.items.features), self.items.separator)

    def without_locations(self) -> dict[str, Any]:
        """Plain values (JSON) of everything but where things are: what the run key hashes."""
        places = {"events": {"path": True}, "items": {"path": True}, "users": {"path": True}}
        return self.model_dump(mode="json", exclude={"store": True, **places})


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
    for key, table in (("items", job.items), ("users", job.users)):
        if table is not None:
            changes[key] = table.model_copy(update={"path": resolved(table.path, key, "path")})
    if problems:
        raise settings_error(source, problems)
    return job.model_copy(update=changes)
