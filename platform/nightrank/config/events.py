"""The `events` of a job file: where the table is, its columns, what an event weighs.

Whether a file really has these columns is for `data/` to say. Here is refused what cannot be meant: settings
that need a column nobody named, one column in two roles, two sources at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from nightrank.config.locations import check_local
from nightrank.config.problems import Problem, ProblemsError, shown
from nightrank.config.strict import StrictModel

ColumnName = Annotated[str, Field(min_length=1)]

# Columns of the events of the known data sets, as `nightrank data fetch` writes them.
DATASET_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "movielens-100k": {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"},
}


class ColumnsConfig(StrictModel):
    """Which column plays which role; null is a column that is not there (no weight: every event weighs 1)."""

    user: ColumnName = "user_id"
    item: ColumnName = "item_id"
    weight: ColumnName | None = None
    time: ColumnName | None = None
    type: ColumnName | None = None

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        roles: dict[str, str] = {}
        problems = []
        for role, name in self.model_dump().items():
            if name is not None and roles.setdefault(name, role) != role:
                found = f'found "{name}", which is also the {roles[name]} column'
                problems.append(Problem((role,), f"{found}; every role needs a column of its own"))
        if problems:
            raise ProblemsError(problems)
        return self


class WeighingConfig(StrictModel):
    """The columns of the events, and how events become weights; wherever the events come from."""

    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    type_weights: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    combine: Literal["sum", "max", "last"] | None = None  # null: the default of the model family
    half_life_days: float | None = Field(default=None, gt=0.0)
    min_events_per_user: int = Field(default=1, ge=1)
    min_events_per_item: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        if problems:
            raise ProblemsError(problems)
        return self

    def _problems(self) -> list[Problem]:
        problems = []
        weights = shown(self.type_weights)
        if self.type_weights and self.columns.type is None:
            cure = "name the column that holds the type in events.columns.type"
            problems.append(Problem(("type_weights",), f"found {weights} without a type column; {cure}"))
        if self.columns.type is not None and not any(weight > 0 for weight in self.type_weights.values()):
            cure = "give at least one type a weight above 0, or set events.columns.type to null"
            problems.append(Problem(("type_weights",), f"found {weights} with a type column; {cure}"))
        if self.columns.time is None:
            cure = "name the column in events.columns.time"
            if self.half_life_days is not None:
                text = f"found {self.half_life_days} without a time column; {cure}"
                problems.append(Problem(("half_life_days",), text))
            if self.combine == "last":
                problems.append(Problem(("combine",), f'found "last" without a time column; {cure}'))
        return problems


class EventsConfig(WeighingConfig):
    """One source of events, a known data set or files, and how events become weights."""

    dataset: Literal["movielens-100k"] | None = None
    path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _columns_of_the_dataset(cls, raw: Any) -> Any:
        """A known data set's columns need not be written down."""
        if not isinstance(raw, dict) or not isinstance(raw.get("columns", {}), dict):
            return raw
        dataset = raw.get("dataset")
        known = DATASET_COLUMNS.get(dataset) if isinstance(dataset, str) else None
        return raw if known is None else {**raw, "columns": {**known, **raw.get("columns", {})}}

    @field_validator("path")
    @classmethod
    def _local(cls, value: str | None) -> str | None:
        return None if value is None else check_local(value)

    def _problems(self) -> list[Problem]:
        return [*self._source_problems(), *super()._problems()]

    def _source_problems(self) -> list[Problem]:
        if (self.dataset is None) == (self.path is None):
            found = "neither dataset nor path" if self.dataset is None else "both dataset and path"
            return [Problem((), f"found {found}, expected exactly one of them")]
        if self.dataset is None:
            return []
        known = DATASET_COLUMNS[self.dataset]
        return [
            Problem(("columns", role), f'found "{name}"; {self.dataset} has {", ".join(known.values())}')
            for role, name in self.columns.model_dump().items()
            if name is not None and name not in known.values()
        ]
