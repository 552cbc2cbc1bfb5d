"""The `items` and `users` of a job file: where the tables are, their columns, and which of them are features.

Whether a file really has these columns is for `data/` to say. Here is refused what cannot be meant: a table that
nobody asks anything of, a feature named twice, the id as a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from nightrank.config.events import ColumnName
from nightrank.config.locations import check_local
from nightrank.config.problems import Problem, ProblemsError, shown
from nightrank.config.strict import StrictModel

SEPARATOR = "|"
LocalPath = Annotated[str, AfterValidator(check_local)]


@dataclass(frozen=True)
class SideColumns:
    """What is read of the users' or the items' table for models with features, by the caller's names.

    separator: what splits a text into several categories.
    """

    id: str
    features: tuple[str, ...]
    separator: str = SEPARATOR


# What families with features use of a known data set where the job file names nothing else.
DATASET_USERS: Mapping[str, SideColumns] = {
    "movielens-100k": SideColumns("user_id", ("age", "gender", "occupation")),
}
DATASET_ITEMS: Mapping[str, SideColumns] = {
    "movielens-100k": SideColumns("item_id", ("genres",)),
}


class ItemsConfig(StrictModel):
    """Titles, categories and features of the catalogue; its id column is called as in the events."""

    path: LocalPath
    title: ColumnName | None = None
    categories: ColumnName | None = None
    separator: Annotated[str, Field(min_length=1)] = SEPARATOR
    features: list[ColumnName] = Field(default_factory=list)

    @field_validator("features")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        _refuse_repeats(value)
        return value

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.title is None and self.categories is None and not self.features:
            raise ValueError(
                "found neither title, categories nor features; name one of these columns, or remove items"
            )
        if self.categories is None and not self.features and self.separator != SEPARATOR:
            cure = "name the columns it separates, or remove it"
            text = f"found {shown(self.separator)} without items.categories and items.features; {cure}"
            raise ProblemsError([Problem(("separator",), text)])
        return self


class UsersConfig(StrictModel):
    """Features of the users; the id column is called as in the events."""

    path: LocalPath
    features: list[ColumnName]
    separator: Annotated[str, Field(min_length=1)] = SEPARATOR

    @field_validator("features")
    @classmethod
    def _some_once(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("found [], expected at least one column; name one, or remove users")
        _refuse_repeats(value)
        return value


def id_problems(features: Sequence[str], *, key: str, column: str) -> list[Problem]:
    """The problem of an id column among the features, if it is. key: items or users. column: of the ids."""
    if column not in features:
        return []
    text = f'found "{column}", which is the column of the ids; every model knows the ids already: remove it'
    return [Problem((key, "features", features.index(column)), text)]


def _refuse_repeats(names: Sequence[str]) -> None:
    problems = [
        Problem((place,), f'found "{name}" a second time; name each column once')
        for place, name in enumerate(names)
        if name in names[:place]
    ]
    if problems:
        raise ProblemsError(problems)
