"""The store: where runs, releases and the CURRENT pointer live.

A small protocol with two kinds of it: a local folder, and a prefix in an object store (`s3`). Small objects are read
and put whole, conditionally where two writers may meet; big files are written to a local path and put in place in one
step, and read as local paths. Anything else is refused by name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from nightrank.errors import ReleaseError, SettingsError, StoreConflict
from nightrank.release.records import FileRecord, record_of
from nightrank.release.regular import regular_size

# What the place is to blame for, not the writer.
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EIO,
)


class Stored(NamedTuple):
    """A small object and the tag that a conditional put compares."""

    data: bytes
    tag: str


class Files(Protocol):
    """Files of one folder of a store, as paths of this machine for memory maps."""

    def path(self, name: str) -> Path:
        """Where a file is; a remote one is brought and checked first."""

    def bring(self) -> None:
        """Have all of them here, so that `path` takes no time."""


class Store(Protocol):
    """Keys are relative POSIX paths without `..`. checks_files: `files` checks content before anybody maps it."""

    url: str
    checks_files: bool

    def read(self, key: str) -> Stored | None:
        """The object, or None where there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Write in one step, whatever was there."""

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        """Write in one step if the object still has this tag (None: does not exist); else StoreConflict."""

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""

    def delete_folder(self, key: str) -> None:
        """Remove everything below a key."""

    def children(self, key: str) -> list[str]:
        """Names directly below a key, sorted, those that begin with a dot left out; none where it does not exist."""

    def names(self, key: str) -> list[str]:
        """Names of all files below a key, relative to it, sorted."""

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """Bytes of each file of a folder, None where there is none. ReleaseError where one is no regular file."""

    def record(self, folder: str, name: str) -> FileRecord:
        """Size, checksum and rows of a file; reads all of it. ReleaseError where it is missing or cannot be read."""

    def writing(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """A local path to write a file to; put in place in one step when the block ends well."""

    def copy(self, source: str, target: str) -> None:
        """A second file with the content of the first, put in place in one step."""

    def files(self, key: str, records: Mapping[str, FileRecord]) -> Files:
        """The named files of a folder."""


class LocalFiles:
    """Files of a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """See Files."""
        return self.folder / checked_key(name)

    def bring(self) -> None:
        """See Files: they are here."""


class LocalStore:
    """A folder. One step is os.replace; conditional puts hold an flock."""

    checks_files = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, key: str) -> Path:
        """Where a key is."""
        return self.root / checked_key(key)

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
                raise conflict(key, self)
            self.put(key, data)

    def delete(self, key: str) -> None:
        """See Store."""
        self.path(key).unlink(missing_ok=True)

    def delete_folder(self, key: str) -> None:
        """See Store."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path(key))

    def children(self, key: str) -> list[str]:
        """See Store."""
        folder = self.path(key)
        if not folder.is_dir():
            return []
        names = (entry.name for entry in folder.iterdir())
        return sorted(name for name in names if not name.startswith("."))  # what a kill left of `replacing`

    def names(self, key: str) -> list[str]:
        """See Store."""
        folder = self.path(key)
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return sorted(path.relative_to(folder).as_posix() for path in found)

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """See Store."""
        return [_size(self.path(folder), checked_key(name)) for name in names]

    def record(self, folder: str, name: str) -> FileRecord:
        """See Store."""
        if _size(self.path(folder), checked_key(name)) is None:
            raise ReleaseError(f"{PurePosixPath(name).name} is missing")
        return record_of(self.path(f"{folder}/{name}"))

    def writing(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """See Store."""
        return replacing(self.path(key))

    def copy(self, source: str, target: str) -> None:
        """See Store. A second name of the same file where the disk has such: files are replaced, never changed."""
        with replacing(self.path(target)) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(self.path(source))
            except OSError:
                shutil.copyfile(self.path(source), temporary)

    def files(self, key: str, records: Mapping[str, FileRecord]) -> Files:
        """See Store."""
        return LocalFiles(self.path(key))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with told(self.root, whatever=True):  # also where the store is a file, or below one
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("a")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # the lock goes with the file handle, also when the process is killed


def open_store(url: str) -> Store:
    """The store of a local path or of `s3://bucket/prefix`. Other schemes are refused by name."""
    if url.startswith("s3://"):
        from nightrank.release.s3 import S3Store  # what a local store never needs

        return S3Store(url)
    if "://" in url:
        raise SettingsError(
            f"store {url!r}: scheme {url.split('://')[0]!r} is not supported; give a local folder that every node "
            "can reach under the same path, or s3://bucket/prefix"
        )
    return LocalStore(Path(url).expanduser())


def conflict(key: str, store: Store) -> StoreConflict:
    """A conditional put that lost."""
    return StoreConflict(f"{key} in store {store.url} was changed by somebody else in between")


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
    with told(path):
        with told(path, whatever=True):
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
def told(
    path: Path, *, whatever: bool = False, cure: str = "", kind: type[ReleaseError] = ReleaseError
) -> Iterator[None]:
    """A disk that takes no more as a ReleaseError; other errors, of the block too, as they are unless `whatever`.

    cure: what else may be done about it.
    """
    try:
        yield
    except OSError as error:
        if not whatever and error.errno is not None and error.errno not in UNWRITABLE:
            raise
        cut_short = f"the disk took no more of it ({error})"  # numpy says how much, but not why
        reason = cut_short if error.errno is None else os.strerror(error.errno)
        raise kind(
            f"{path} cannot be written: {reason}; expected a folder with room and leave to write{cure}. Make both, "
            "then run the same command again, which goes on where this one stopped"
        ) from error


def _size(folder: Path, name: str) -> int | None:
    try:
        return regular_size(folder, name)
    except OSError:  # also a name that no disk would take
        return None
