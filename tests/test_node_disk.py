"""The node's own disk below a store on S3: scratch and cache that are full, cut, left behind or removed by others."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import made
from harm import refusal
from nightrank.release import cache, open_release
from nightrank.release.cache import KEPT_UNUSED_S, USED, CachedFiles, cache_of, evict
from nightrank.release.files import save_array
from nightrank.release.records import FileRecord
from nightrank.release.scratch import LEFT_S, scratch
from nightrank.release.store import LocalStore, open_store
from remote import Bucket
from test_full_disk import limited

LIST = """
import resource, sys
from nightrank.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
main(["recommend", "1", "--store", sys.argv[1]])
"""
KILLED = """
import os, signal
from nightrank.release.scratch import scratch
with scratch("a.npy") as path:
    path.write_bytes(b"left")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's own folder."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Remote:
    """A store of small files, each holding its own key."""

    def __init__(self, url: str = "s3://somewhere/x") -> None:
        self.url = url
        self.downloads: list[str] = []

    def download(self, key: str, target: Path) -> str:
        self.downloads.append(key)
        target.write_bytes(key.encode())
        return hashlib.sha256(key.encode()).hexdigest()

    def files(self, key: str, *names: str) -> CachedFiles:
        contents = {name: f"{key}/{name}".encode() for name in names}
        records = {
            name: FileRecord(rows=None, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in contents.items()
        }
        return CachedFiles(self, key, records)


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds - 60
    os.utime(path, (then, then))


# -- a disk that takes no more ---------------------------------------------------------------------------


def test_a_full_local_disk_is_named_with_its_path(bucket: Bucket, home: Path) -> None:
    """Writing and copying through scratch end with the path of the file and the cure, and leave nothing there."""
    store = open_store(bucket.url())
    store.put("x/whole.npy", bytes(5_000))
    with limited(600):
        messages = [
            refusal(lambda: save_array(store, "x/a.npy", np.zeros(10_000))),
            refusal(lambda: _write(store, "x/b")),
            refusal(lambda: store.record("x", "whole.npy")),
        ]
    for message in messages:
        assert message.startswith(str(home / "scratch"))
        assert "cannot be written" in message
        assert "NIGHTRANK_HOME may name a folder on another disk" in message
    assert list((home / "scratch").iterdir()) == []
    assert store.names("x") == ["whole.npy"]


def _write(store: Any, key: str) -> None:
    with store.writing(key) as path:
        path.write_bytes(bytes(10_000))


def test_a_command_on_a_node_with_a_full_cache_ends_with_one_line(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a release names the cached file that found no room, keeps no part, and works once there is some."""
    published = made.published_release(tmp_path / "job", store=bucket.url())
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "full"))
    command = [sys.executable, "-c", LIST, published.store.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("nightrank: ")]
    assert len(told) == 1, done.stderr
    assert str(tmp_path / "full" / "cache") in told[0]
    assert "File too large" in told[0]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "full").rglob("*.part"))
    assert open_release(open_store(published.store.url)).id == published.release.id


@pytest.mark.parametrize("what", ["home", "cache", "scratch"])
def test_a_file_in_place_of_a_folder_of_the_node_is_named(home: Path, what: str) -> None:
    """Whatever of $NIGHTRANK_HOME is a file is told by its path; nobody tries for ever."""
    at = home if what == "home" else home / what
    at.parent.mkdir(exist_ok=True)
    at.write_text("a file")
    if what != "cache":
        assert refusal(lambda: scratch("a").__enter__()).startswith(str(home / "scratch"))
    if what != "scratch":
        assert refusal(lambda: Remote().files("k", "a")).startswith(str(home / "cache"))


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nightrank"])
def test_a_store_that_cannot_be_a_folder_is_named(tmp_path: Path, place: str) -> None:
    """A store path that is a file, lies below one or in /proc is told by its path and why."""
    (tmp_path / "file").write_text("a file")
    store = LocalStore(tmp_path / place)
    for call in (lambda: store.put_if_match("a", b"", None), lambda: store.put("a/b", b"")):
        message = refusal(call)
        assert str(tmp_path / place) in message
        assert "cannot be written: " in message


# -- what lies in the cache ------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [b"", b"k/", b"k/a and more"])
def test_a_cached_file_of_another_size_is_brought_again(left: bytes) -> None:
    """What a power cut or a person made of a cached file is not trusted: its size is held against the record."""
    remote = Remote()
    path = remote.files("k", "a").path("a")
    path.chmod(0o644)
    path.write_bytes(left)
    again = remote.files("k", "a").path("a")
    assert (again, again.read_bytes()) == (path, b"k/a")
    assert remote.downloads == ["k/a", "k/a"]


def test_a_cached_file_is_on_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced first: a name never stands for content that a power cut takes."""
    steps: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        steps.append(target.name)
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    Remote().files("k", "a").path("a")
    assert steps == [".a.part", "a"]


def test_folders_of_all_stores_are_evicted() -> None:
    """A node that no longer reads a store does not keep its files: whatever is brought next takes them away."""
    first = Remote("s3://first/x").files("k", "a")
    first.path("a")
    folder = first.folder
    aged(folder / USED, KEPT_UNUSED_S)
    Remote("s3://second/x").files("k")
    assert folder.is_dir(), "somebody has it open"
    first.__del__()
    Remote("s3://second/x").files("other")
    assert not folder.exists()


def test_who_waits_for_a_folder_that_goes_gets_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened after the evictor's lock and before its removal, a folder is made anew: what is held never goes."""
    remote = Remote()
    old = remote.files("k", "a", "b")
    old.path("a")
    aged(old.folder / USED, KEPT_UNUSED_S)
    old.__del__()
    held: list[CachedFiles] = []
    real = cache.shutil.rmtree

    def removing(folder: Path, **options: Any) -> None:
        held.append(remote.files("k", "a", "b"))
        held[0].path("a")
        real(folder, **options)

    monkeypatch.setattr(cache.shutil, "rmtree", removing)
    evict()
    assert held[0].path("a").read_bytes() == b"k/a"
    assert [one.name for one in cache_of(remote.url).iterdir()] == [held[0].folder.name]


def test_an_evictor_that_was_killed_is_cleaned_up_after() -> None:
    """A folder that was put aside and not removed goes the next time."""
    held = Remote().files("k", "a")
    left = held.folder.with_name(f"{cache.ASIDE}left")
    (left / "arrays").mkdir(parents=True)
    evict()
    assert not left.exists()
    assert held.folder.is_dir()


def test_evictors_and_readers_of_a_node_do_not_harm_each_other() -> None:
    """Processes that open, age and evict the same folders at once: none fails or loses a file that it holds."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_open_and_evict, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def _open_and_evict(number: int) -> None:
    remote = Remote()
    for _ in range(150):
        files = remote.files("k", "a", "b")
        for name in ("a", "b"):
            if files.path(name).read_bytes() != f"k/{name}".encode():
                os._exit(3)
        aged(files.folder / USED, KEPT_UNUSED_S)
        files.__del__()
        evict()
    os._exit(0)


# -- what is left in scratch -----------------------------------------------------------------------------


def test_what_a_killed_process_left_in_scratch_goes(home: Path) -> None:
    """A folder of a process that is gone is removed after an hour; one in use stays however old, a new one too."""
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (home / "scratch").iterdir()
    with scratch("a"):
        assert (left / "a.npy").read_bytes() == b"left", "it may be on its way to its lock"
    aged(left, LEFT_S)
    with scratch("b") as used:
        assert not left.exists()
        aged(used.parent, LEFT_S)
        with scratch("c"):
            assert used.parent.is_dir()
    assert list((home / "scratch").iterdir()) == []


def test_a_folder_in_scratch_is_locked(home: Path) -> None:
    """The lock, not the age, says that a process is at it."""
    with scratch("a") as path:
        handle = os.open(path.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
