"""The store, local and on S3: one-step writes, conditional puts between processes, keys that cannot leave it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import ReleaseError, SettingsError, StoreConflict
from nightrank.release.store import LocalStore, Store, open_store, replacing
from remote import Bucket

ROUNDS, WRITERS = 15, 4
TRICKS = ("../x", "a/../../x", "a/..", "/etc/passwd", "//x", "a\\..\\x", "a\0b", "", ".")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = open_store(str(tmp_path / "store"))
    assert isinstance(opened, LocalStore)
    return opened


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket) -> Store:
    """Either kind: what a store promises, both keep."""
    return open_store(str(tmp_path / "store") if request.param == "local" else bucket.url())


def content(store: Store, key: str) -> bytes | None:
    found = store.read(key)
    return None if found is None else found.data


def tag(store: Store, key: str) -> str | None:
    found = store.read(key)
    return None if found is None else found.tag


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_put_then_read_gives_the_bytes_back(any_store: Store) -> None:
    """What is put is what is read, also where something was there before, and nothing else is left behind."""
    assert any_store.read("a/b.json") is None
    any_store.put("a/b.json", b"one")
    any_store.put("a/b.json", b"\0two")
    assert content(any_store, "a/b.json") == b"\0two"
    assert any_store.names("a") == ["b.json"]


def test_the_tag_follows_the_content(any_store: Store) -> None:
    """A tag changes when the content does and only then, or a conditional put would compare nothing."""
    tags = []
    for data in (b"one", b"two", b"one"):
        any_store.put("x", data)
        tags.append(tag(any_store, "x"))
    assert tags[0] == tags[2] != tags[1]


def test_put_if_match_none_means_must_not_exist(any_store: Store) -> None:
    """Creating wins once: a second creation is a conflict that changes nothing."""
    any_store.put_if_match("CURRENT", b"first", None)
    with pytest.raises(StoreConflict, match=r"CURRENT .* was changed by somebody else"):
        any_store.put_if_match("CURRENT", b"second", None)
    assert content(any_store, "CURRENT") == b"first"


@pytest.mark.parametrize("removed", [False, True])
def test_put_if_match_with_an_old_tag_is_a_conflict(any_store: Store, removed: bool) -> None:
    """A writer who read before somebody changed or deleted the object must not overwrite what is there."""
    any_store.put("CURRENT", b"first")
    before = tag(any_store, "CURRENT")
    if removed:
        any_store.delete("CURRENT")
    else:
        any_store.put("CURRENT", b"second")
    with pytest.raises(StoreConflict):
        any_store.put_if_match("CURRENT", b"third", before)
    assert content(any_store, "CURRENT") == (None if removed else b"second")


def test_put_if_match_with_the_tag_read_before_writes(any_store: Store) -> None:
    """The undisturbed case goes through, or the pointer could never move."""
    any_store.put("CURRENT", b"first")
    any_store.put_if_match("CURRENT", b"second", tag(any_store, "CURRENT"))
    assert content(any_store, "CURRENT") == b"second"


def _race(root: str, barrier: Barrier, name: int, results: Any) -> None:
    store, won = open_store(root), []
    for turn in range(ROUNDS):
        barrier.wait(60)
        before = tag(store, "pointer")
        barrier.wait(60)  # everybody holds the same tag now
        try:
            store.put_if_match("pointer", f"{turn} {name}".encode(), before)
        except StoreConflict:
            continue
        won.append(turn)
    results.put(won)


def test_racing_processes_have_exactly_one_winner_each_round(any_store: Store) -> None:
    """Of several processes that hold the same tag one moves the pointer and the others are told so."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(WRITERS), context.Queue()
    racers = [
        context.Process(target=_race, args=(any_store.url, barrier, name, results), daemon=True)
        for name in range(WRITERS)
    ]
    for racer in racers:
        racer.start()
    won = [turn for _ in racers for turn in results.get(timeout=120)]
    for racer in racers:
        racer.join(60)
    assert sorted(won) == list(range(ROUNDS))


