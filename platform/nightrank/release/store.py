"""The store: where runs, releases and the CURRENT pointer live.

A small protocol, so that an object store can stand beside the local folder: small objects are read and put
whole, conditionally where two writers may meet; big files are written by their makers under `path` and put in
place in one step. Anything but a local folder is refused by name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from nightrank.errors import ReleaseError, SettingsError, StoreConflict
from nightrank.release.regular import regular_size

# What the place is to blame for, not the writer.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


class Stored(NamedTuple):
    """A small object and the tag that a conditional put compares."""

    data: bytes
    tag: str


class Store(Protocol):
    """Keys are relative POSIX paths without `..`."""

    url: str

    def read(self, key: str) -> Stored | None:
        """The object, or None where there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Write in one step, whatever was there."""

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        """Write in one step if the object still has this tag (None: does not exist); else StoreConflict."""

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""

    def children(self, key: str) -> list[str]:
        """Names directly below a key, sorted, those that begin with a dot left out; none where it does not exist."""

    def path(self, key: str) -> Path:
        """Where a file is, for memory maps and for writers of big files."""

    def holding(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Hold a name for as long as the block runs; StoreConflict where somebody else holds it."""


class LocalStore:
    """A folder. One step is os.replace; conditional puts hold an flock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, key: str) -> Path:
        """See Store."""
        checked_key(key)
        return self.root / key

    def read(self, key: str) -> Stored | None:
        """See Store."""
        path = self.path(key)
        try:
            regular_size(path.parent, path.name)  # no link, and nothing that would be waited for
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ReleaseError as error:
            raise ReleaseError(f"{key} in store {self.url} cannot be read: {error}") from None
        except OSError as error:
            raise ReleaseError(f"{key} in store {self.url} cannot be read: {error.strerror}") from None
        return Stored(data, hashlib.sha256(data).hexdigest())

    def put(self, key: str, data: bytes) -> None:
        """See Store."""
        with replacing(self.path(key)) as temporary:
            temporary.write_bytes(data)

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        """See Store."""
        with self._locked():
            found = self.read(key)
            if (None if found is None else found.tag) != tag:
                raise StoreConflict(f"{key} in store {self.url} was changed by somebody else in between")
            self.put(key, data)

    def delete(self, key: str) -> None:
        """See Store."""
        self.path(key).unlink(missing_ok=True)

    def children(self, key: str) -> list[str]:
        """See Store."""
        folder = self.path(key)
        if not folder.is_dir():
            return []
        names = (entry.name for entry in folder.iterdir())
        return sorted(name for name in names if not name.startswith("."))  # what a kill left of `replacing`

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """See Store. The lock goes with the process: one that was killed holds nothing."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreConflict(
                    f"{key} in store {self.url} is held by another process, which is at the same work; wait for "
                    "it to end, then run the command again"
                ) from None
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # the lock goes with the file handle, also when the process is killed


def open_store(url: str) -> Store:
    """The store of a local path. Other schemes are refused by name."""
    if "://" in url:
        raise SettingsError(
            f"store {url!r}: scheme {url.split('://')[0]!r} is not supported by this version; give a local "
            "folder that every node can reach under the same path"
        )
    return LocalStore(Path(url).expanduser())


def checked_key(key: str) -> str:
    """The key itself; ReleaseError where it is absolute or leaves its folder."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
        raise ReleaseError(f"path {key!r} is refused: it must be relative and stay inside its folder")
    return key


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write; put in place in one step, synced, when the block ends well.

    Raises ReleaseError that names the file where the disk takes no more of it.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the name, too, survives a power cut
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A disk that takes no more as a ReleaseError; other errors, of the block too, as they are."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.errno not in UNWRITABLE:
            raise
        cut_short = f"the disk took no more of it ({error})"  # numpy says how much, but not why
        reason = cut_short if error.errno is None else os.strerror(error.errno)
        raise ReleaseError(
            f"{path} cannot be written: {reason}; expected room and leave to write in the store: make both, then run "
            "the same command again, which goes on where this one stopped"
        ) from error
