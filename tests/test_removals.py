"""Prune, erase, destroy and activate against each other, kills, refusing stores: nothing that is needed goes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import erased
from erased import copy_of, events_of, receipts
from harm import content, refusal
from mortal import Killed, Mortal
from nightrank.data.ids import Id
from nightrank.errors import ReleaseError, StoreConflict, StoreUnreachable
from nightrank.release import erase as erasing
from nightrank.release import prune as pruning
from nightrank.release.destroy import destroy, plan_destroy
from nightrank.release.erase import erase
from nightrank.release.lease import leased
from nightrank.release.leftovers import LEASE, protected, remove_release
from nightrank.release.manifest import CURRENT, current, release_key
from nightrank.release.prune import plan_prune, prune
from nightrank.release.publish import PREVIOUS, activate, before_current, problems_of, published, verify
from nightrank.release.reader import open_release
from nightrank.release.store import LocalStore, Store
from remote import Bucket

PERSON: Id = sorted(set(events_of("string")["user_id"].to_pylist()))[15]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes: A is in service, C was before it, B is between them and knows no PERSON."""
    return erased.make_store(tmp_path_factory.mktemp("before"), kind="string", people=[PERSON])


@pytest.fixture
def store(before: Store, tmp_path: Path) -> Store:
    return copy_of(before, tmp_path)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Hooked(LocalStore):
    """A store where something happens just before, or after, the first change of a key of that end."""

    def __init__(self, store: Store, end: str, happens: Any, *, after: bool = False) -> None:
        super().__init__(Path(store.url))
        self.end, self.happens, self.after = end, happens, after

    @contextlib.contextmanager
    def _met(self, key: str) -> Iterator[None]:
        happens = self.happens if key.endswith(self.end) else None
        if happens is not None:
            self.happens = None
        if happens is not None and not self.after:
            happens()
        yield
        if happens is not None and self.after:
            happens()

    def put_if_match(self, key: str, data: bytes, tag: str | None) -> None:
        with self._met(key):
            super().put_if_match(key, data, tag)

    def delete(self, key: str) -> None:
        with self._met(key):
            super().delete(key)


# -- the way back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_a_kill_while_current_moves_keeps_the_way_back(store: Store, dies_at: int) -> None:
    """Wherever it stops, PREVIOUS names another release than CURRENT, and pruning keeps what a rollback needs."""
    a, b, c = published(store)
    with contextlib.suppress(Killed):
        activate(Mortal(store, dies_at=dies_at), b)
    now = current(store)[0]
    assert now == (b if dies_at == 3 else a)
    back = a if now == b else c
    assert back in protected(store)
    prune(store, plan_prune(store, keep=0))
    assert {now, back} <= set(published(store))
    activate(store, back)
    assert before_current(store)[0] == [now]


def test_a_store_without_a_way_back_keeps_the_newest_other(store: Store) -> None:
    """PREVIOUS is missing, says what CURRENT says, or names what is not there: something stays for a rollback."""
    a, _, c = published(store)
    for text in (None, a, "20010101T000000Z-0123456789ab", "..", "\n"):
        store.delete(PREVIOUS)
        if text is not None:
            store.put(PREVIOUS, f"{text}\n".encode())
        assert protected(store)[c] == "the newest to go back to, since PREVIOUS names none"
        assert protected(store)[a] == "in service (CURRENT)"
        assert plan_prune(store, keep=0).releases == [published(store)[1]]


def test_two_that_move_current_at_once_keep_the_way_back(store: Store) -> None:
    """The one that comes too late is told, and what the other wrote to PREVIOUS is still named there."""
    a, b, c = published(store)
    for end in (PREVIOUS, CURRENT):
        late = Hooked(store, end, lambda: activate(store, c))
        with pytest.raises(StoreConflict):
            activate(late, b)
        assert current(store)[0] == c
        assert a in protected(store)
        activate(store, a)


