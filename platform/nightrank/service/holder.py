"""Which release a replica answers from: it follows CURRENT (or a pin), opens aside, then flips one reference.

A release that cannot be opened is refused and the old one stays, visibly. An unreachable store changes
nothing.
"""

from __future__ import annotations

import logging
import threading

from nightrank.errors import NightrankError
from nightrank.release.manifest import current
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store

log = logging.getLogger("nightrank.service")

POLL_S = 1.0


class ReleaseHolder:
    """release: the one in use, None before there is any. problem: why the wanted one is not in use."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pin: str | None = None
        self.release: Release | None = None
        self.problem: str | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshing = threading.Lock()

    def follow(self, pin: str | None = None) -> None:
        """Follow CURRENT, or stay with the release `pin`.

        The first call refreshes, then goes on every second in a thread of its own; later calls wake it.
        """
        self.pin = pin
        if self._thread is None:
            self.refresh()
            self._thread = threading.Thread(target=self._loop, name="nightrank-release", daemon=True)
            self._thread.start()
        self._wake.set()

    def refresh(self) -> None:
        """Bring `release` to what is wanted; never raises for a store or release that is not well."""
        with self._refreshing:
            try:
                wanted = self.pin or current(self.store)[0]
                if wanted is not None and (self.release is None or self.release.id != wanted):
                    self.release = _warm(open_release(self.store, wanted))
                    log.info("answering from release %s", wanted)
                gone = wanted is None and self.release is not None
                problem = "the store names no current release any more" if gone else None
            except NightrankError as error:
                problem = self.told(str(error))
            except Exception as error:  # whatever it is, the thread that follows CURRENT must not end
                log.exception("the wanted release cannot be opened")
                problem = f"the wanted release cannot be opened ({type(error).__name__}); see the log"
            if problem is not None and problem != self.problem:
                held = "none" if self.release is None else self.release.id
                log.error("the wanted release is refused, still answering from %s: %s", held, problem)
            self.problem = problem

    def told(self, message: str) -> str:
        """A message for anybody who asks over HTTP: without where the store is."""
        url = self.store.url
        return message.replace(f"store {url}", "the store").replace(url, "the store")

    def _loop(self) -> None:
        while True:
            self._wake.wait(POLL_S)
            self._wake.clear()
            self.refresh()


def _warm(release: Release) -> Release:
    """Open what the first request would open: headers and small tables, nothing that grows with users.

    The files of a remote store are brought first, each checked.
    """
    release.files.bring()
    model = release.model
    _ = (model.user_ids, model.item_ids, model.seen, release.similar_offsets, release.popular)
    if model.card.n_items:
        release.title(0)
    return release
