"""Erasing people when something is in the way: a kill at any step, work that is going on, damaged releases."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import erased
from erased import copy_of, events_of, opened, receipts
from harm import content, flip, refusal
from mortal import Killed, Mortal
from nightrank.data.ids import Id
from nightrank.errors import ReleaseError, StoreConflict
from nightrank.release import suppressed
from nightrank.release.erase import erase
from nightrank.release.lease import HELD_S, leased
from nightrank.release.leftovers import LEASE, run_folders
from nightrank.release.manifest import current, release_key
from nightrank.release.publish import activate, published
from nightrank.release.reader import open_release
from nightrank.release.store import LocalStore, Store

PERSON: Id = sorted(set(events_of("string")["user_id"].to_pylist()))[15]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes."""
    return erased.make_store(tmp_path_factory.mktemp("before"), kind="string", people=[PERSON])


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and hundreds of erasures take a while."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def end_state(store: Store) -> dict[str, bytes]:
    """Every file but receipts and the lease; manifests without the time when they were written."""
    found = content(Path(store.url))
    for name in list(found):
        if name.startswith("erasure/receipts/") or name == LEASE:
            del found[name]
        elif name.endswith("manifest.json"):
            found[name] = json.dumps(json.loads(found[name]) | {"created": ""}).encode()
    return found


def told(receipt: dict[str, Any]) -> dict[str, Any]:
    return receipt | {"begun": "", "finished": receipt["finished"] is not None}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_killed_at_any_step_the_same_call_goes_on(before: Store, tmp_path: Path, every: int) -> None:
    """After every change of the store: what is in service opens, and a rerun ends as if nothing had happened."""
    undisturbed = Mortal(copy_of(before, tmp_path / "undisturbed"))
    erase(undisturbed, [str(PERSON)], handover_s=0)
    expected, (receipt,) = end_state(undisturbed), receipts(undisturbed)
    assert undisturbed.changes > 80
    for step in range(1, undisturbed.changes + 1, every):
        store = copy_of(before, tmp_path / "killed")
        with contextlib.suppress(Killed):
            erase(Mortal(store, dies_at=step), [str(PERSON)], handover_s=0)
            raise AssertionError(f"step {step} did not kill")
        assert open_release(store).model.card.n_users > 0, step
        store.delete(LEASE)  # as of a process that is gone: this one, which asks, is not
        erase(store, [str(PERSON)], handover_s=0)
        assert end_state(store) == expected, step
        assert told(receipts(store)[0]) == told(receipt), step
        shutil.rmtree(tmp_path / "killed")


def test_another_erasure_after_a_kill_loses_no_release(before: Store, tmp_path: Path) -> None:
    """Killed before it removed anything, then called for somebody else, then again: both people are gone."""
    store = copy_of(before, tmp_path)
    other = str(opened(before)[0].model.user_ids[0])
    with contextlib.suppress(Killed):
        erase(Mortal(store, dies_at=60), [str(PERSON)], handover_s=0)
    store.delete(LEASE)
    for who in (other, str(PERSON)):
        erase(store, [who], handover_s=0)
        open_release(store)
    releases = opened(store)
    assert {one.id[:16] for one in releases} == {one[:16] for one in published(before)}
    for one in releases:
        assert one.model.user_ids.find(other) is None
        assert one.model.user_ids.find(PERSON) is None
    assert all(one["finished"] for one in receipts(store))


def test_a_run_at_work_is_refused_before_anything_changes(before: Store, tmp_path: Path) -> None:
    """The message says who is at it; a run of another machine counts until its lease is long expired."""
    store = copy_of(before, tmp_path)
    run = run_folders(store)[0]
    with leased(store, f"{run.folder}/lease"):
        files = content(Path(store.url))
        message = refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
        assert f"run {run.key} is at work (process {os.getpid()} on" in message
        assert content(Path(store.url)) == files
    lease = json.loads(content(Path(store.url))[f"{run.folder}/lease"])
    owner = {"host": "elsewhere", "machine": "another", "pid": 1, "born": 1.0, "token": "x"}
    for minutes, refused in ((1, True), (16, False)):
        until = datetime.now(UTC) - timedelta(minutes=minutes)
        record = lease | {"owner": owner, "expires": f"{until:%Y-%m-%dT%H:%M:%S.%fZ}"}
        store.put(f"{run.folder}/lease", json.dumps(record).encode())
        assert lease["held_s"] == HELD_S
        if refused:
            assert "process 1 on elsewhere" in refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
        else:
            erase(store, [str(PERSON)], handover_s=0)
    assert store.children("runs") == []


