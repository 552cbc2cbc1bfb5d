"""`nightrank releases prune` and `nightrank destroy`: what goes, what never goes, and that asking changes nothing."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import made
from erased import FEW, copy_of
from harm import content, refusal
from nightrank.batch.inputs import find_inputs
from nightrank.batch.run import LATEST, chosen_run
from nightrank.cli.app import app
from nightrank.errors import ReleaseError
from nightrank.release.cache import cache_of
from nightrank.release.destroy import destroy, plan_destroy
from nightrank.release.erase import erase
from nightrank.release.lease import leased
from nightrank.release.leftovers import LEASE, run_folders
from nightrank.release.manifest import current, release_key
from nightrank.release.prune import plan_prune, prune
from nightrank.release.publish import PREVIOUS, activate, move_current, published, verify, write_release
from nightrank.release.reader import open_release
from nightrank.release.store import LocalStore, Store, open_store
from remote import Bucket

N_RELEASES = 6
UNFINISHED = "20200102T000000Z-0123456789ab"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def days_ago(days: float) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}"


def night(folder: Path, url: str, **job: Any) -> made.Published:
    return made.published_release(
        folder,
        events=made.make_events(**FEW),
        items=[],
        store=url,
        score={"k": 5, "buckets": 2, "similar_items_k": 3},
        **job,
    )


def make_store(folder: Path, *, url: str | None = None) -> Store:
    """Six releases of 50, 40, 30, 20, 10 and 0 days ago, each with a run; the second and the fourth were in service.

    The second is, the fourth was before it. And a run that died before it published, with its release folder, one
    without anything but a broken run.json, and the latest run, which is that of the newest release.
    """
    url = str(folder / "store") if url is None else url
    newest = night(folder / "job", url)
    store, manifest = newest.store, newest.release.manifest
    for number in range(1, N_RELEASES):
        key = f"{number:016x}"
        old = f"{days_ago(10 * number)}-{key[:12]}"
        for name in manifest.files:
            store.copy(release_key(newest.release.id, name), release_key(old, name))
        write_release(store, manifest.model_copy(update={"release": old, "run_key": key}))
        store.put(f"runs/{key}/run.json", json.dumps({"release": old}).encode())
        store.put(f"runs/{key}/model/user_ids.npy", b"x")
    store.put(f"runs/{'d' * 16}/run.json", json.dumps({"release": UNFINISHED}).encode())
    store.put(release_key(UNFINISHED, "arrays/model.json"), b"{}")
    store.put(f"runs/{'e' * 16}/run.json", b"{")
    store.put("releases/notes.txt", b"mine")
    ids = published(store)
    for one in (ids[3], ids[1]):
        activate(store, one)
    return store


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that no test changes."""
    return make_store(tmp_path_factory.mktemp("before"))


@pytest.fixture
def store(before: Store, tmp_path: Path) -> Store:
    return copy_of(before, tmp_path)


def call(*args: str) -> list[str]:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def gone(before: Store, store: Store) -> set[str]:
    """Releases and runs that are not there any more."""
    both = [{*one.children("releases"), *one.children("runs")} for one in (before, store)]
    assert both[1] <= both[0]
    return both[0] - both[1]


@pytest.mark.parametrize(
    ("keep", "days", "removed"),
    [
        (0, None, {0, 2, 4, 5}),
        (1, None, {0, 2, 4}),
        (3, None, {0, 2}),
        (9, None, set()),
        (0, 25, {0, 2}),
        (1, 45, {0}),
    ],
)
def test_what_goes_and_what_stays(
    before: Store, store: Store, keep: int, days: float | None, removed: set[int]
) -> None:
    """Never the one in service nor the one before it; a release is old enough and not among the newest."""
    ids = published(before)
    assert current(before)[0] == ids[1]
    assert before.read(PREVIOUS).data.decode().strip() == ids[3]  # type: ignore[union-attr]
    runs = {run.release: run.key for run in run_folders(before)}
    expected = {ids[place] for place in removed} | {UNFINISHED, "d" * 16, "e" * 16}
    expected |= {runs[ids[place]] for place in removed - {N_RELEASES - 1}}  # the latest run stays
    prune(store, plan_prune(store, keep=keep, days=days))
    assert gone(before, store) == expected
    for one in published(store):
        verify(store, one)
    assert open_release(store).id == ids[1]
    assert (Path(store.url) / "releases/notes.txt").read_bytes() == b"mine"


