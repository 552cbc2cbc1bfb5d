"""Activations over HTTP: one at a time, each goes on when its caller has left, and how the last one ended is kept."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from nightrank.errors import NightrankError, ReleaseError, StoreConflict, StoreUnreachable
from nightrank.release.manifest import RELEASE_ID
from nightrank.release.publish import activate, published
from nightrank.service.holder import ReleaseHolder
from nightrank.service.meters import Meters
from nightrank.service.refusal import RequestError
from nightrank.service.threads import Threads

log = logging.getLogger("nightrank.service")

ACTIVATION_S = 5.0  # how long a caller waits for it before being told that it goes on
MOST_ID_CHARS = 80  # told of what is no release id


class Activations:
    """last: of this replica, as `schemas.LastActivation` describes it; None before any."""

    def __init__(self, holder: ReleaseHolder, *, meters: Meters) -> None:
        self.last: dict[str, Any] | None = None
        self._holder, self._meters = holder, meters
        self._thread = Threads("a release is being verified already", threads=1, waiting=0)
        self._going_on: set[asyncio.Task[str | None]] = set()

    async def activate(self, release_id: str) -> dict[str, Any]:
        """As `schemas.Activation` describes it. Raises RequestError for what is refused within `ACTIVATION_S`."""
        task = asyncio.ensure_future(self._thread.run(lambda: self._recorded(release_id)))
        self._going_on.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=ACTIVATION_S)
        if not done:
            return {"release": release_id, "state": "verifying", "before": None}
        return {"release": release_id, "state": "activated", "before": await task}

    def _ended(self, task: asyncio.Task[str | None]) -> None:
        self._going_on.discard(task)
        if not task.cancelled():
            task.exception()  # `last` tells it to whoever comes back; asyncio would call it lost

    def _recorded(self, release_id: str) -> str | None:
        self._tell(release_id, "verifying")
        try:
            before = self._activate(release_id)
        except Exception as error:  # whatever it is, nobody else may be left to hear of it
            known = isinstance(error, NightrankError)
            whole = error if error.__cause__ is None else error.__cause__  # with places: for the log alone
            log.error("release %.90r was not put in service: %s", release_id, whole, exc_info=not known)
            unforeseen = f"it failed ({type(error).__name__}); see the service's log"
            self._tell(release_id, "refused", reason=self._holder.told(str(error)) if known else unforeseen)
            self._meters.activated("refused")
            raise
        log.info("release %s is in service, before it %s", release_id, before)
        self._tell(release_id, "activated")
        self._meters.activated("done")
        self._holder.look()
        return before

    def _activate(self, release_id: str) -> str | None:
        store = self._holder.store
        if not RELEASE_ID.fullmatch(release_id) or release_id not in published(store):
            raise RequestError(
                404,
                "unknown_release",
                f"{release_id[:MOST_ID_CHARS]!r} is not published; GET /v1/releases lists what is",
            )
        try:
            return activate(store, release_id)
        except StoreUnreachable:
            raise
        except StoreConflict as error:
            raise RequestError(409, "conflict", self._holder.told(str(error))) from error
        except ReleaseError as error:
            raise RequestError(409, "release_refused", self._holder.told(str(error))) from error

    def _tell(self, release_id: str, state: str, *, reason: str | None = None) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.last = {"release": release_id[:MOST_ID_CHARS], "state": state, "reason": reason, "at": at}
