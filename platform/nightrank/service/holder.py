"""Which release a replica answers from: it follows CURRENT (or a pin), opens aside, then flips one reference.

A release that cannot be opened is refused and the old one stays, visibly. An unreachable store changes
nothing.
"""

from __future__ import annotations

import logging
import re
import threading

from nightrank.config.locations import nightrank_home
from nightrank.errors import NightrankError
from nightrank.release.manifest import current, release_key
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store

log = logging.getLogger("nightrank.service")

POLL_S = 1.0
PLACE = re.compile(r"\w+://\S+|(?<![\w.])/[^\s;,:()'\"]+")  # a URL or an absolute path


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
            self.problem = problem

    def _look(self) -> str | None:
        """Open what is wanted and not held; what there is to say of what is held."""
        wanted = self.pin or current(self.store)[0]
        if wanted is None:
            return None if self.release is None else "the store names no current release any more"
        if self.release is None or self.release.id != wanted:
            self.release = _warm(open_release(self.store, wanted))
            log.info("answering from release %s", wanted)
        elif self.pin and self.store.sizes(release_key(wanted), ["manifest.json"]) == [None]:
            return (
                f"release {wanted} is not in the store any more; what is open answers until this replica restarts: "
                "pin another (`user_config`), or follow CURRENT"
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


def _warm(release: Release) -> Release:
    """Open all that any request would open: headers and small tables, a number of files but no lists.

    From here on it answers for every user, also when its files lose their names. Those of a remote store are brought
    first, each checked.
    """
    release.files.bring()
    model = release.model
    _ = (model.user_ids, model.item_ids, model.seen, release.similar_offsets, release.popular)
    release.open_lists()
    if model.card.n_items:
        release.title(0)
    return release
