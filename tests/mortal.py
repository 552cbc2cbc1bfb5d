"""A local store whose process is killed in its n-th change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nightrank.release.records import FileRecord
from nightrank.release.store import Files, LocalStore, Store, Stored


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


class Mortal:
    """A local store whose process is killed in its n-th change; what that had begun lies around."""

    def __init__(self, store: Store, *, dies_at: int | None = None) -> None:
        self.inner, self.url = LocalStore(Path(store.url)), store.url
        self.dies_at, self.changes = dies_at, 0

    def _step(self, key: str, *, begun: bool = False) -> None:
        self.changes += 1
        if self.dies_at is not None and self.changes >= self.dies_at:
            if begun and self.changes == self.dies_at:
                path = self.inner.path(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f".{path.name}.half").write_bytes(b"half")
            raise Killed

    def put(self, key: str, data: bytes) -> None:
        self._step(key)
        self.inner.put(key, data)

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        self._step(key)
        self.inner.put_if_match(key, data, tag)

    def delete(self, key: str) -> None:
        self._step(key)
        self.inner.delete(key)

    def delete_folder(self, key: str) -> None:
        names = self.inner.names(key)
        if self.changes + 1 == self.dies_at:
            for name in names[::2]:
                self.inner.delete(f"{key}/{name}")
        self._step(key)
        self.inner.delete_folder(key)

    def copy(self, source: str, target: str) -> None:
        self._step(target, begun=True)
        self.inner.copy(source, target)

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        self._step(key, begun=True)
        with self.inner.writing(key) as path:
            yield path

    def read(self, key: str) -> Stored | None:
        return self.inner.read(key)

    def children(self, key: str) -> list[str]:
        return self.inner.children(key)

    def names(self, key: str) -> list[str]:
        return self.inner.names(key)

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        return self.inner.sizes(folder, names)

    def record(self, folder: str, name: str) -> FileRecord:
        return self.inner.record(folder, name)

    def files(self, key: str, records: Mapping[str, FileRecord]) -> Files:
        return self.inner.files(key, records)