def test_a_run_that_begins_before_it_sees_the_list_is_refused(
    before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is looked for again once the list is written; the call after it goes on."""
    store = copy_of(before, tmp_path)
    run = run_folders(store)[0]
    with contextlib.ExitStack() as night:

        def suppress(*args: Any) -> Any:
            night.enter_context(leased(store, f"{run.folder}/lease"))
            return suppressed.suppress(*args)

        monkeypatch.setattr("nightrank.release.erase.suppress", suppress)
        assert "is at work" in refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
        assert published(store) == published(before)
    monkeypatch.undo()
    assert len(erase(store, [str(PERSON)], handover_s=0)["releases"]) == 2


def test_two_erasures_at_once(before: Store, tmp_path: Path) -> None:
    """The second is told, and nothing is half done by it."""
    store = copy_of(before, tmp_path)
    with (
        leased(store, LEASE),
        pytest.raises(StoreConflict, match=r"erasure/lease .* is held by another process"),
    ):
        erase(store, [str(PERSON)], handover_s=0)
    assert published(store) == published(before)


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("what", ["arrays/model.json", "arrays/user_vectors.npy", "manifest.json"])
def test_a_damaged_release_is_named_after_all_else_is_done(
    before: Store, tmp_path: Path, which: int, what: str
) -> None:
    """It stays, the others are replaced, the receipt and the error say why; mended, it is replaced too."""
    store = copy_of(before, tmp_path)
    damaged, whole = published(before)[which], published(before)[2 - which]
    path = Path(store.url) / release_key(damaged, what)
    good = path.read_bytes()
    flip(path, 3)
    message = refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
    assert f"damaged:\n  {damaged}: " in message
    (receipt,) = receipts(store)
    assert list(receipt["damaged"]) == [damaged]
    assert [one["release"] for one in receipt["releases"]] == [whole]
    assert receipt["finished"]
    assert damaged in published(store)
    assert whole not in published(store)
    assert store.children("runs") == []
    path.write_bytes(good)
    assert [one["release"] for one in erase(store, [str(PERSON)], handover_s=0)["releases"]] == [damaged]
    assert [one.manifest.erased_users for one in opened(store)] == [1, 0, 1]


def test_a_store_that_fails_is_no_damage(
    before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in writing ends the call; no release is called damaged, and the same call goes on."""
    store = copy_of(before, tmp_path)

    def refuse(*_: Any) -> None:
        raise ReleaseError("the store is full")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "copy", refuse)
        assert refusal(lambda: erase(store, [str(PERSON)], handover_s=0)) == "the store is full"
    assert current(store) == current(before)
    assert receipts(store) == []
    assert erase(store, [str(PERSON)], handover_s=0)["damaged"] == {}


def test_current_moved_back_meanwhile(before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody activates the old release while services change over: it is not taken from under them."""
    store = copy_of(before, tmp_path)
    old = published(before)[0]
    monkeypatch.setattr("nightrank.release.erase.time.sleep", lambda seconds: activate(store, old))
    assert f"moved back to {old}" in refusal(lambda: erase(store, [str(PERSON)]))
    assert open_release(store).id == old
    monkeypatch.undo()
    erase(store, [str(PERSON)], handover_s=0)
    assert [one.manifest.erased_users for one in opened(store)] == [1, 0, 1]
    assert len(receipts(store)) == 1


def test_a_broken_list_stops_everything(before: Store, tmp_path: Path) -> None:
    """A night must not bring people back because nobody can read who they were."""
    store = copy_of(before, tmp_path)
    for data in (b"", b"{}", b'{"key": "zz", "hashes": []}', b'{"key": 1, "hashes": []}'):
        store.put(suppressed.SUPPRESSED, data)
        assert "restore it from a backup" in refusal(lambda: suppressed.read_suppressed(store))
        assert "restore it from a backup" in refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
