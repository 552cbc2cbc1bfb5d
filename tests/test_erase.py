"""`nightrank releases erase`: the people are gone from all that a store holds, and nothing else is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import erased
import made
from erased import FEW, KINDS, check_nothing_left, check_successor, copy_of, events_of, opened, receipts
from nightrank.batch.inputs import find_inputs, load_interactions, refuse_erased
from nightrank.batch.nightly import summary
from nightrank.batch.run import run_key, start_run
from nightrank.cli.app import app
from nightrank.data.ids import Id
from nightrank.errors import DataError
from nightrank.release.erase import NOT_DONE, erase
from nightrank.release.manifest import CURRENT, current
from nightrank.release.model_card import read_card
from nightrank.release.publish import PREVIOUS, published
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store, open_store
from nightrank.release.suppressed import read_suppressed, suppress
from remote import Bucket

PLACES = {"int64": 6, "string": 15}


def person(kind: str) -> Id:
    """Somebody with a history in A and C."""
    return sorted(set(events_of(kind)["user_id"].to_pylist()))[PLACES[kind]]


@pytest.fixture(scope="module", params=KINDS)
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes."""
    kind = request.param
    return erased.make_store(tmp_path_factory.mktemp(kind), kind=kind, people=[person(kind)])


def kind_of(store: Store) -> str:
    return open_release(store).model.card.user_id_type


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and it takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


WHO: dict[str, Callable[[Release], list[Id]]] = {
    "one": lambda release: [person(release.model.card.user_id_type)],
    "first and last": lambda release: [
        release.model.user_ids[row]
        for bound in release.model.bucket_offsets.tolist()
        for row in (bound - 1, bound)
        if 0 <= row < len(release.model.user_ids)
    ],
    "a bucket": lambda release: [
        release.model.user_ids[row]
        for row in range(int(release.model.bucket_offsets[1]), int(release.model.bucket_offsets[2]))
    ],
    "all but one": lambda release: release.model.user_ids.column.to_pylist()[1:],
    "everybody": lambda release: release.model.user_ids.column.to_pylist(),
}


@pytest.mark.parametrize("who", WHO)
def test_only_the_people_are_gone(before: Store, tmp_path: Path, who: str) -> None:
    """In every release that knew them: all others keep their rows to the bit, and counts are those of who is left."""
    people = WHO[who](opened(before)[0])
    store = copy_of(before, tmp_path)
    receipt = erase(store, [str(one) for one in people], handover_s=0)
    for old, new in zip(opened(before), opened(store), strict=True):
        knew = [one for one in people if old.model.user_ids.find(one) is not None]
        if knew:
            check_successor(old, new, knew)
            new.model.check()
        else:
            assert new.manifest == old.manifest
    for one in people:
        check_nothing_left(store, one)
    successors = {one["release"]: one["successor"] for one in receipt["releases"]}
    assert published(store) == [successors.get(one, one) for one in published(before)]
    for pointer in (CURRENT, PREVIOUS):
        was = before.read(pointer).data.decode().strip()
        assert store.read(pointer).data.decode().strip() == successors.get(was, was)
    assert store.children("runs") == []
    assert len(store.children("releases")) == 3


def test_the_receipt_says_all_and_names_nobody(before: Store, tmp_path: Path) -> None:
    """What was replaced and removed, who was in it by keyed hash, and what was not done; the store keeps the same."""
    store, who = copy_of(before, tmp_path), person(kind_of(before))
    store.put("releases/20010101T000000Z-0123456789ab/arrays/model.json", b"{}")
    receipt = erase(store, [str(who)], handover_s=0)
    first, _, third = published(before)
    after = published(store)
    hashed = read_suppressed(store).hash_of(who)
    assert [(one["release"], one["successor"], one["people"]) for one in receipt["releases"]] == [
        (first, after[0], [hashed]),
        (third, after[2], [hashed]),
    ]
    assert receipt["runs"] == [name for name in before.children("runs") if name != "LATEST"]
    assert receipt["unfinished"] == ["20010101T000000Z-0123456789ab"]
    assert receipt["people"] == [hashed]
    assert receipt["damaged"] == {}
    assert receipt["not_done"] == list(NOT_DONE)
    assert receipt["begun"] <= receipt["finished"]
    assert receipts(store) == [receipt]
    assert str(who) not in json.dumps(receipt)


