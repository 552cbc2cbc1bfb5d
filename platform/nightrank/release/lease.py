"""Leases: one process at a time works on a name in a store, also across machines and on object stores.

A lease is a small object with an owner and an expiry, renewed while its owner lives. One that was left by a kill is
taken over: at once where the owner ran on this machine and is gone, else when it was not renewed for as long as it
holds. That is measured with the watcher's own clock, so clocks need not agree. Work under a lease must be safe to
repeat: an owner that was suspended for longer finds that out at its next `check`, which asks the store, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightrank.errors import ReleaseError, StoreConflict
from nightrank.release.store import Store

log = logging.getLogger("nightrank.lease")

HELD_S = 30.0
RENEWED_EVERY_S = 10.0
ASKED_EVERY_S = 1.0
WAITED_S = 600.0  # at most, whatever a record says
GONE_S = 900.0  # S3 refuses requests of clocks that differ by more


class Owner(BaseModel):
    """Who holds a lease. machine: a name of this run of this machine; born: when the process began, see `_born`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    host: str
    machine: str
    pid: int
    born: float
    token: str


class LeaseRecord(BaseModel):
    """The object in the store; owner None: it was given back."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    owner: Owner | None
    expires: str
    held_s: float = Field(gt=0, allow_inf_nan=False)


class Lease:
    """A lease that is held. `check` says whether it still is."""

    def __init__(self, store: Store, key: str, *, tag: str | None, held_s: float) -> None:
        self.store, self.key, self.held_s = store, key, held_s
        self.owner = _myself()
        self._lost = False
        self._renewed = time.monotonic()
        self._tag = self._put(tag, self.owner)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="nightrank-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """StoreConflict where somebody else took the lease, or it was not renewed in time; asks the store."""
        self._lost = self._lost or self._is_late() or self._own_tag() is None
        if self._lost:
            raise StoreConflict(
                f"the lease {self.key} in store {self.store.url} was lost: somebody else took it, or it could not be "
                f"renewed for {self.held_s:g} s; run the command again, it goes on where this stopped"
            )

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(ReleaseError, OSError):  # taken over, or out of reach: then it expires
            if not self._lost:
                self._replace(None)

    def _is_late(self) -> bool:
        return time.monotonic() - self._renewed > self.held_s

    def _own_tag(self) -> str | None:
        """The tag of the record in the store; None where it is not ours."""
        found = self.store.read(self.key)
        owner = None if found is None else _parsed(found.data, self.key, self.store).owner
        return (
            found.tag if found is not None and owner is not None and owner.token == self.owner.token else None
        )

    def _put(self, tag: str | None, owner: Owner | None) -> str:
        until = datetime.now(UTC) + timedelta(seconds=self.held_s)
        record = LeaseRecord(owner=owner, expires=f"{until:%Y-%m-%dT%H:%M:%S.%fZ}", held_s=self.held_s)
        data = record.model_dump_json(indent=1).encode() + b"\n"
        self.store.put_if_match(self.key, data, tag)
        found = self.store.read(self.key)
        if found is None or found.data != data:
            raise StoreConflict(f"{self.key} in store {self.store.url} was taken by somebody else")
        return found.tag

    def _replace(self, owner: Owner | None) -> str:
        """Put over our own record, also over one of ours that was written though its writing seemed to fail."""
        try:
            return self._put(self._tag, owner)
        except StoreConflict:
            tag = self._own_tag()
            if tag is None:
                raise
            return self._put(tag, owner)

    def _renew(self) -> None:
        while not self._ended.wait(self.held_s / HELD_S * RENEWED_EVERY_S):
            began = time.monotonic()  # before it is written: a watcher may see it from then on
            try:
                self._tag = self._replace(self.owner)
                self._renewed = began
            except StoreConflict:
                self._lost = True
            except Exception as error:  # also what only the system refuses, as a handle of a file
                log.warning("the lease %s cannot be renewed: %s", self.key, error)
                self._lost = self._is_late()
            if self._lost:
                return


@contextlib.contextmanager
def leased(store: Store, key: str, *, held_s: float = HELD_S) -> Iterator[Lease]:
    """Hold a name for as long as the block runs.

    held_s: seconds for which it holds without being renewed, at most 600. Raises StoreConflict where somebody else
    holds it.
    """
    lease = Lease(store, key, tag=_free(store, key), held_s=held_s)
    try:
        yield lease
    finally:
        lease.end()


def holder(store: Store, key: str) -> Owner | None:
    """Who holds a lease as far as it says, without waiting.

    None where nobody does, where it was a process of this machine that is gone, or one of another machine whose lease
    expired 15 minutes ago by this machine's clock.
    """
    found = store.read(key)
    if found is None:
        return None
    record = _parsed(found.data, key, store)
    owner = record.owner
    if owner is None or _is_gone(owner) or (owner.machine != _machine() and _is_old(record)):
        return None
    return owner


def _is_old(record: LeaseRecord) -> bool:
    try:
        return datetime.now(UTC) - datetime.fromisoformat(record.expires) > timedelta(seconds=GONE_S)
    except (ValueError, TypeError):  # no time, or one without a zone
        return False


def _free(store: Store, key: str) -> str | None:
    """The tag of a lease that may be taken; waits for one to expire whose owner cannot be asked."""
    found = store.read(key)
    if found is None:
        return None
    record, since = _parsed(found.data, key, store), time.monotonic()
    owner = record.owner
    if owner is None or _is_gone(owner):
        return found.tag
    if owner.machine == _machine():
        raise _held(store, key, owner)
    waited_s = min(record.held_s, WAITED_S)
    log.info(
        "%s is held by process %d on %s; if that is gone, this goes on within %g s",
        *(key, owner.pid, owner.host, waited_s),
    )
    while time.monotonic() - since < waited_s:
        time.sleep(ASKED_EVERY_S)
        now = store.read(key)
        if now is None or now.tag != found.tag:
            if now is None or _parsed(now.data, key, store).owner is None:
                return None if now is None else now.tag
            raise _held(store, key, owner)
    return found.tag


def _held(store: Store, key: str, owner: Owner) -> StoreConflict:
    return StoreConflict(
        f"{key} in store {store.url} is held by another process, whose work must not meet this: process "
        f"{owner.pid} on {owner.host}; wait for it to end, then run the command again"
    )


def _parsed(data: bytes, key: str, store: Store) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(data)
    except ValidationError:
        raise ReleaseError(
            f"{key} in store {store.url} is no lease; if nobody works on that run, delete it and run it again"
        ) from None


def _myself() -> Owner:
    born = _born(os.getpid())
    if born is None:
        raise ReleaseError("this process cannot be found in /proc, so no lease can be held; mount /proc")
    return Owner(
        host=socket.gethostname(), machine=_machine(), pid=os.getpid(), born=born, token=uuid.uuid4().hex
    )


def _machine() -> str:
    """Where process numbers mean the same: one boot of one machine, one container of it."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _born(pid: int) -> float | None:
    """When a process of this machine began; None where it ended, also where nobody took note of that yet (a zombie).

    On Linux in clock ticks since the machine started, which no step of the wall clock moves.
    """
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # from the third on: the second may hold anything
    return None if fields[0] in (b"Z", b"X") else float(fields[19])


def _is_gone(owner: Owner) -> bool:
    """A process of this machine that ended. Its number may be somebody else's by now."""
    return owner.machine == _machine() and _born(owner.pid) != owner.born
