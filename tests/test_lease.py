"""Leases, on a local store and on S3: one holder at a time, and none that a kill leaves behind for long."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import ReleaseError, StoreConflict
from nightrank.release import lease as leases
from nightrank.release.lease import Lease, holder, leased
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

    monkeypatch.setattr(leases.time, "sleep", renew)
    with pytest.raises(StoreConflict, match="process 1 on node-7"), leased(store, KEY):
        pass


def test_a_lease_given_back_while_waiting_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher goes on as soon as the other is done."""
    from_elsewhere(store, held_s=60.0)

    def give_back(seconds: float) -> None:
        store.put(KEY, json.dumps({"owner": None, "expires": "", "held_s": 60.0}).encode())

    monkeypatch.setattr(leases.time, "sleep", give_back)
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
