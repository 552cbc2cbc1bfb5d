"""What the records of a run must hold before anybody builds on them: bytes in a store are not taken on trust."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord
from nightrank.release.store import Store


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
    recommended: str = ""
    versions: dict[str, str] = {}


class _Chosen(_Record):
    family: str
    params: dict[str, int | float | str]


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


class _Point(_Record):
    epoch: int
    share: int
    value: float
    seconds: float


class TrialRecord(_Record):
    """A trial of a sweep, as `trials.begun` makes it."""

    trial: str
    family: str
    params: dict[str, int | float | str]
    seed: int
    origin: str
    state: Literal["running", "done", "stopped", "failed"]
    value: float | None
    low: float | None
    high: float | None
    history: list[_Point]
    fit_s: float | None
    rank_s: float | None
    reason: str | None
    started: str

    @model_validator(mode="after")
    def _measured(self) -> TrialRecord:
        if self.state == "done" and self.value is None:
            raise ValueError("a trial that is done has no value")
        return self


STAGE_RECORDS: dict[str, type[BaseModel]] = {
    "sweep": _Swept,
    "train": _Trained,
    "score": _Scored,
    "publish": _Published,
}


def read_json(store: Store, key: str, *, shape: type[BaseModel] | None = None) -> Any:
    """A small record, or None where there is none. Raises ReleaseError where it is not JSON of that shape."""
    found = store.read(key)
    try:
        value = None if found is None else json.loads(found.data)
        if found is not None and shape is not None:
            shape.model_validate(value)
    except (ValueError, RecursionError) as error:
        wrong = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not JSON"}
        where = ".".join(map(str, wrong["loc"])) or "the top"
        raise ReleaseError(
            f"{key} in store {store.url} is broken at {where}: {wrong['msg']}; delete it to have the stage run again"
        ) from None
    return value
