"""The shapes of requests and answers, for OpenAPI and for checking queries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = int | str


class RankedItem(BaseModel):
    """One place of a list."""

    item_id: Id
    rank: int = Field(ge=1, description="from 1")
    score: float = Field(description="precomputed: the model's score; similar: cosine; popular: users")
    title: str | None = Field(default=None, description="left out where the item has none")


class Recommendations(BaseModel):
    """A user's list."""

    user_id: Id
    release: str
    source: Literal["precomputed", "popular"]
    items: list[RankedItem]


class SimilarItems(BaseModel):
    """The items closest to one."""

    item_id: Id
    release: str
    items: list[RankedItem]


class HistoryItem(BaseModel):
    """One item of a history; weight: the combined weight of the user's events on it."""

    item_id: Id
    weight: float
    title: str | None = None


class History(BaseModel):
    """What a user did, strongest first."""

    user_id: Id
    release: str
    items: list[HistoryItem]


class ReleaseInfo(BaseModel):
    """A published release."""

    release: str
    created: str
    family: str
    params: dict[str, int | float]
    metrics: dict[str, float]
    counts: dict[str, int]


class Releases(BaseModel):
    """What is published, oldest first."""

    current: str | None
    releases: list[ReleaseInfo]
    broken: dict[str, str] = Field(description="releases that cannot be read, and why")


class CurrentRelease(BaseModel):
    """current: what CURRENT names; held: what the answering replica uses; problem: why they differ."""

    current: str | None
    held: str | None
    pinned: bool
    problem: str | None


class Health(BaseModel):
    """The process is up."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The replica answers from a release."""

    status: Literal["ready"]
    release: str
    problem: str | None = Field(description="why a newer release is refused, if one is")


class ErrorBody(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str


class Error(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorBody


class ListQuery(BaseModel):
    """How many items; anything else in the query is refused."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="default: 10, or as many as the release stores where that is fewer"
    )