# -- one removes at a time, and asks before each removal ------------------------------------------------------


def test_prune_erase_and_destroy_exclude_each_other(before: Store, store: Store) -> None:
    """They hold one lease; whoever comes second is told and changes nothing."""
    plans = plan_prune(store, keep=0), plan_destroy(store)
    with leased(store, LEASE):
        for call in (
            lambda: prune(store, plans[0]),
            lambda: destroy(store, plans[1]),
            lambda: erase(store, [str(PERSON)], handover_s=0),
        ):
            with pytest.raises(StoreConflict, match="is held by another process"):
                call()
    left = content(Path(store.url))
    assert left == content(Path(before.url)) | {LEASE: left[LEASE]} | {".lock": b""}


def test_a_run_that_begins_after_the_plan_is_not_destroyed(store: Store) -> None:
    """What was asked for the dry run is asked again."""
    plan = plan_destroy(store)
    run = next(name for name in plan.folders if name.startswith("runs/"))
    with leased(store, f"{run}/lease"), pytest.raises(StoreConflict, match="is at work"):
        destroy(store, plan)
    assert len(published(store)) == 3


def test_what_was_published_after_the_plan_stays(store: Store) -> None:
    """A plan was made while a release, as the successor of an erasure, had no manifest yet."""
    b = published(store)[1]
    name = release_key(b, "manifest.json")
    manifest = (Path(store.url) / name).read_bytes()
    store.delete(name)
    plan = plan_prune(store, keep=9)
    assert plan.unfinished == [b]
    store.put(name, manifest)
    prune(store, plan)
    verify(store, b)


def test_what_is_activated_while_others_are_pruned_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each removal looks at CURRENT and PREVIOUS anew."""
    _, b, c = published(store)
    activate(store, b)
    newer = f"20300101T000000Z-{'0' * 12}"
    shutil.copytree(Path(store.url) / release_key(c), Path(store.url) / release_key(newer))
    removed = []

    def remove(where: Store, release_id: str) -> None:
        remove_release(where, release_id)
        store.put(PREVIOUS, f"{newer}\n".encode())
        removed.append(release_id)

    monkeypatch.setattr(pruning, "remove_release", remove)
    plan = plan_prune(store, keep=0)
    assert plan.releases == [c, newer]
    prune(store, plan)
    assert removed == [c]
    assert newer in published(store)


def test_a_release_that_goes_while_it_is_put_in_service(store: Store) -> None:
    """Verified, then pruned, then named by CURRENT: the pointer goes back, and the error says so."""
    a, b, _ = published(store)
    late = Hooked(store, CURRENT, lambda: remove_release(LocalStore(Path(store.url)), b))
    assert f"{b} was removed while it was put in service, so {a} is" in refusal(lambda: activate(late, b))
    assert open_release(store).id == a
    store.delete(CURRENT)
    late = Hooked(store, CURRENT, lambda: remove_release(LocalStore(Path(store.url)), a))
    with pytest.raises(ReleaseError, match="so none is in service"):
        activate(late, a)
    assert current(store) == (None, None)


def test_a_release_that_is_put_in_service_while_it_goes(store: Store) -> None:
    """The other order: its manifest went, then CURRENT names it; the manifest comes back and nothing else went."""
    b = published(store)[1]
    late = Hooked(store, "manifest.json", lambda: store.put(CURRENT, f"{b}\n".encode()), after=True)
    with pytest.raises(StoreConflict, match="was put in service meanwhile and stays"):
        remove_release(late, b)
    verify(store, b)
    assert open_release(store).id == b


def test_an_erasure_asks_before_each_removal(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody activates the second of two replaced releases while the first goes."""
    a, _, c = published(store)

    def remove(where: Store, release_id: str) -> None:
        assert release_id == a
        activate(store, c)
        remove_release(where, release_id)

    monkeypatch.setattr(erasing, "remove_release", remove)
    assert f"moved back to {c}" in refusal(lambda: erase(store, [str(PERSON)], handover_s=0))
    assert open_release(store).id == c
    monkeypatch.undo()
    erase(store, [str(PERSON)], handover_s=0)
    assert open_release(store).manifest.replaces == c