def test_the_dry_run_changes_nothing_and_says_what_is_done_then(before: Store, store: Store) -> None:
    """Every file stays as it is without --yes; with it, exactly the releases and runs that it named are gone."""
    files = content(Path(store.url))
    args = ["releases", "prune", "--store", store.url, "--keep", "1"]
    said = call(*args)
    assert content(Path(store.url)) == files
    assert said[-1] == f"nothing was removed in {store.url}; the same command with --yes does it"
    named = {line.split()[-1] for line in said if line.startswith("remove ")}
    done = call(*args, "--yes")
    assert done[:-1] == said[:-1]
    assert done[-1] == f"done in {store.url}"
    assert gone(before, store) == named
    again = call(*args, "--yes")
    assert not [line for line in again if line.startswith("remove ")]
    assert again[-1].startswith("nothing to remove")


def test_every_release_that_stays_has_its_reason(store: Store) -> None:
    """Whoever reads the dry run knows why a release is kept."""
    ids = published(store)
    kept = plan_prune(store, keep=1, days=25).kept
    assert kept[ids[1]] == "in service (CURRENT)"
    assert kept[ids[3]] == "was in service before"
    assert kept[ids[5]] == "among the 1 newest"
    assert kept[ids[4]] == "less than 25 days old"
    assert set(ids) - set(kept) == {ids[0], ids[2]}


def test_runs_at_work_stay_with_their_folders(before: Store, store: Store) -> None:
    """A process is writing there; also one that began after the plan was made."""
    dead, old = f"runs/{'d' * 16}/lease", f"runs/{'e' * 16}/lease"
    with leased(store, dead):
        plan = plan_prune(store, keep=9)
        assert plan.busy == {"d" * 16: f"process {os.getpid()} on {os.uname().nodename}"}
        with leased(store, old):
            prune(store, plan)
            assert gone(before, store) == set()
    plan = plan_prune(store, keep=9)
    with leased(store, dead):
        prune(store, plan)
    assert gone(before, store) == {"e" * 16}


def test_what_was_activated_after_the_plan_stays(store: Store) -> None:
    """The plan is checked against the pointers once more."""
    oldest = published(store)[0]
    plan = plan_prune(store, keep=0)
    assert oldest in plan.releases
    activate(store, oldest)
    prune(store, plan)
    assert open_release(store).id == oldest


def test_the_latest_run_goes_on_after_pruning(tmp_path: Path) -> None:
    """Its folder stays even where its release went, so that a rerun and `--run latest` find it."""
    first = night(tmp_path / "a", str(tmp_path / "store"))
    second = night(tmp_path / "b", str(tmp_path / "store"), seed=1)
    third = night(tmp_path / "b", str(tmp_path / "store"), seed=2)
    for one in (first, second):
        activate(one.store, one.release.id)
    prune(first.store, plan_prune(first.store, keep=0))
    assert set(published(first.store)) == {first.release.id, second.release.id}
    assert (
        chosen_run(third.store, third.run.job, find_inputs(third.run.job), key="latest").key == third.run.key
    )
    made.score_in_process(third.run)


def test_previous_follows_current(tmp_path: Path) -> None:
    """It names what was in service before, whoever moved CURRENT; a move to the same release changes nothing."""
    first = night(tmp_path / "a", str(tmp_path / "store"))
    assert first.store.read(PREVIOUS) is None
    second = night(tmp_path / "b", str(tmp_path / "store"), seed=1)
    said = [first.store.read(PREVIOUS).data.decode().strip()]  # type: ignore[union-attr]
    activate(first.store, first.release.id)
    move_current(first.store, first.release.id, expected=first.release.id)
    said.append(first.store.read(PREVIOUS).data.decode().strip())  # type: ignore[union-attr]
    assert said == [first.release.id, second.release.id]


def test_destroy_leaves_nothing_of_nightrank(before: Store, store: Store, tmp_path: Path) -> None:
    """The dry run changes nothing; then only strangers' files are left, and a second time there is nothing to do."""
    root = Path(store.url)
    strangers = {
        "notes.txt": b"a",
        "runs/tensorboard/x": b"b",
        "releases/mine/y": b"c",
        "releases/notes.txt": b"mine",
    }
    for name, data in strangers.items():
        store.put(name, data)
    store.put("winners/0123456789ab.json", b"{}")
    store.put("mlflow.db", b"")
    store.put("mlartifacts/1/plot.png", b"")
    job = job_file(tmp_path, store.url)
    files = content(root)
    said = call("destroy", "--config", job)
    assert content(root) == files
    assert any(line.startswith("remove  releases/") for line in said)
    done = call("destroy", "--config", job, "--yes")
    assert done[:-1] == said[:-1]
    assert content(root) == strangers
    assert call("destroy", "--config", job, "--yes") == [f"nothing to remove in {store.url}"]


