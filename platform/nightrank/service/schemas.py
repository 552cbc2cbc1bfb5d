"""The shapes of requests and answers: what is checked on the way in, and what OpenAPI says of both.

Requests are strict: a field nobody knows, a text for a number, or NaN is refused. In a query, where all is text, k is
digits and a flag `true` or `false`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, field_validator

from nightrank.service.feature_schema import MOST_FEATURES, MOST_UNKNOWN, Feature

Id = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | str
Source = Literal["precomputed", "live", "fold_in", "features", "popular"]


class Asked(BaseModel):
    """Base of what comes in. A list stops at its first wrong entry: a megabyte of them costs no more than one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Event(Asked):
    """Something the user just did. type: as in the events of the night; weight: times that of the type."""

    item_id: Id
    type: str | None = None
    weight: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0


class Context(Asked):
    """What to recommend from: a user, events, features, and filters; see docs/http.md."""

    user_id: Id | None = None
    events: Annotated[list[Event], Field(fail_fast=True)] = []
    features: dict[str, Feature] = Field(
        default={},
        max_length=MOST_FEATURES,
        description="of a user whom the release does not know, by column; a list: several categories of one column",
    )
    k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="how many items; null: 10")
    categories: Annotated[list[str], Field(fail_fast=True)] = Field(
        default=[], max_length=100, description="items of any of these alone"
    )
    exclude: Annotated[list[Id], Field(fail_fast=True)] = []
    candidates: Annotated[list[Id], Field(fail_fast=True)] | None = Field(
        default=None, description="rank these alone"
    )
    include_seen: bool | None = Field(
        default=None, description="rank what the user has seen too; default: as the night did"
    )

    @field_validator("features", mode="before")
    @classmethod
    def _few(cls, features: Any) -> Any:
        """Counted before they are looked at: a dictionary has no first mistake to stop at."""
        if isinstance(features, dict) and len(features) > MOST_FEATURES:
            raise ValueError(f"at most {MOST_FEATURES} features, not {len(features)}")
        return features


class Batch(Asked):
    """Several requests at once, answered in order, from one release."""

    requests: Annotated[list[Context], Field(max_length=100, fail_fast=True)]


def _which(body: Any) -> str:
    return "batch" if isinstance(body, Batch) or (isinstance(body, dict) and "requests" in body) else "one"


class ContextOrBatch(RootModel[Any]):
    """One request, or `requests`."""

    root: Annotated[Annotated[Context, Tag("one")] | Annotated[Batch, Tag("batch")], Discriminator(_which)]


class Pair(Asked):
    """A user and an item."""

    user_id: Id
    item_id: Id


class Pairs(Asked):
    """Whose rating, probability or score is asked for."""

    pairs: Annotated[list[Pair], Field(fail_fast=True)]


class NoQuery(Asked):
    """Nothing may stand in the query."""


class ListQuery(Asked):
    """How many."""

    k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="how many items; by default 10")


class RecommendationsQuery(ListQuery):
    """How many, and filters."""

    category: list[str] = Field(
        default=[], description="items of this category alone; of any, where repeated"
    )
    exclude: list[str] = Field(default=[], description="not this item; may repeat")
    include_seen: bool | None = Field(
        default=None, description="rank what the user has seen too; default: as the night did"
    )


class RankedItem(BaseModel):
    """One place of a list."""

    item_id: Id
    rank: int = Field(ge=1, description="from 1")
    score: float = Field(description="the model's score; similar: cosine; source popular: users")
    title: str | None = Field(default=None, description="left out where the item has none")


class Recommendations(BaseModel):
    """A list. The unknown_ fields are left out where there are none."""

    user_id: Id | None = Field(description="null where the request named none")
    release: str
    source: Source
    items: list[RankedItem]
    unknown_items: list[Id] = Field(default=[], description="candidates and events the release does not know")
    unknown_features: list[str] = Field(
        default=[],
        max_length=MOST_UNKNOWN,
        description="features that say nothing here: a column, or column=value, cut at 80 characters",
    )
    more_unknown_features: int | None = Field(
        default=None, description="how many more of them there are; left out where all are named"
    )


class ErrorBody(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str


class Error(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorBody


class Responses(BaseModel):
    """An answer or an error for every request of a batch, in order."""

    responses: list[Recommendations | Error]


class OneOrAll(RootModel[Recommendations | Responses]):
    """The answer to one request, or to a batch."""


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


class Prediction(BaseModel):
    """value: null where one of the two is unknown; reason says which. label: of a probability, from 0.5 on."""

    user_id: Id
    item_id: Id
    value: float | None
    label: bool | None = None
    reason: Literal["unknown_user", "unknown_item"] | None = None


class Predictions(BaseModel):
    """In the order of the pairs. kind: what the values are; a `score` only orders."""

    release: str
    kind: Literal["rating", "probability", "score"]
    label_rule: str | None = Field(
        default=None,
        description="of probabilities: which weights make the class, such as weight>=4; "
        "left out for others, and in releases made before it was kept",
    )
    predictions: list[Prediction]


class ReleaseInfo(BaseModel):
    """A published release."""

    release: str
    created: str
    family: str
    params: dict[str, int | float | str]
    metrics: dict[str, float]
    counts: dict[str, int]


class Releases(BaseModel):
    """What is published, oldest first."""

    current: str | None
    releases: list[ReleaseInfo]
    broken: dict[str, str] = Field(description="releases that cannot be read, and why")


class LastActivation(BaseModel):
    """How the last call of `activate` went that the answering replica took."""

    release: str
    state: Literal["verifying", "activated", "refused"]
    reason: str | None = Field(description="why it was refused")
    at: str = Field(description="since when it is in this state, UTC")


class CurrentRelease(BaseModel):
    """current: what CURRENT names; held: what the answering replica uses; problem: why they differ."""

    current: str | None
    held: str | None
    pinned: bool
    problem: str | None
    activation: LastActivation | None = Field(description="null before any")


class Activation(BaseModel):
    """state: `activated`, CURRENT names it; `verifying`, that goes on and GET /v1/releases/current will tell."""

    release: str
    state: Literal["activated", "verifying"]
    before: str | None = Field(description="what CURRENT named before; null while verifying")


class Health(BaseModel):
    """The process is up."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The replica answers from a release."""

    status: Literal["ready"]
    release: str
    problem: str | None = Field(description="why a newer release, or key file, is refused, if one is")
