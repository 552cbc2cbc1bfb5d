"""The node's cache of files of a remote store: each is brought once, checked, and shared by all processes.

A folder of the store has a folder here, named after its key and the checksums that are expected. A file is in it only
once its checksum was found right; after that its size is looked at before it is opened. What no process has open, of
any store, is removed when a new folder comes and the old was not asked for in an hour.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from nightrank.config.locations import nightrank_home
from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord
from nightrank.release.scratch import told_here

log = logging.getLogger("nightrank.cache")

KEPT_UNUSED_S = 3600.0
BROUGHT_AT_ONCE = 4
ATTEMPTS = 100
USED = ".used"
ASIDE = ".aside-"


class Remote(Protocol):
    """What the cache asks of a store."""

    url: str

    def download(self, key: str, target: Path) -> str:
        """Write an object's content to a local path; returns its SHA-256 in hex."""


def cache_of(url: str) -> Path:
    """The folder of this node that holds what came from a store."""
    return _home() / hashlib.sha256(url.encode()).hexdigest()[:16]


def _home() -> Path:
    return nightrank_home() / "cache"


class CachedFiles:
    """Files of one folder of a remote store. While this lives, nobody evicts them."""

    def __init__(self, store: Remote, key: str, records: Mapping[str, FileRecord]) -> None:
        self.store, self.key, self.records = store, key, records
        expected = "".join(f"{name} {records[name].sha256}\n" for name in sorted(records))
        self.folder = cache_of(store.url) / hashlib.sha256(f"{key}\n{expected}".encode()).hexdigest()[:32]
        new = not self.folder.is_dir()
        self._hold()
        if new:
            evict()

    def path(self, name: str) -> Path:
        """See Files. Raises ReleaseError where the content is not what the record says."""
        if name not in self.records:
            raise ReleaseError(f"{name} does not belong to {self.key} of store {self.store.url}")
        path = self.folder / name
        if not self._is_whole(name, path):
            self._bring(name, path)
        return path

    def bring(self) -> None:
        """See Files."""
        with ThreadPoolExecutor(BROUGHT_AT_ONCE) as pool:
            list(pool.map(self.path, self.records))

    def _is_whole(self, name: str, path: Path) -> bool:
        try:
            return path.stat().st_size == self.records[name].bytes
        except FileNotFoundError:
            return False

    def _hold(self) -> None:
        """A shared lock, which goes with the process. Taken anew where an evictor was quicker."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # it went between two steps
                if self._locked():
                    return
        raise ReleaseError(
            f"{self.folder} cannot be made, or goes as soon as it is made; expected a folder that only this node "
            "changes: look what lies there (NIGHTRANK_HOME), then run the same command again"
        )

    def _locked(self) -> bool:
        with told_here(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._used = (self.folder / USED).open("a")
        fcntl.flock(self._used, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.folder / USED)
            if os.path.samestat((self.folder / USED).stat(), os.fstat(self._used.fileno())):
                return True
        self._used.close()
        return False

    def _bring(self, name: str, path: Path) -> None:
        with told_here(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock").open("a")
        part = path.with_name(f".{path.name}.part")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process writes a file; a killed one blocks nobody
            if self._is_whole(name, path):  # another process brought it meanwhile
                return
            try:
                self._download(name, part)
                with told_here(path):
                    part.chmod(0o444)
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)  # what fills a disk must not stay

    def _download(self, name: str, part: Path) -> None:
        found = self.store.download(f"{self.key}/{name}", part)
        if found != self.records[name].sha256:
            raise ReleaseError(
                f"{name} of {self.key} in store {self.store.url} is damaged: sha256 {found[:12]}, expected "
                f"{self.records[name].sha256[:12]}; put another release in service, or run the night again"
            )
        with told_here(part), part.open("rb") as written:
            os.fsync(written.fileno())  # else a power cut leaves the name with half of it

    def __del__(self) -> None:
        if hasattr(self, "_used"):
            self._used.close()


def evict() -> None:
    """Remove folders, of all stores, that no process has open and nobody asked for in an hour."""
    for folder in _home().glob("*/*"):
        if folder.name.startswith(ASIDE):  # an evictor was killed, or is at it
            shutil.rmtree(folder, ignore_errors=True)
            continue
        aside = folder.with_name(f"{ASIDE}{folder.name}-{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError), (folder / USED).open("a") as used:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(used.fileno()).st_mtime < KEPT_UNUSED_S:
                continue
            if not os.path.samestat((folder / USED).stat(), os.fstat(used.fileno())):
                continue  # another evictor took that folder, and this is a new one
            folder.rename(aside)  # whoever waits for the lock finds the name gone, and begins anew
            shutil.rmtree(aside, ignore_errors=True)
            log.info("removed %s from the node's cache: nothing uses it", folder.name)
