"""How long the stages of the night take, from the records that runs leave in the store.

From the store, since it is true of every run however it was started (HTTP, `ray job submit`, the command line) and
outlives the cluster. Bounded: the newest runs only, asked for again after some seconds at the earliest.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightrank.errors import ReleaseError, StoreUnreachable
from nightrank.release.leftovers import RUN_KEY
from nightrank.release.store import Store
from nightrank.service.job_schemas import StageSeconds

log = logging.getLogger("nightrank.service")

STAGES = ("sweep", "train", "score", "publish")
N_RUNS = 20  # a mean over more would hide that the nights have changed
FRESH_S = 15.0

Shape = TypeVar("Shape", bound=BaseModel)


class _Started(BaseModel):
    """Of run.json: when the run began, ISO 8601 in UTC."""

    model_config = ConfigDict(strict=True)

    created: str


class _Finished(BaseModel):
    """Of a stage's record. ended: "" in a record that does not say it."""

    model_config = ConfigDict(strict=True)

    seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    ended: str = ""


class _Time(NamedTuple):
    order: tuple[str, str]  # when the stage ended, else when its run began
    seconds: float


class StageTimes:
    """Recent and mean seconds of each stage; one for a replica, safe to call from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._created: dict[str, str] = {}  # by run; a run's never changes
        self._times: dict[tuple[str, str], _Time] = {}  # by run and stage; a finished stage stays as it is
        self._found: dict[str, StageSeconds] = {}
        self._read_at: float | None = None

    def recent(self) -> dict[str, StageSeconds]:
        """By stage, over the newest runs; a stage that none of them finished is left out.

        Blocks while the store is read, one thread only: others get what is known. So it is where the store cannot be
        read, which the log says.
        """
        if not self._lock.acquire(blocking=False):
            return self._found
        try:
            if self._read_at is None or time.monotonic() - self._read_at >= FRESH_S:
                self._found = self._read()
        except (ReleaseError, OSError) as error:
            log.warning("the seconds of stages cannot be read: %s", error)
        finally:
            self._read_at = time.monotonic()
            self._lock.release()
        return self._found

    def _read(self) -> dict[str, StageSeconds]:
        keys = {key for key in self._store.children("runs") if RUN_KEY.fullmatch(key)}
        created = {key: self._created.get(key) or self._read_created(key) for key in keys}
        self._created = {key: text for key, text in created.items() if text is not None}
        newest = sorted(self._created, key=lambda key: (self._created[key], key))[-N_RUNS:]
        wanted = [(key, stage) for key in newest for stage in STAGES]
        times = {one: self._times.get(one) or self._read_time(*one) for one in wanted}
        self._times = {one: found for one, found in times.items() if found is not None}
        return {stage: found for stage in STAGES if (found := self._over_runs(stage)) is not None}

    def _over_runs(self, stage: str) -> StageSeconds | None:
        times = sorted(found for (_, of), found in self._times.items() if of == stage)
        if not times:
            return None
        mean = sum(one.seconds for one in times) / len(times)
        return StageSeconds(last=times[-1].seconds, mean=round(mean, 2), runs=len(times))

    def _read_created(self, key: str) -> str | None:
        found = self._record(f"runs/{key}/run.json", _Started)
        return None if found is None else found.created

    def _read_time(self, key: str, stage: str) -> _Time | None:
        found = self._record(f"runs/{key}/stages/{stage}.json", _Finished)
        if found is None:
            return None
        return _Time((found.ended or self._created[key], key), found.seconds)

    def _record(self, name: str, shape: type[Shape]) -> Shape | None:
        try:
            found = self._store.read(name)
            return None if found is None else shape.model_validate_json(found.data)
        except StoreUnreachable:
            raise
        except (ReleaseError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            log.warning("%s is broken and counts for no statistics: %s", name, reason)
            return None
