"""What the records of a run must hold before anybody builds on them: bytes in a store are not taken on trust."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from nightrank.release.files import FileRecord


class _Record(BaseModel):
    """What is asked of a record; it may hold more."""

    model_config = ConfigDict(extra="allow", strict=True)


class BucketRecord(_Record):
    """A bucket of users or a part of the catalogue whose files are in place."""

    model_hash: str
    files: dict[str, FileRecord]
    users: int
    rows: int
    empty_users: int


class _Chosen(_Record):
    family: str
    params: dict[str, int | float]


class _Winner(_Chosen):
    value: float


class _Judged(_Record):
    metric: str
    candidate: float
    change: float


class _Counts(_Record):
    rows: int
    rare_item_events: int
    rare_user_events: int
    zero_pairs: int


class _Fitted(_Record):
    model_hash: str
    users: int
    items: int
    pairs: int
    counts: _Counts


class _Swept(_Record):
    seconds: float
    metric: str
    winner: _Winner


class _Trained(_Record):
    seconds: float
    recipe: _Chosen
    quality: _Judged
    model: _Fitted


class _Scored(_Record):
    seconds: float
    users: int
    rows: int
    empty_users: int


class _Published(_Record):
    seconds: float
    before: str | None


STAGE_RECORDS: dict[str, type[BaseModel]] = {
    "sweep": _Swept,
    "train": _Trained,
    "score": _Scored,
    "publish": _Published,
}
