"""The flip from one release to the next: whole answers throughout, broken releases refused, pins kept."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asked
import made
from asked import Client, K, Service, another, item_path, stored, user_path
from made import Published
from nightrank.batch.publish import publish
from nightrank.release.manifest import CURRENT
from nightrank.release.publish import activate
from nightrank.service.holder import ReleaseHolder

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
shared = asked.shared
service = asked.service


def damage(published: Published, name: str) -> None:
    path = published.folder / name
    path.write_bytes(path.read_bytes()[:-2])


def test_a_new_release_is_taken_over_on_refresh(service: Service, tmp_path: Path) -> None:
    """CURRENT is the truth: until the next look the old release answers, then the new one, to the bit."""
    old = service.get(user_path(0), k=K).json()
    new = another(service, tmp_path)
    assert service.get(user_path(0), k=K).json() == old
    assert service.get("/v1/releases/current").json() == {
        "current": new.release.id,
        "held": service.published.release.id,
        "pinned": False,
        "problem": None,
        "activation": None,
    }
    service.holder.refresh()
    answer = service.get(user_path(0), k=K).json()
    assert answer["release"] == new.release.id
    expected = stored(new, "recommendations", "user_id")[0]
    assert [(item["item_id"], item["score"]) for item in answer["items"]] == [
        (row["item_id"], row["score"]) for row in expected
    ]
    assert answer["items"] != old["items"]


def test_refresh_keeps_the_opened_release_where_nothing_moved(service: Service) -> None:
    """Looking at CURRENT every second costs one small read: the same release is not opened again."""
    held = service.holder.release
    service.holder.refresh()
    assert service.holder.release is held


@pytest.mark.parametrize("name", ["manifest.json", "popular.parquet", "arrays/model.json"])
def test_a_broken_release_is_refused_and_the_old_one_stays(
    service: Service, tmp_path: Path, name: str
) -> None:
    """CURRENT names a damaged release: answers go on from the old one, and readiness says why."""
    old = service.get(user_path(0)).json()
    broken = another(service, tmp_path)
    damage(broken, name)
    service.holder.refresh()
    assert service.get(user_path(0)).json() == old
    ready = service.get("/readyz").json()
    assert (ready["status"], ready["release"]) == ("ready", service.published.release.id)
    assert broken.release.id in ready["problem"]
    told = service.get("/v1/releases/current").json()
    assert (told["current"], told["held"]) == (broken.release.id, service.published.release.id)
    assert told["problem"] == ready["problem"]
    activate(service.published.store, service.published.release.id)
    service.holder.refresh()
    assert service.get("/readyz").json()["problem"] is None


def flip_header(path: Path) -> None:
    raw = path.read_bytes()
    assert raw.startswith(b"\x93NUMPY")
    path.write_bytes(raw.replace(b"'shape': (", b"'shape': ,", 1))


@pytest.mark.parametrize(
    "name", ["user_ids.npy", "item_ids.npy", "bucket_offsets.npy", "seen_offsets.npy", "seen_items.npy"]
)
def test_a_release_with_a_broken_array_header_is_refused(service: Service, tmp_path: Path, name: str) -> None:
    """Sizes are right, a header is not: found when the release is preloaded, not by the first user."""
    broken = another(service, tmp_path)
    flip_header(broken.folder / "arrays" / name)
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert name in ready["problem"]


def test_an_item_table_of_nonsense_is_refused_when_preloading(service: Service, tmp_path: Path) -> None:
    """The right number of wrong bytes in the table of categories: refused by name, the old release stays."""
    broken = another(service, tmp_path)
    path = broken.folder / "items.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    service.holder.refresh()
    assert service.holder.release.id == service.published.release.id
    assert "items.parquet" in service.get("/readyz").json()["problem"]


def test_a_failure_that_nobody_foresaw_is_a_problem_too(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library raises: the old release stays, and the watching goes on."""
    new = another(service, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("nightrank.service.holder.open_release", lambda *_: 1 / 0)
        service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert "cannot be opened (ZeroDivisionError)" in ready["problem"]
    service.holder.refresh()
    assert service.get("/readyz").json()["release"] == new.release.id


def test_titles_that_are_no_text_are_a_problem(service: Service, tmp_path: Path) -> None:
    """Damaged text is an error of ours with what was found, and the old release stays."""
    broken = another(service, tmp_path)
    path = broken.folder / "arrays" / "titles.bytes.npy"
    path.write_bytes(path.read_bytes()[:128] + b"\xff" * (path.stat().st_size - 128))
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert "the text of row 0 is damaged" in ready["problem"]
    assert "is not UTF-8; `nightrank releases verify`" in ready["problem"]


def test_a_pin_stays_and_its_release_is_said(service: Service, tmp_path: Path) -> None:
    """user_config {release: ID} holds that release whatever CURRENT says; null follows CURRENT again."""
    new, held = another(service, tmp_path), service.published.release.id
    service.holder.follow(held)
    told = service.get("/v1/releases/current").json()
    assert told == {
        "current": new.release.id,
        "held": held,
        "pinned": True,
        "problem": None,
        "activation": None,
    }
    assert service.get(user_path(0)).json()["release"] == held
    service.holder.pin = None
    service.holder.refresh()
    assert service.get(user_path(0)).json()["release"] == new.release.id


def test_a_pin_on_a_release_that_does_not_exist_keeps_the_old_one(service: Service) -> None:
    """A wrong pin is a visible problem, not an outage."""
    service.holder.pin = "20010101T000000Z-0123456789ab"
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert "20010101T000000Z-0123456789ab does not exist" in ready["problem"]
    assert service.published.store.url not in ready["problem"]


def test_a_pinned_first_release_is_opened_by_follow(service: Service, tmp_path: Path) -> None:
    """A replica that starts pinned opens the pinned release and never the one that CURRENT names."""
    another(service, tmp_path)
    holder = ReleaseHolder(service.published.store)
    holder.follow(service.published.release.id)
    assert holder.release.id == service.published.release.id


def test_the_following_thread_survives_a_store_that_breaks_and_heals(
    service: Service, tmp_path: Path
) -> None:
    """The thread that watches CURRENT goes on after any failure: when the store is well again, it flips."""
    store, holder = service.published.store, ReleaseHolder(service.published.store)
    holder.follow()
    store.put(CURRENT, b"no release id at all\n")
    for _ in range(3):
        holder.follow()
        wait_until(lambda: holder.problem is not None)
    assert holder.release.id == service.published.release.id
    store.put(CURRENT, f"{service.published.release.id}\n".encode())
    new = another(service, tmp_path)
    holder.follow()
    wait_until(lambda: holder.release.id == new.release.id and holder.problem is None)


def wait_until(true: Any) -> None:
    ended = threading.Event()
    for _ in range(1000):
        if true():
            return
        ended.wait(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_answers_during_flips_come_from_one_release_only(service: Service, tmp_path: Path) -> None:
    """Under constant flipping every answer is whole: release id, items and scores all of the same release."""
    releases = [service.published, another(service, tmp_path)]
    users = made.make_ids(8, kind="int64")
    expected = {
        one.release.id: {
            user: [
                (row["item_id"], row["score"])
                for row in stored(one, "recommendations", "user_id").get(user, [])
            ]
            for user in users
        }
        for one in releases
    }
    stop, seen, wrong = threading.Event(), set(), []

    def flip() -> Iterator[None]:
        while not stop.is_set():
            for one in releases:
                service.published.store.put(CURRENT, f"{one.release.id}\n".encode())
                service.holder.refresh()
            yield

    def ask() -> None:
        client = Client(service.api)
        for turn in range(120):
            user = users[turn % len(users)]
            answer = client.get(user_path(user), k=K).json()
            seen.add(answer["release"])
            if [(item["item_id"], item["score"]) for item in answer["items"]] != expected[answer["release"]][
                user
            ]:
                wrong.append(answer)

    flipper = threading.Thread(target=lambda: [None for _ in flip()])
    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in (flipper, *askers):
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    flipper.join()
    assert wrong == []
    assert seen == set(expected)


def test_a_removed_store_changes_nothing_for_those_who_hold_a_release(service: Service) -> None:
    """A store that went away is no outage: what is mapped goes on answering, and the problem is told."""
    whole = service.get(user_path(0)).json()
    Path(service.published.store.url).rename(Path(service.published.store.url).with_name("gone"))
    service.holder.refresh()
    assert service.get(user_path(0)).json() == whole
    assert "names no current release any more" in service.get("/readyz").json()["problem"]


@pytest.mark.parametrize("pinned", [True, False])
def test_a_release_that_was_removed_answers_everybody(service: Service, pinned: bool) -> None:
    """Erased or pruned on a local store: all that any request needs is open, and readiness says that it is gone."""
    users = service.published.release.model.user_ids.array.to_pylist()
    items = service.published.release.model.item_ids.array.to_pylist()
    paths = [user_path(user, what) for user in users for what in ("recommendations", "history")]
    paths += [item_path(item) for item in items]
    expected = [service.client.get(path).json() for path in paths]
    fresh = asked.served(service.published)
    fresh.holder.pin = service.published.release.id if pinned else None
    fresh.holder.refresh()
    shutil.rmtree(service.published.folder)
    fresh.holder.refresh()
    assert [fresh.client.get(path).json() for path in paths] == expected
    problem = fresh.get("/readyz").json()["problem"]
    assert f"release {service.published.release.id} is not in the store" in problem
    assert problem.endswith("or follow CURRENT" if pinned else "activate or publish another")
    assert fresh.get("/v1/releases/current").json()["problem"] == problem


def test_publish_is_what_made_the_current_release(shared: Service) -> None:
    """A rerun of the stage that published what the service holds changes nothing that the service sees."""
    before = shared.get("/v1/releases").json()
    publish(shared.published.run)
    shared.holder.refresh()
    assert shared.get("/v1/releases").json() == before