def _hold_the_lock(root: str, ready: Any) -> None:
    with LocalStore(Path(root))._locked():
        ready.set()
        signal.pause()


def test_a_killed_writer_leaves_no_lock(store: LocalStore) -> None:
    """A process that dies by SIGKILL while it holds the lock blocks nobody."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold_the_lock, args=(str(store.root), ready), daemon=True)
    holder.start()
    assert ready.wait(60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    store.put_if_match("CURRENT", b"alive", None)
    assert content(store, "CURRENT") == b"alive"


def test_a_reader_never_sees_half_a_write(any_store: Store) -> None:
    """Objects change in one step: a reader beside a busy writer sees one whole value or the other."""
    values = [letter * 300_000 for letter in (b"a", b"b")]
    any_store.put("big", values[0])
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            any_store.put("big", values[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [content(any_store, "big") for _ in range(200)]
    finally:
        stop.set()
        writer.join()
    assert all(data in values for data in seen)


def test_delete_and_children(any_store: Store) -> None:
    """Deleting is idempotent, and children are the sorted names directly below a key."""
    for key in ("runs/b/x", "runs/a/y", "runs/LATEST", "runs2/z"):
        any_store.put(key, b"")
    assert any_store.children("runs") == ["LATEST", "a", "b"]
    assert any_store.children("runs/a") == ["y"]
    assert any_store.children("nowhere") == any_store.children("runs/LATEST") == []
    any_store.delete("runs/a/y")
    any_store.delete("runs/a/y")
    assert any_store.read("runs/a/y") is None
    assert any_store.read("runs/LATEST/below-a-file") is None


def test_what_cannot_be_read_is_a_named_error(store: LocalStore) -> None:
    """A key that is a folder is a ReleaseError with the key, not a raw OSError and not absence."""
    store.put("runs/a", b"")
    with pytest.raises(ReleaseError, match=r"runs in store .* cannot be read: runs is a folder"):
        store.read("runs")


def test_replacing_puts_the_file_in_place_only_when_the_block_ends_well(tmp_path: Path) -> None:
    """A block that raises leaves what was there before, and no temporary file beside it."""
    path = tmp_path / "deep" / "part.parquet"
    with replacing(path) as temporary:
        temporary.write_bytes(b"whole")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    with pytest.raises(UnicodeEncodeError), replacing(path) as temporary:
        temporary.write_text("half, then what cannot be written: \ud800")
    assert path.read_bytes() == b"whole"
    assert files_below(tmp_path) == ["deep/part.parquet"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("key", TRICKS)
def test_keys_that_leave_the_folder_are_refused(store: LocalStore, key: str) -> None:
    """No call reaches outside the store: not by .., an absolute path, a backslash or a NUL byte."""
    outside = store.root.parent / "x"
    outside.write_bytes(b"untouched")
    calls = (
        store.path,
        store.delete_folder,
        store.names,
        lambda key: store.record(key, "a"),
        lambda key: store.record("a", key),
        lambda key: store.sizes("a", [key]),
        lambda key: store.copy("a", key),
        lambda key: store.sizes(key, ["a"]),
        store.read,
        store.delete,
        store.children,
        lambda key: store.put(key, b""),
        lambda key: store.put_if_match(key, b"", None),
    )
    for call in calls:
        with pytest.raises(ReleaseError, match="must be relative and stay inside its folder"):
            call(key)
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize("scheme", ["gs", "http", "https", "hdfs", "file"])
def test_other_schemes_are_refused_by_name(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that nightrank cannot keep is refused by its scheme, never taken for a local folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"scheme '{scheme}' is not supported") as refused:
        open_store(f"{scheme}://bucket/prefix")
    assert refused.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_home_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a store means the home folder, not a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/store").url == str(tmp_path / "store")
