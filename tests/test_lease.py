"""Leases, on a local store and on S3: one holder at a time, and none that a kill leaves behind for long."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from nightrank.errors import ReleaseError, StoreConflict
from nightrank.release import lease as leases
from nightrank.release.lease import Lease, Owner, holder, leased
from nightrank.release.store import Store, open_store
from remote import Bucket

KEY = "runs/a/lease"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket) -> Store:
    return open_store(str(tmp_path / "store") if request.param == "local" else bucket.url())


def record(store: Store) -> dict[str, Any]:
    found = store.read(KEY)
    assert found is not None
    content: dict[str, Any] = json.loads(found.data)
    return content


def from_elsewhere(store: Store, *, held_s: float, expires: str = "2026-11-21T00:00:00Z") -> None:
    """A lease whose owner lives on a machine that cannot be asked."""
    owner = {"host": "node-7", "machine": "another", "pid": 1, "born": 0.0, "token": "t"}
    content = {"owner": owner, "expires": expires, "held_s": held_s}
    store.put(KEY, json.dumps(content).encode())


def _hold(url: str, ready: Any) -> None:
    with leased(open_store(url), KEY):
        ready.set()
        signal.pause()


def test_a_lease_is_held_once_and_given_back(store: Store) -> None:
    """Two processes never do the same work: the second is told who is at it; afterwards the name is free."""
    with leased(store, KEY):
        assert holder(store, KEY) is not None
        held = f"is held by another process.*process {os.getpid()} on"
        with pytest.raises(StoreConflict, match=held), leased(store, KEY):
            pass
        with leased(store, "runs/b/lease"):
            pass  # another name is free
    assert holder(store, KEY) is None
    assert record(store)["owner"] is None
    with leased(store, KEY):
        pass


def test_a_killed_holder_blocks_nobody(store: Store) -> None:
    """After kill -9 the rerun on the same machine takes the lease at once, expiry or not."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(store.url, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    with pytest.raises(StoreConflict, match=f"process {process.pid}"), leased(store, KEY):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert record(store)["owner"]["pid"] == process.pid
    assert holder(store, KEY) is None
    with leased(store, KEY):
        assert record(store)["owner"]["pid"] == os.getpid()


def test_a_lease_from_another_machine_is_taken_once_it_is_not_renewed(store: Store) -> None:
    """Whoever cannot be asked gets as long as the lease holds, by the watcher's clock, and no longer."""
    from_elsewhere(store, held_s=1.0)
    started = time.monotonic()
    with leased(store, KEY):
        assert time.monotonic() - started >= 1.0
        assert record(store)["owner"]["pid"] == os.getpid()


def test_who_only_asks_goes_by_the_clock_with_a_margin(store: Store) -> None:
    """A process that died elsewhere does not hold a name for ever; clocks may differ by minutes."""
    for minutes, held in ((-1, True), (14, True), (16, False)):
        until = datetime.now(UTC) - timedelta(minutes=minutes)
        from_elsewhere(store, held_s=30.0, expires=f"{until:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert (holder(store, KEY) is not None) == held
    for text in ("", "soon", "2026-11-21T00:00:00"):
        from_elsewhere(store, held_s=30.0, expires=text)
        assert holder(store, KEY) is not None


def test_a_lease_that_is_renewed_elsewhere_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder on another machine that is alive keeps it: the watcher sees the renewal and says who it is."""
    from_elsewhere(store, held_s=60.0)

    def renew(seconds: float) -> None:
        from_elsewhere(store, held_s=61.0)

    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=time.monotonic, sleep=renew))
    with pytest.raises(StoreConflict, match="process 1 on node-7"), leased(store, KEY):
        pass


def test_a_lease_given_back_while_waiting_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher goes on as soon as the other is done."""
    from_elsewhere(store, held_s=60.0)

    def give_back(seconds: float) -> None:
        store.put(KEY, json.dumps({"owner": None, "expires": "", "held_s": 60.0}).encode())

    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=time.monotonic, sleep=give_back))
    with leased(store, KEY):
        assert record(store)["owner"]["pid"] == os.getpid()


def test_a_holder_renews_and_learns_of_its_loss(store: Store) -> None:
    """A process that was suspended finds somebody else in its place, stops, and leaves that one's lease alone."""
    lease = Lease(store, KEY, tag=None, held_s=0.6)
    first = record(store)["expires"]
    deadline = time.monotonic() + 20
    while record(store)["expires"] == first:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lease.check()
    from_elsewhere(store, held_s=60.0)
    while not lease._lost:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(StoreConflict, match="was lost"):
        lease.check()
    lease.end()
    assert record(store)["owner"]["host"] == "node-7"


