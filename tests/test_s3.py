"""A store on S3: the same release as a local one, read through the node's cache, and requests that fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest

import made
from asked import Client
from harm import content, refusal
from made import Published
from nightrank.batch.nightly import is_done
from nightrank.batch.publish import publish
from nightrank.batch.score import missing_units
from nightrank.batch.units import unit_files
from nightrank.errors import SettingsError
from nightrank.release import open_release
from nightrank.release.cache import KEPT_UNUSED_S, CachedFiles, cache_of
from nightrank.release.manifest import CURRENT, current, release_key
from nightrank.release.publish import activate, published, verify
from nightrank.release.store import open_store
from nightrank.service import answers
from nightrank.service.holder import ReleaseHolder
from nightrank.service.recommend import recommend, stored
from nightrank.service.routes import build_api
from nightrank.service.schemas import Context
from remote import Bucket


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's own folder, with its cache."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, bucket: Bucket) -> Published:
    """A release in service on S3, which no test changes."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTRANK_HOME", str(folder / "home"))
        return made.published_release(folder / "job", store=bucket.url())


@pytest.fixture
def release(home: Path, once: Published, bucket: Bucket) -> Published:
    """The same in a store of its own; this node has nothing of it yet."""
    store = open_store(bucket.copied(once.store.url))
    return Published(store=store, run=replace(once.run, store=store), release=once.release)


def test_a_night_on_s3_publishes_what_a_local_one_does(
    release: Published, tmp_path: Path, bucket: Bucket
) -> None:
    """Every file of the release has the bytes of the local store's, and the pointer names it."""
    local = made.published_release(tmp_path / "local")
    mine = content(local.folder)
    prefix = f"releases/{release.release.id}/"
    objects = bucket.keys(release.store.url)
    theirs = {key.removeprefix(prefix): data for key, data in objects.items() if key.startswith(prefix)}
    del mine["manifest.json"], theirs["manifest.json"]
    assert theirs == mine
    assert objects[CURRENT].decode() == f"{release.release.id}\n"
    assert verify(release.store, release.release.id).files == local.release.manifest.files


def test_answers_from_s3_are_those_of_a_local_store(
    release: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading needs no listing of the bucket, which in many places nobody may."""
    local = made.published_release(tmp_path / "local").release
    for name in ("list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, None)
    opened = open_release(open_store(release.store.url))
    for user in opened.model.user_ids.take(range(20)).to_pylist():
        for ask in (stored, answers.history):
            mine, theirs = (ask(one, user, k=10) for one in (local, opened))
            assert mine["items"] == theirs["items"]
    assert {name: rows.tolist() for name, rows in opened.categories.items()} == {
        name: rows.tolist() for name, rows in local.categories.items()
    }
    assert [opened.title(row) for row in range(9)] == [local.title(row) for row in range(9)]
    assert opened.by_popularity.tolist() == local.by_popularity.tolist()


def test_a_service_brings_everything_before_it_flips(release: Published, bucket: Bucket) -> None:
    """Once a release is held, answers ask the store for nothing; the watcher asks for CURRENT and its manifest."""
    held = ReleaseHolder(open_store(release.store.url))
    held.refresh()
    assert held.prepared is not None
    bucket.server.requests.clear()
    for user in held.release.model.user_ids.take(range(40)).to_pylist():
        for exclude in ([], [3]):
            recommend(held.prepared, Context(user_id=user, exclude=exclude), k=10)
    assert bucket.server.requests == []
    held.refresh()
    assert [path.rpartition("/")[2] for _, path in bucket.server.requests] == [CURRENT, "manifest.json"]


def test_what_s3_answered_is_told_without_where_it_was_asked(
    release: Published, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over HTTP anybody gets the object's name and the status; endpoint, bucket and prefix are in the log alone."""
    holder = ReleaseHolder(open_store(release.store.url))
    client = Client(build_api(holder))
    where = (bucket.endpoint, bucket.endpoint.removeprefix("http://"), *release.store.url.split("/")[2:])

    def answered() -> str:
        holder.refresh()
        told = "".join(client.get(path).text for path in ("/readyz", "/v1/releases/current", "/v1/releases"))
        assert not [part for part in where if part in told]
        return told

    bucket.server.refuse("GET", "/CURRENT$", status="403 FORBIDDEN", times=2)
    assert "CURRENT in the store cannot be read (status 403); see the service's log" in answered()
    assert bucket.endpoint in caplog.text
    bucket.server.refuse("GET", "/manifest.json$", status="403 FORBIDDEN", times=2)
    key = release_key(release.release.id, "manifest.json")
    assert answered().count(f"{key} in the store cannot be read (status 403)") == 3
    home = Path(os.environ["NIGHTRANK_HOME"])
    (home / "cache").parent.mkdir(exist_ok=True)
    (home / "cache").write_text("a file")
    told = answered()
    assert "$NIGHTRANK_HOME/cache" in told
    assert str(home) not in told


def test_a_node_brings_each_file_once(release: Published, bucket: Bucket) -> None:
    """The second to open a release on a node, in whatever process, finds every file there."""
    store = open_store(release.store.url)
    bucket.server.requests.clear()
    open_release(store).files.bring()
    gets = [path for method, path in bucket.server.requests if method == "GET" and "/arrays/" in path]
    assert len(gets) == len(set(gets))
    bucket.server.requests.clear()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_open_all, args=(release.store.url,))
    other.start()
    other.join(60)
    assert other.exitcode == 0
    assert not [path for method, path in bucket.server.requests if method == "GET" and "/arrays/" in path]


