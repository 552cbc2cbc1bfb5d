"""Which release a replica answers from: it follows CURRENT (or a pin), prepares aside, then flips one reference.

A release that cannot be opened is refused and the old one stays, visibly. An unreachable store changes
nothing.
"""

from __future__ import annotations

import logging
import re
import threading
from datetime import datetime

from nightrank.config.locations import nightrank_home
from nightrank.errors import NightrankError
from nightrank.release.manifest import current, release_key
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store
from nightrank.service.meters import Meters
from nightrank.service.prepared import OpenIndex, Prepared, in_process, prepare

log = logging.getLogger("nightrank.service")

POLL_S = 1.0
PLACE = re.compile(r"\w+://\S+|(?<![\w.])/[^\s;,:()'\"]+")  # a URL or an absolute path


class ReleaseHolder:
    """prepared: what answers come from, None before there is any. problem: why the wanted release is not in use.

    open_index: how a release's catalogue is made ready.
    """

    def __init__(
        self,
        store: Store,
        *,
        open_index: OpenIndex = in_process,
        meters: Meters | None = None,
    ) -> None:
        self.store, self.open_index = store, open_index
        self.meters = Meters() if meters is None else meters
        self.pin: str | None = None
        self.prepared: Prepared | None = None
        self.problem: str | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshing = threading.Lock()

    @property
    def release(self) -> Release | None:
        """The release in use."""
        return None if self.prepared is None else self.prepared.release

    def follow(self, pin: str | None = None) -> None:
        """Follow CURRENT, or stay with the release `pin`.

        The first call refreshes, then goes on every second in a thread of its own; later calls wake it.
        """
        self.pin = pin
        if self._thread is None:
            self.refresh()
            self._thread = threading.Thread(target=self._loop, name="nightrank-release", daemon=True)
            self._thread.start()
        self.look()

    def look(self) -> None:
        """Look at CURRENT now, not at the end of this second."""
        self._wake.set()

    def refresh(self) -> None:
        """Bring `release` to what is wanted; never raises for a store or release that is not well."""
        with self._refreshing:
            try:
                found = self._look()
            except NightrankError as error:
                found = str(error)
            except Exception as error:  # whatever it is, the thread that follows CURRENT must not end
                log.exception("the wanted release cannot be opened")
                found = f"the wanted release cannot be opened ({type(error).__name__}); see the log"
            problem = None if found is None else self.told(found)
            if problem is not None and problem != self.problem:
                held = "none" if self.release is None else self.release.id
                log.error("not well, still answering from %s: %s", held, found)
                self.meters.swapped("refused")
            self.problem = problem

    def _look(self) -> str | None:
        """Open what is wanted and not held; what there is to say of what is held."""
        wanted = self.pin or current(self.store)[0]
        if wanted is None:
            return None if self.release is None else "the store names no current release any more"
        if self.release is None or self.release.id != wanted:
            self.prepared = prepare(open_release(self.store, wanted), self.open_index)
            self.meters.swapped("done")
            self.meters.holds(wanted, created=datetime.fromisoformat(self.prepared.release.manifest.created))
            log.info("answering from release %s", wanted)
        elif self.store.sizes(release_key(wanted), ["manifest.json"]) == [
            None
        ]:  # costs what reading CURRENT does
            cure = (
                "pin another (`user_config`), or follow CURRENT"
                if self.pin
                else "activate or publish another"
            )
            return (
                f"release {wanted} is not in the store any more; what is open answers until this replica restarts: "
                f"{cure}"
            )
        return None

    def told(self, message: str) -> str:
        """A message for anybody who asks over HTTP: without where the store or the node's files are."""
        url = self.store.url
        message = message.replace(f"store {url}", "the store").replace(url, "the store")
        if "AWS_ENDPOINT_URL" in message:  # an object store's answer, with all that was asked
            status = re.search(r"status code: ([0-9]{3})", message)
            reason = "no answer" if status is None else f"status {status[1]}"
            message = re.sub(
                r"(cannot be \w+): .*", rf"\1 ({reason}); see the service's log", message, flags=re.S
            )
        return PLACE.sub("...", message.replace(str(nightrank_home()), "$NIGHTRANK_HOME"))

    def _loop(self) -> None:
        while True:
            self._wake.wait(POLL_S)
            self._wake.clear()
            self.refresh()