def test_destroy_takes_the_folder_where_nothing_else_is_in_it(store: Store) -> None:
    """A store that held only what jobs made is not there any more."""
    store.delete("releases/notes.txt")
    destroy(store, plan_destroy(store))
    assert not Path(store.url).exists()


def test_the_list_of_erased_people_stays_with_the_reason(store: Store, tmp_path: Path) -> None:
    """Destroying a store must not bring people back; the receipts stay too."""
    who = str(open_release(store).model.user_ids[3])
    erase(store, [who], handover_s=0)
    store.delete("releases/notes.txt")
    said = call("destroy", "--config", job_file(tmp_path, store.url), "--yes")
    assert "keep    erasure/: the list of erased people: without it a new night would bring them back" in said
    left = content(Path(store.url))
    assert "erasure/suppressed.json" in left
    assert {name.split("/")[1] for name in left} == {"suppressed.json", "receipts"}


@pytest.mark.parametrize("key", [f"runs/{'d' * 16}/lease", LEASE])
def test_work_in_the_store_is_not_destroyed(store: Store, key: str) -> None:
    """A night or an erasure that is going on is named, and nothing is removed."""
    files = content(Path(store.url))
    with leased(store, key):
        with pytest.raises(ReleaseError, match=r"at work|being erased"):
            plan_destroy(store)
        found = content(Path(store.url))
        assert files == {name: found[name] for name in files}


def test_a_destruction_that_was_killed_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pointers went first, so no service opens what is half gone; the same command removes the rest."""
    real, calls = LocalStore.delete_folder, []

    def killed(self: LocalStore, key: str) -> None:
        calls.append(key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(self, key)

    monkeypatch.setattr(LocalStore, "delete_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        destroy(store, plan_destroy(store))
    assert "nothing is published" in refusal(lambda: open_release(store))
    monkeypatch.undo()
    destroy(store, plan_destroy(store))
    assert list(content(Path(store.url))) == ["releases/notes.txt"]


def test_on_s3_both_do_the_same(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects below other names stay; the node's cache of the store goes too."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    store = make_store(tmp_path, url=bucket.url())
    ids, objects = published(store), bucket.keys(store.url)
    said = call("releases", "prune", "--store", store.url, "--keep", "1")
    assert bucket.keys(store.url) == objects
    named = {line.split()[-1] for line in said if line.startswith("remove ")}
    prune(store, plan_prune(store, keep=1))
    assert published(store) == [ids[1], ids[3], ids[5]]
    store.delete(LEASE)  # given back, it stays
    left = bucket.keys(store.url)
    assert left == {key: data for key, data in objects.items() if not named & set(re.split("/", key))}
    open_release(store).files.bring()
    assert cache_of(store.url).is_dir()
    job = job_file(tmp_path, store.url)
    call("destroy", "--config", job)
    assert bucket.keys(store.url) == left
    call("destroy", "--config", job, "--yes")
    assert bucket.keys(store.url) == {"releases/notes.txt": b"mine"}
    assert not cache_of(store.url).exists()
    assert call("destroy", "--config", job) == [f"nothing to remove in {store.url}"]


def test_an_empty_store_has_nothing_to_remove(tmp_path: Path) -> None:
    """Also where the folder is not there."""
    store = open_store(str(tmp_path / "none"))
    said = [f"nothing to remove in {store.url}"]
    assert call("releases", "prune", "--store", store.url) == said
    assert call("destroy", "--config", job_file(tmp_path, store.url), "--yes") == said
    assert not Path(store.url).exists()
    assert store.read(LATEST) is None


def job_file(folder: Path, url: str) -> str:
    """A job whose store is there; nothing else of it is looked at."""
    path = folder / "job.yaml"
    events = "{path: events.parquet, columns: {user: u, item: i}}"
    path.write_text(f"store: {url}\nevents: {events}\nsplit: {{kind: per_user, n: 1}}\n")
    return str(path)
