"""A store in an object store that speaks S3: every object is put in one step, the pointer by conditional PUT.

S3 has no rename and no locks. None is needed: a PUT shows the whole object or nothing, and a conditional one
(If-Match, If-None-Match) lets one of several writers win. Big files are written to local scratch, then sent with
their SHA-256, which the server checks; they are read through the node's cache (`cache`). Credentials, region and
endpoint are taken from the usual AWS_ variables of the process, never from a job file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store as Bucket

from nightrank.errors import ReleaseError, SettingsError, StoreUnreachable
from nightrank.release.cache import CachedFiles
from nightrank.release.records import FileRecord, record_of
from nightrank.release.scratch import scratch, told_here
from nightrank.release.store import Files, Stored, checked_key, conflict

URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.+?))?/?")
PATIENCE_S = 30.0
CHUNK_BYTES = 8 * 2**20
COPY_LIMIT_BYTES = 5 * 2**30  # of one server-side copy
REQUESTS_AT_ONCE = 16


class S3Store:
    """`s3://bucket/prefix`."""

    checks_files = True

    def __init__(self, url: str) -> None:
        parts = URL.fullmatch(url)
        if parts is None or ".." in url.split("/"):
            raise SettingsError(f"store {url!r}: expected s3://bucket or s3://bucket/prefix")
        self.url = url.rstrip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        self._bucket = Bucket(
            bucket=parts[1],
            prefix=parts[2],
            config={"checksum_algorithm": "sha256"},
            client_options={"allow_http": bool(endpoint) and str(endpoint).startswith("http://")},
            retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=PATIENCE_S)},
            **options,
        )

    def read(self, key: str) -> Stored | None:
        """See Store."""
        with self._named(key, "read"), self._absent_allowed():
            found = obstore.get(self._bucket, checked_key(key))
            return Stored(bytes(found.bytes()), str(found.meta["e_tag"]))
        return None

    def put(self, key: str, data: bytes) -> None:
        """See Store."""
        with self._named(key, "written"):
            obstore.put(self._bucket, checked_key(key), data)

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        """See Store. Refused, but found with our own data: an attempt whose answer was lost had won."""
        mode: Any = "create" if tag is None else {"e_tag": tag}
        with self._named(key, "written"):
            try:
                obstore.put(self._bucket, checked_key(key), data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                found = self.read(key)
                if found is None or found.data != data:
                    raise conflict(key, self) from None

    def delete(self, key: str) -> None:
        """See Store."""
        with self._named(key, "deleted"), self._absent_allowed():
            obstore.delete(self._bucket, checked_key(key))

    def delete_folder(self, key: str) -> None:
        """See Store."""
        names = [f"{checked_key(key)}/{name}" for name in self.names(key)]
        with self._named(key, "deleted"):
            if names:
                obstore.delete(self._bucket, names)

    def children(self, key: str) -> list[str]:
        """See Store."""
        below = f"{checked_key(key)}/"
        with self._named(key, "listed"):
            found = obstore.list_with_delimiter(self._bucket, below)
        paths = [*found["common_prefixes"], *(str(one["path"]) for one in found["objects"])]
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def names(self, key: str) -> list[str]:
        """See Store."""
        below = f"{checked_key(key)}/"
        with self._named(key, "listed"):
            found = [str(one["path"]) for page in obstore.list(self._bucket, below) for one in page]
        return sorted(path.removeprefix(below) for path in found)

    def sizes(self, folder: str, names: Sequence[str]) -> list[int | None]:
        """See Store."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(self._size, [f"{folder}/{name}" for name in names]))

    def _size(self, key: str) -> int | None:
        with self._named(key, "read"), self._absent_allowed():
            return int(obstore.head(self._bucket, checked_key(key))["size"])
        return None

    def record(self, folder: str, name: str) -> FileRecord:
        """See Store. Reads it through scratch, since Parquet's rows stand at its end."""
        with scratch(checked_key(name).rpartition("/")[2]) as temporary:
            self.download(f"{folder}/{name}", temporary)
            return record_of(temporary)

    def download(self, key: str, target: Path) -> str:
        """Write an object's content to a local path; returns its SHA-256 in hex. ReleaseError where it is missing."""
        digest = hashlib.sha256()
        with told_here(target), target.open("wb") as file, self._named(key, "read"):
            try:
                for chunk in obstore.get(self._bucket, checked_key(key)).stream(min_chunk_size=CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            except FileNotFoundError:
                raise ReleaseError(f"{key} is missing from store {self.url}") from None
        return digest.hexdigest()

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """See Store."""
        with scratch(checked_key(key).rpartition("/")[2]) as temporary:
            yield temporary
            with self._named(key, "written"):
                obstore.put(self._bucket, checked_key(key), temporary)

    def copy(self, source: str, target: str) -> None:
        """See Store. By the server, where it can."""
        size = self._size(source)
        if size is not None and size >= COPY_LIMIT_BYTES:
            with self.writing(target) as temporary:
                self.download(source, temporary)
            return
        with self._named(source, "copied"):
            try:
                obstore.copy(self._bucket, checked_key(source), checked_key(target))
            except FileNotFoundError:
                raise ReleaseError(f"{source} is missing from store {self.url}") from None

    def files(self, key: str, records: Mapping[str, FileRecord]) -> Files:
        """See Store."""
        return CachedFiles(self, checked_key(key), records)

    @contextlib.contextmanager
    def _absent_allowed(self) -> Iterator[None]:
        """An object that does not exist is an answer; a bucket that does not is an error."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise

    @contextlib.contextmanager
    def _named(self, key: str, done: str) -> Iterator[None]:
        """Errors of the client as our own, in one line and without the server's XML."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            code = re.search(r"<Code>(\w+)</Code>", str(error))
            reason = str(error).splitlines()[0].partition(": <?xml")[0][:600]
            reason += "" if code is None else f" ({code[1]})"
            raise StoreUnreachable(
                f"{key} in store {self.url} cannot be {done}: {reason}. Is the endpoint (AWS_ENDPOINT_URL) right and "
                "up, and may these credentials read and write there? The same command goes on once it is"
            ) from None
