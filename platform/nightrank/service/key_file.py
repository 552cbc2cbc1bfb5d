"""The file of API keys: a digest of each, with its role. Made and changed here; `keys` holds callers to it.

A key is "nr_" and 256 random bits. Nobody can guess one or try them all, so a plain SHA-256 keeps it: slow,
salted hashes are for passwords that people choose, and would cost each request milliseconds. The file may
therefore be readable by others; it is refused where others than its owner may write it, or where its owner is
neither this process's user nor root, since whoever writes it gives keys away. A key itself is printed once, where it
is made, and is never stored, logged or told again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from nightrank.config.strict import StrictModel
from nightrank.errors import SettingsError
from nightrank.release.regular import KINDS

Role = Literal["read", "admin"]

MAX_KEYS = 100  # every request is compared with all of them, which must stay a matter of microseconds
_PREFIX = "nr_"
_KEY_BYTES = 32
_MAX_FILE_BYTES = 2**18


class KeyRecord(StrictModel):
    """One key, without the key. id: how `revoke` names it; created: UTC; sha256: of the key, in hex."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(max_length=100)]
    role: Role
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("holds a character that cannot be printed; use letters, digits, spaces, signs")
        return value


class KeyFile(StrictModel):
    """What the file holds, as JSON. Ids and digests are there once."""

    version: Literal[1]
    keys: Annotated[list[KeyRecord], Field(max_length=MAX_KEYS)]

    @field_validator("keys")
    @classmethod
    def _once(cls, value: list[KeyRecord]) -> list[KeyRecord]:
        for name in ("id", "sha256"):
            if len({getattr(one, name) for one in value}) != len(value):
                raise ValueError(f"two keys have the same {name}; revoke one and add another")
        return value


class Unusable(Exception):
    """Why a key file is refused, without its path and without anything that it holds."""


def add(path: Path, *, role: Role, name: str = "") -> tuple[KeyRecord, str]:
    """Make a key and put it into the file, which is made where it is missing. Returns its record and the key.

    Raises SettingsError where the file cannot be used or written, is full, or the name cannot be one.
    """
    with _changing(path) as records:
        if len(records) >= MAX_KEYS:
            raise Unusable(f"found {len(records)} keys, expected at most {MAX_KEYS}; revoke some")
        taken = {one.id for one in records}
        key_id = next(one for one in iter(lambda: secrets.token_hex(4), "") if one not in taken)
        key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        record = {
            "id": key_id,
            "name": name,
            "role": role,
            "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
        }
        try:
            records.append(KeyRecord.model_validate(record))
        except ValidationError as error:
            raise Unusable(_problems(error)) from None
        return records[-1], key


def revoke(path: Path, key_id: str) -> KeyRecord:
    """Take a key out of the file; services notice within seconds. Raises SettingsError where it is not there."""
    with _changing(path, create=False) as records:
        for position, record in enumerate(records):
            if record.id == key_id:
                return records.pop(position)
        raise Unusable(f"no key has the id {key_id!r}; `nightrank keys list` shows them")


def listed(path: Path) -> Sequence[KeyRecord]:
    """The records of a file, oldest first. Raises SettingsError where it cannot be used."""
    try:
        return read_records(path)[1]
    except Unusable as error:
        raise SettingsError(f"key file {path}: {error}") from None


def signature(status: os.stat_result) -> tuple[int, ...]:
    """Changes with the file's content (a new file is put in its place), its owner and who may write it."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_records(path: Path) -> tuple[tuple[int, ...], list[KeyRecord]]:
    """The file's signature and its records, of one open file. Raises Unusable."""
    try:
        # A named pipe would be waited for. Links are followed: a mounted secret is one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable(told(error)) from None
    try:
        status = os.fstat(descriptor)
        _check_owner(status)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unusable(told(error)) from None
    finally:
        os.close(descriptor)
    if len(data) > _MAX_FILE_BYTES:
        raise Unusable(f"it is larger than {_MAX_FILE_BYTES} bytes; is it one of `nightrank keys`?")
    try:
        return signature(status), KeyFile.model_validate_json(data).keys
    except ValidationError as error:
        raise Unusable(f"{_problems(error)}; mend it, or remove it and add the keys anew") from None


def _check_owner(status: os.stat_result) -> None:
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        raise Unusable(f"it is {kind}, expected a file of `nightrank keys`")
    if status.st_uid not in (0, os.geteuid()):
        raise Unusable(
            f"it belongs to user {status.st_uid}, who could add keys; expected user {os.geteuid()}, whom "
            "this process runs as, or root: chown it"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise Unusable(f"others than its owner may write it (mode {mode:04o}); run chmod go-w on it")


def _problems(error: ValidationError) -> str:
    """Where and what, never what was found: that could be a key."""
    found = []
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        place = one["loc"][:-1] if one["type"] == "extra_forbidden" else one["loc"]
        found.append(f"{'.'.join(map(str, place)) or 'the file'}: {one['msg'].removeprefix('Value error, ')}")
    return "; ".join(found[:5])


def told(error: OSError) -> str:
    cure = "; `nightrank keys add` makes it" if isinstance(error, FileNotFoundError) else ""
    return f"it cannot be read or written ({error.strerror}){cure}"


@contextlib.contextmanager
def _changing(path: Path, *, create: bool = True) -> Iterator[list[KeyRecord]]:
    """The records, to be changed in place; written at the end, under a lock that goes with the process."""
    path = path.resolve()  # a link stays a link
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        lock_path = path.with_name(f".{path.name}.lock")
        with os.fdopen(os.open(lock_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = [] if create and not path.exists() else read_records(path)[1]
            yield records
            _write(path, records)
    except OSError as error:
        raise SettingsError(f"key file {path}: {told(error)}") from None
    except Unusable as error:
        raise SettingsError(f"key file {path}: {error}") from None


def _write(path: Path, records: list[KeyRecord]) -> None:
    """In one step: 0600 where it is new, else with the owner, group and mode that it had."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(KeyFile(version=1, keys=records).model_dump_json(indent=1) + "\n")
            file.flush()
            with contextlib.suppress(FileNotFoundError):
                before, now = path.stat(), os.fstat(descriptor)
                if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