def test_what_is_no_lease_is_refused_by_name(store: Store) -> None:
    """Garbage in its place is not taken for a free name."""
    store.put(KEY, b"{}")
    with pytest.raises(ReleaseError, match=r"runs/a/lease .* is no lease"), leased(store, KEY):
        pass


# -- what must not look like a loss, and what must --------------------------------------------------------


def _sleep(ready: Any) -> None:
    ready.set()
    signal.pause()


def held_by(store: Store, owner: Owner) -> None:
    content = {"owner": owner.model_dump(), "expires": "2026-11-21T00:00:00Z", "held_s": 30.0}
    store.put(KEY, json.dumps(content).encode())


def test_a_step_of_the_clock_makes_nobody_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil's time of birth moves with the wall clock; a process that lives keeps its lease all the same."""
    real = psutil.Process.create_time
    with leased(store, KEY):
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 5.0)
        monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
        assert holder(store, KEY) is not None
        with pytest.raises(StoreConflict, match="is held by another process"), leased(store, KEY):
            pass


def test_a_zombie_holds_nothing(store: Store) -> None:
    """Killed, but its parent did not ask yet: it will never renew, so the name is free."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_sleep, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(60)
    assert process.pid is not None
    owner = leases._myself().model_copy(update={"pid": process.pid, "born": leases._born(process.pid)})
    held_by(store, owner)
    assert holder(store, KEY) is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert holder(store, KEY) is None
    with leased(store, KEY):
        pass
    process.join(60)


def test_another_process_of_the_same_number_is_not_the_owner(store: Store) -> None:
    """The number of a process that ended was given to somebody else."""
    owner = leases._myself()
    held_by(store, owner.model_copy(update={"born": owner.born - 1}))
    assert holder(store, KEY) is None


def test_check_asks_the_clock_and_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No renewal needs to fail first: a suspended owner, and one whose record is another's, learn it at once."""
    with leased(store, KEY) as lease:
        lease.check()
        lease._renewed -= 31.0
        with pytest.raises(StoreConflict, match="was lost"):
            lease.check()
    for taken in ("another", "gone"):
        store.delete(KEY)
        with leased(store, KEY) as lease:
            if taken == "another":
                from_elsewhere(store, held_s=60.0)
            else:
                store.delete(KEY)
            with pytest.raises(StoreConflict, match="was lost"):
                lease.check()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_the_system_refuses_does_not_end_the_renewing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of file handles for a moment: it goes on; for as long as the lease holds: it is lost."""
    lease = Lease(store, KEY, tag=None, held_s=0.6)
    real, refused = lease._put, []

    def put(*args: Any) -> str:
        if len(refused) == 1:
            return real(*args)
        refused.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(lease, "_put", put)
    before = lease._renewed
    until(lambda: refused and lease._renewed != before)
    lease.check()
    refused.append(1)
    until(lambda: lease._lost)
    lease.end()


def test_a_renewal_that_had_won_is_no_loss(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record was written and its answer was lost: it holds our token, so its tag is taken."""
    with leased(store, KEY) as lease:
        old = lease._tag
        lease._put(old, lease.owner)
        monkeypatch.setattr(leases, "datetime", _Later)
        lease._tag = lease._replace(lease.owner)
        assert lease._tag != old
        lease.check()
        lease._tag = old
    assert record(store)["owner"] is None


class _Later(datetime):
    """A clock that is an hour ahead, so that no two records are the same."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) + timedelta(hours=1)


def test_garbage_makes_nobody_wait_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a record says, its owner has 10 minutes to renew it."""
    from_elsewhere(store, held_s=1e12)
    clock = [0.0]
    fake = SimpleNamespace(
        monotonic=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    monkeypatch.setattr(leases, "time", fake)  # of this module alone: other threads sleep too
    assert leases._free(store, KEY) is not None
    assert clock[0] == 600.0
    for held_s in ("NaN", "Infinity", "-1", "0"):
        store.put(KEY, json.dumps(record(store)).replace("1000000000000.0", held_s).encode())
        with pytest.raises(ReleaseError, match="is no lease"):
            leases._free(store, KEY)
        from_elsewhere(store, held_s=1e12)