def _open_all(url: str) -> None:
    open_release(open_store(url)).files.bring()


def test_a_damaged_object_is_refused_and_not_kept(release: Published, bucket: Bucket, home: Path) -> None:
    """A file of the right size and another content never reaches the cache; the message names it."""
    name = f"{release_key(release.release.id)}/arrays/user_vectors.npy"
    whole = bucket.keys(release.store.url)[name]
    bucket.put(release.store.url, name, whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        message = refusal(lambda: open_release(release.store))
        assert "arrays/user_vectors.npy" in message
        assert "is damaged" in message
    assert not list(home.rglob("user_vectors.npy"))
    assert "arrays/user_vectors.npy" in refusal(lambda: verify(release.store, release.release.id))
    assert "arrays/user_vectors.npy" in refusal(lambda: activate(release.store, release.release.id))
    bucket.put(release.store.url, name, whole)
    assert open_release(release.store).id == release.release.id
    bucket.put(release.store.url, name, whole + b"\0")
    assert "user_vectors.npy has" in refusal(lambda: open_release(release.store))


def test_the_cache_drops_what_nothing_uses(release: Published, home: Path, tmp_path: Path) -> None:
    """A folder that a process has open stays however old; one that is old and unused goes with the next new one."""
    used = open_release(release.store)
    folder = Path(used.files.path("arrays/model.json")).parent.parent
    old = time.time() - KEPT_UNUSED_S - 60
    os.utime(folder / ".used", (old, old))
    CachedFiles(release.store, "one", {})  # type: ignore[arg-type]
    assert folder.is_dir()
    used.files.__del__()  # type: ignore[attr-defined]  # as when the process ends
    CachedFiles(release.store, "two", {})  # type: ignore[arg-type]
    assert not folder.exists()
    assert len(list(cache_of(release.store.url).iterdir())) == 2
    assert open_release(release.store).title(0) == used.title(0)


@pytest.mark.parametrize("what", ["recommendations", "arrays", "buckets", "manifest.json", "CURRENT"])
def test_a_put_that_fails_leaves_a_run_that_goes_on(
    home: Path, tmp_path: Path, bucket: Bucket, what: str
) -> None:
    """A refused PUT ends the work with the object's name; the rerun writes what is missing, and nothing twice."""
    run = made.trained_run(made.make_job(tmp_path / "job", store=bucket.url()))
    bucket.server.refuse("PUT", f"/{what}(/|$)", status="403 FORBIDDEN")
    message = refusal(lambda: publish(made.score_in_process(run)))
    assert re.search(r"cannot be written: .*AWS_ENDPOINT_URL", message)
    assert bucket.server.refused == []
    assert current(run.store)[0] is None
    done = [unit for unit in made.units_of(run) if unit not in missing_units(run)]
    bucket.server.requests.clear()
    for unit in missing_units(run):
        made.scorer_of(run).write(unit)
    made.record_score(run)
    publish(run)
    puts = [path for method, path in bucket.server.requests if method == "PUT"]
    names = [release_key(run.record.release, name) for unit in done for name in unit_files(unit)]
    assert not [name for name in names if any(path.endswith(name) for path in puts)]
    verify(run.store, run.record.release)
    assert published(run.store) == [run.record.release]
    assert is_done(run, "publish")


def test_a_server_that_stumbles_is_not_noticed(home: Path, bucket: Bucket) -> None:
    """An answer of 500 or 503 is asked again; a conditional put that had won is not told that it lost."""
    store = open_store(bucket.url())
    bucket.server.refuse("PUT", "/CURRENT$", status="503 SLOW DOWN", times=2)
    store.put_if_match(CURRENT, b"one", None)
    bucket.server.refuse("GET", "/CURRENT$", status="500 INTERNAL SERVER ERROR")
    found = store.read(CURRENT)
    assert found is not None
    assert found.data == b"one"
    store.put_if_match(CURRENT, b"one", None)  # as a retry whose first attempt had gone through


def test_what_is_no_bucket_or_no_server_is_named(monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> None:
    """A wrong bucket and an endpoint that nobody answers are ReleaseErrors with the store and the cure."""
    message = refusal(lambda: open_store("s3://no-such-bucket/x").put("a", b""))
    assert "a in store s3://no-such-bucket/x cannot be written" in message
    assert "<" not in message
    assert "NoSuchBucket" in refusal(lambda: open_release(open_store("s3://no-such-bucket/x")))
    for url in ("s3://", "s3://UPPER/x", "s3://bucket-1/../x"):
        with pytest.raises(SettingsError, match="expected s3://bucket"):
            open_store(url)
    monkeypatch.setattr("nightrank.release.s3.PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "AWS_ENDPOINT_URL" in refusal(lambda: open_store("s3://nightrank-tests/x").read("a"))


def test_a_copy_of_a_release_elsewhere_is_refused(release: Published, bucket: Bucket) -> None:
    """A manifest under another id is somebody's copy, on S3 as in a folder."""
    other = "20010101T000000Z-0123456789ab"
    manifest: Any = bucket.keys(release.store.url)[release_key(release.release.id, "manifest.json")]
    bucket.put(release.store.url, release_key(other, "manifest.json"), manifest)
    assert f"belongs to {release.release.id}" in refusal(lambda: open_release(release.store, other))