def test_a_second_erasure_adds_up(before: Store, tmp_path: Path) -> None:
    """Successors are replaced like any release; who was erased before stays so, and an erasure again finds nobody."""
    store = copy_of(before, tmp_path)
    first, second = person(kind_of(before)), opened(before)[0].model.user_ids[0]
    erase(store, [str(first)], handover_s=0)
    erase(store, [str(second)], handover_s=0)
    assert [one.manifest.erased_users for one in opened(store)] == [2, 1, 2]
    again = published(store)
    assert erase(store, [str(first), str(second)], handover_s=0)["releases"] == []
    assert published(store) == again
    assert len(receipts(store)) == 3
    for one in (first, second):
        check_nothing_left(store, one)


def test_a_night_afterwards_leaves_them_out_and_counts_them(before: Store, tmp_path: Path) -> None:
    """The same events and settings are another run, whose release has everybody else; the account is complete."""
    store, kind = copy_of(before, tmp_path), kind_of(before)
    who, events = person(kind), events_of(kind)
    job = made.make_job(tmp_path / "night", events=events, items=made.make_items(n_items=12), store=store.url)
    key, inputs = run_key(job, find_inputs(job)), find_inputs(job)
    erase(store, [str(who)], handover_s=0)
    assert run_key(job, find_inputs(job)) != key
    with pytest.raises(DataError, match="was erased"):
        refuse_erased(store, inputs)
    with pytest.raises(DataError, match="was erased"):
        load_interactions(job, inputs, family="als")
    night = made.published_release(
        tmp_path / "night", events=events, items=made.make_items(n_items=12), store=store.url
    )
    users = set(events["user_id"].to_pylist())
    assert set(night.release.model.user_ids.column.to_pylist()) == users - {who}
    check_nothing_left(store, who)
    counts = night.run.finished("train")["model"]["counts"]
    n_events = events["user_id"].to_pylist().count(who)
    assert (counts["suppressed_users"], counts["suppressed_events"]) == (1, n_events)
    assert summary(night.run)["counts"]["events_dropped"] == n_events
    assert current(store)[0] == night.release.id


def test_events_of_erased_people_only(tmp_path: Path) -> None:
    """Where nobody else is left, a night ends with the reason instead of an empty release."""
    one = pa.table({"user_id": [7] * 3, "item_id": [1, 2, 3], "weight": [1.0] * 3, "timestamp": [1, 2, 3]})
    job = made.make_job(tmp_path, events=one, items=[])
    suppress(open_store(job.store), ["7"])
    with pytest.raises(DataError, match="all are of people who were erased"):
        load_interactions(job, find_inputs(job), family="als")


def test_ids_are_read_as_the_store_has_them(before: Store, tmp_path: Path) -> None:
    """Among integers 007 is 7; among texts it is somebody else. What can be no id is refused before anything."""
    store, kind = copy_of(before, tmp_path), kind_of(before)
    who = person(kind)
    files = sorted(path for path in Path(store.url).rglob("*") if path.is_file())
    if kind == "string":
        assert erase(store, [f"00{who}"], handover_s=0)["releases"] == []
        return
    for text in ("seven", "1.0", " 7", "9223372036854775808", "٣", ""):
        with pytest.raises(DataError, match=r"integers \(int64\); nobody was erased"):
            erase(store, [str(who), text], handover_s=0)
    assert sorted(p for p in Path(store.url).rglob("*") if p.is_file() and p.name != "lease") == [
        path for path in files if path.name != "lease"
    ]
    receipt = erase(store, [f"00{who}", str(who)], handover_s=0)
    assert len(receipt["people"]) == 1
    assert len(receipt["releases"]) == 2


def test_a_store_with_both_types_of_id(tmp_path: Path) -> None:
    """Where a job's ids became texts, the plain form of an integer is that person in all releases."""
    store = open_store(str(tmp_path / "store"))
    plain = made.make_events(n_users=12, n_items=12)
    texts = plain.set_column(0, "user_id", plain["user_id"].cast(pa.string()))
    for name, events in (("a", plain), ("b", texts)):
        made.published_release(tmp_path / name, events=events, items=[], store=store.url)
        erased.wait_for_next_second()
    who = str(opened(store)[0].model.user_ids[3])
    assert erase(store, [f"0{who}"], handover_s=0)["releases"] == []
    assert len(erase(store, [who], handover_s=0)["releases"]) == 2
    assert [one.model.card.n_users for one in opened(store)] == [11, 11]