# -- erasing: who is known, and a store that refuses ---------------------------------------------------------


def test_whom_nobody_knows_is_found_by_ids_alone(
    store: Store, before: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No release is verified for it, and neither runs nor unfinished releases go; only the list grows."""
    unfinished = "releases/20010101T000000Z-0123456789ab/arrays/model.json"
    store.put(unfinished, b"{}")
    monkeypatch.setattr(erasing, "verify", lambda *args: pytest.fail("verified"))
    erase(store, ["nobody"], handover_s=0)
    left = {name: data for name, data in content(Path(store.url)).items() if not name.startswith("erasure/")}
    assert {**content(Path(before.url)), unfinished: b"{}", ".lock": b""} == left | {
        name: data for name, data in content(Path(before.url)).items() if name.startswith("erasure/")
    }
    (receipt,) = receipts(store)
    assert (receipt["runs"], receipt["unfinished"], receipt["releases"]) == ([], [], [])


def test_a_release_that_cannot_say_whom_it_knows(store: Store) -> None:
    """Damaged ids find nobody, which is not the same as knowing nobody: runs go, and the release is named."""
    a = published(store)[0]
    path = Path(store.url) / release_key(a, "arrays/user_ids.bytes.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))
    assert f"{a}: user_ids.bytes.npy is missing or is not what" in refusal(
        lambda: erase(store, ["nobody"], handover_s=0)
    )
    assert store.children("runs") == []


def test_a_refusing_store_is_no_damage(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 403 at any step ends the call without the advice to remove anything; the same call goes on later."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    store = erased.make_store(tmp_path, kind="string", people=[PERSON], url=bucket.url())
    a, b, c = published(store)
    folder = release_key(a, "arrays")
    for name in ("model.json", "bucket_offsets.npy", "user_ids.bytes.npy", "user_vectors.npy"):
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        bucket.server.refuse("GET", f"/{folder}/{name}", status="403 FORBIDDEN")
        with pytest.raises(StoreUnreachable, match=rf"{name} in store .* cannot be read") as refused:
            erase(store, [str(PERSON)], handover_s=0)
        assert "damaged" not in str(refused.value)
        assert published(store) == [a, b, c]
        assert receipts(store) == []
    bucket.server.refuse("GET", f"/{folder}/user_vectors.npy", status="403 FORBIDDEN")
    with pytest.raises(StoreUnreachable):
        list(problems_of(store, open_release(store).manifest))
    receipt = erase(store, [str(PERSON)], handover_s=0)
    assert [one["release"] for one in receipt["releases"]] == [a, c]
    assert receipt["damaged"] == {}


# -- what is said --------------------------------------------------------------------------------------------


def test_destroy_names_what_mlflow_keeps_elsewhere(
    store: Store, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3 the database is on this machine, and a server's records are the server's."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    database = tmp_path / "home" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"")
    assert set(plan_destroy(store).stays) == {"erasure/"}
    far = erased.open_store(bucket.url())
    assert set(plan_destroy(far).stays) == {str(database)}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert set(plan_destroy(far).stays) == {str(database), "MLFLOW_TRACKING_URI"}


def test_a_release_of_no_time_is_kept(store: Store) -> None:
    """An id has digits in the place of a time that are none: --days keeps it, and nothing breaks."""
    odd = "00000000T999999Z-0123456789ab"
    shutil.copytree(Path(store.url) / release_key(published(store)[1]), Path(store.url) / release_key(odd))
    assert plan_prune(store, keep=0, days=1).kept[odd] == "its id has no time that can be read"
    assert odd in plan_prune(store, keep=0).releases
    assert plan_prune(store, keep=0, days=1e300).releases == []
