"""The node's own folder for files on their way to or from a remote store, and what is said where it takes no more.

A folder here is locked by its process; what a killed one left is removed when the next folder is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nightrank.config.locations import nightrank_home
from nightrank.errors import StoreUnreachable
from nightrank.release.store import told

LEFT_S = 3600.0
ELSEWHERE = "; NIGHTRANK_HOME may name a folder on another disk"


def told_here(path: Path, *, whatever: bool = False) -> contextlib.AbstractContextManager[None]:
    """As `told`, for a file below $NIGHTRANK_HOME: StoreUnreachable, as it says nothing of what is in the store."""
    return told(path, whatever=whatever, cure=ELSEWHERE, kind=StoreUnreachable)


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A local path for a file of this name, which goes at the end. ReleaseError where the disk takes no more."""
    home = nightrank_home() / "scratch"
    with told_here(home, whatever=True):
        home.mkdir(parents=True, exist_ok=True)
        sweep(home)
        folder = Path(tempfile.mkdtemp(dir=home))
        held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with told_here(folder / name):
            yield folder / name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep(home: Path) -> None:
    """Remove folders that are older than an hour and that no process has locked."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime < LEFT_S:
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