def test_before_the_first_release_a_run_says_what_ids_are_here(tmp_path: Path) -> None:
    """A trained run that was never published: 007 is user 7 there, too, and a job's next night has no 7."""
    events = made.make_events(n_users=12, n_items=12)
    run = made.trained_run(made.make_job(tmp_path / "job", events=events, items=[]))
    who = sorted(set(events["user_id"].to_pylist()))[5]
    assert read_card(run.store, run.name("model")).user_id_type == "int64"
    receipt = erase(run.store, [f"00{who}"], handover_s=0)
    assert receipt["runs"] == [run.key]
    again = load_interactions(run.job, find_inputs(run.job), family="als")
    assert who not in again.user_ids.column.to_pylist()
    assert start_run(run.store, run.job, find_inputs(run.job)).key != run.key


def test_nobody_here_by_that_name(before: Store, tmp_path: Path) -> None:
    """An unknown id changes no release and no run; it is kept out all the same, since events may have it."""
    store = copy_of(before, tmp_path)
    unknown = "123456789" if kind_of(before) == "int64" else "person-nobody"
    result = CliRunner().invoke(app, ["releases", "erase", "--store", store.url, "--user", unknown])
    assert result.exit_code == 0
    assert "unknown   nobody of that id is known here, so nothing was removed" in result.stdout
    assert published(store) == published(before)
    assert store.children("runs") == before.children("runs")
    assert store.children("releases") == before.children("releases")
    assert receipts(store)[0]["runs"] == []
    assert len(read_suppressed(store).hashes) == 2


def test_the_command_says_what_it_did(before: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for a person, JSON for a script; several people in one call."""
    monkeypatch.setattr("nightrank.release.erase.time.sleep", lambda seconds: None)
    people = [str(one) for one in opened(before)[0].model.user_ids.column.to_pylist()[:2]]
    args: list[Any] = ["releases", "erase", *(word for one in people for word in ("--user", one))]
    for number, more in enumerate(([], ["--json"])):
        store = copy_of(before, tmp_path / str(number))
        result = CliRunner().invoke(app, [*args, "--store", store.url, *more])
        assert result.exit_code == 0, result.output
        if more:
            assert [json.loads(result.stdout)] == receipts(store)
        else:
            (receipt,) = receipts(store)
            for one in receipt["releases"]:
                assert f"release {one['release']} by {one['successor']}, without" in result.stdout
            assert "kept out  2 user(s)" in result.stdout
            assert all(f"not done  {text}" in result.stdout for text in NOT_DONE)


def test_on_s3_it_is_the_same(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object of the store has the id, and everybody else is as before."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    who = person("string")
    store = erased.make_store(tmp_path, kind="string", people=[who], url=bucket.url())
    old = [open_release(store, one) for one in published(store)]
    for one in old:
        one.files.bring()
    tables = {one.id: [one.history(row) for row in range(one.model.card.n_users)] for one in old}
    receipt = erase(store, [str(who)], handover_s=0)
    assert len(receipt["releases"]) == 2
    new = opened(store)
    assert [one.manifest.erased_users for one in new] == [1, 0, 1]
    objects = bucket.keys(store.url)
    assert not [key for key, data in objects.items() if str(who).encode() in data]
    assert not [key for key in objects if key.startswith("runs/")]
    assert not [key for key in objects for one in receipt["releases"] if one["release"] in key]
    for before_it, after in zip(old, new, strict=True):
        users = before_it.model.user_ids.column.to_pylist()
        for row, user in enumerate(users):
            found = after.model.user_ids.find(user)
            assert (found is None) == (user == who)
            if found is not None:
                assert after.history(found)[0].tolist() == tables[before_it.id][row][0].tolist()
    assert FEW["n_users"] - 1 == new[0].model.card.n_users == new[1].model.card.n_users
