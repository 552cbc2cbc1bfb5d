"""The node's cache of files of a remote store: each is brought once, checked, and shared by all processes.

A folder of the store has a folder here, named after its key and the checksums that are expected. A file is in it only
once its checksum was found right, so that nobody checks again. What no process has open is removed when a new folder
comes and the old was not asked for in an hour.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from nightrank.config.locations import nightrank_home
from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord

log = logging.getLogger("nightrank.cache")

KEPT_UNUSED_S = 3600.0
BROUGHT_AT_ONCE = 4
USED = ".used"


class Remote(Protocol):
    """What the cache asks of a store."""

    url: str

    def download(self, key: str, target: Path) -> str:
        """Write an object's content to a local path; returns its SHA-256 in hex."""


def cache_of(url: str) -> Path:
    """The folder of this node that holds what came from a store."""
    return nightrank_home() / "cache" / hashlib.sha256(url.encode()).hexdigest()[:16]


class CachedFiles:
    """Files of one folder of a remote store. While this lives, nobody evicts them."""

    def __init__(self, store: Remote, key: str, records: Mapping[str, FileRecord]) -> None:
        self.store, self.key, self.records = store, key, records
        expected = "".join(f"{name} {records[name].sha256}\n" for name in sorted(records))
        home = cache_of(store.url)
        self.folder = home / hashlib.sha256(f"{key}\n{expected}".encode()).hexdigest()[:32]
        new = not self.folder.is_dir()
        self._hold()
        if new:
            evict(home)

    def path(self, name: str) -> Path:
        """See Files. Raises ReleaseError where the content is not what the record says."""
        if name not in self.records:
            raise ReleaseError(f"{name} does not belong to {self.key} of store {self.store.url}")
        path = self.folder / name
        if not path.is_file():
            self._bring(name, path)
        return path

    def bring(self) -> None:
        """See Files."""
        with ThreadPoolExecutor(BROUGHT_AT_ONCE) as pool:
            list(pool.map(self.path, self.records))

    def _hold(self) -> None:
        """A shared lock, which goes with the process. Taken anew where an evictor was quicker."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._used = (self.folder / USED).open("a")
            except FileNotFoundError:
                continue
            fcntl.flock(self._used, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.folder / USED)
                if os.path.samestat((self.folder / USED).stat(), os.fstat(self._used.fileno())):
                    return
            self._used.close()

    def _bring(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with path.with_name(f".{path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process writes a file; a killed one blocks nobody
            if path.is_file():  # another process brought it meanwhile
                return
            found = self.store.download(f"{self.key}/{name}", part)
            if found != self.records[name].sha256:
                raise ReleaseError(
                    f"{name} of {self.key} in store {self.store.url} is damaged: sha256 {found[:12]}, expected "
                    f"{self.records[name].sha256[:12]}; put another release in service, or run the night again"
                )
            part.chmod(0o444)
            part.replace(path)

    def __del__(self) -> None:
        if hasattr(self, "_used"):
            self._used.close()


def evict(home: Path) -> None:
    """Remove folders that no process has open and nobody asked for in an hour."""
    for folder in home.iterdir():
        with contextlib.suppress(FileNotFoundError, BlockingIOError), (folder / USED).open("a") as used:
            if time.time() - os.fstat(used.fileno()).st_mtime < KEPT_UNUSED_S:
                continue
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            log.info("removed %s from the node's cache: nothing uses it", folder.name)
