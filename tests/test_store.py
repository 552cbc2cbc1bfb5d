"""The store: one-step writes, conditional puts between processes, and keys that cannot leave their folder."""

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
from nightrank.release.store import LocalStore, open_store, replacing

ROUNDS, WRITERS = 15, 4
TRICKS = ("../x", "a/../../x", "a/..", "/etc/passwd", "//x", "a\\..\\x", "a\0b", "", ".")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = open_store(str(tmp_path / "store"))
    assert isinstance(opened, LocalStore)
    return opened


def content(store: LocalStore, key: str) -> bytes | None:
    found = store.read(key)
    return None if found is None else found.data


def tag(store: LocalStore, key: str) -> str | None:
    found = store.read(key)
    return None if found is None else found.tag


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_put_then_read_gives_the_bytes_back(store: LocalStore) -> None:
    """What is put is what is read, also where something was there before, and nothing else is left behind."""
    assert store.read("a/b.json") is None
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"\0two")
    assert content(store, "a/b.json") == b"\0two"
    assert files_below(store.root) == ["a/b.json"]


def test_the_tag_follows_the_content(store: LocalStore) -> None:
    """A tag changes when the content does and only then, or a conditional put would compare nothing."""
    tags = []
    for data in (b"one", b"two", b"one"):
        store.put("x", data)
        tags.append(tag(store, "x"))
    assert tags[0] == tags[2] != tags[1]


def test_put_if_match_none_means_must_not_exist(store: LocalStore) -> None:
    """Creating wins once: a second creation is a conflict that changes nothing."""
    store.put_if_match("CURRENT", b"first", None)
    with pytest.raises(StoreConflict, match=r"CURRENT .* was changed by somebody else"):
        store.put_if_match("CURRENT", b"second", None)
    assert content(store, "CURRENT") == b"first"


@pytest.mark.parametrize("removed", [False, True])
def test_put_if_match_with_an_old_tag_is_a_conflict(store: LocalStore, removed: bool) -> None:
    """A writer who read before somebody changed or deleted the object must not overwrite what is there."""
    store.put("CURRENT", b"first")
    before = tag(store, "CURRENT")
    if removed:
        store.delete("CURRENT")
    else:
        store.put("CURRENT", b"second")
    with pytest.raises(StoreConflict):
        store.put_if_match("CURRENT", b"third", before)
    assert content(store, "CURRENT") == (None if removed else b"second")


def test_put_if_match_with_the_tag_read_before_writes(store: LocalStore) -> None:
    """The undisturbed case goes through, or the pointer could never move."""
    store.put("CURRENT", b"first")
    store.put_if_match("CURRENT", b"second", tag(store, "CURRENT"))
    assert content(store, "CURRENT") == b"second"


def _race(root: str, barrier: Barrier, name: int, results: Any) -> None:
    store, won = LocalStore(Path(root)), []
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


def test_racing_processes_have_exactly_one_winner_each_round(store: LocalStore) -> None:
    """Of several processes that hold the same tag one moves the pointer and the others are told so."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(WRITERS), context.Queue()
    racers = [
        context.Process(target=_race, args=(str(store.root), barrier, name, results), daemon=True)
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


def _hold(root: str, ready: Any) -> None:
    with LocalStore(Path(root)).holding("runs/a/lock"):
        ready.set()
        signal.pause()


def test_a_held_name_is_held_once_until_its_holder_ends(store: LocalStore) -> None:
    """Two processes never do the same work: the second is told, also of a killed first one's end."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(store.root), ready), daemon=True)
    holder.start()
    assert ready.wait(60)
    with pytest.raises(StoreConflict, match="held by another process"), store.holding("runs/a/lock"):
        pass
    with store.holding("runs/b/lock"):
        pass  # another name is free
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    for _ in range(2):
        with store.holding("runs/a/lock"):
            pass


def test_a_reader_never_sees_half_a_write(store: LocalStore) -> None:
    """Objects change in one step: a reader beside a busy writer sees one whole value or the other."""
    values = [letter * 300_000 for letter in (b"a", b"b")]
    store.put("big", values[0])
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            store.put("big", values[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [content(store, "big") for _ in range(200)]
    finally:
        stop.set()
        writer.join()
    assert all(data in values for data in seen)
    assert files_below(store.root) == ["big"]


def test_delete_and_children(store: LocalStore) -> None:
    """Deleting is idempotent, and children are the sorted names directly below a key."""
    for key in ("runs/b/x", "runs/a/y", "runs/LATEST", "runs2/z"):
        store.put(key, b"")
    assert store.children("runs") == ["LATEST", "a", "b"]
    assert store.children("runs/a") == ["y"]
    assert store.children("nowhere") == store.children("runs/LATEST") == []
    store.delete("runs/a/y")
    store.delete("runs/a/y")
    assert store.read("runs/a/y") is None
    assert store.read("runs/LATEST/below-a-file") is None


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


@pytest.mark.parametrize("scheme", ["s3", "gs", "http", "https", "hdfs", "file"])
def test_other_schemes_are_refused_by_name(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that this version cannot keep is refused by its scheme, never taken for a local folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"scheme '{scheme}' is not supported") as refused:
        open_store(f"{scheme}://bucket/prefix")
    assert refused.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_home_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a store means the home folder, not a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/store").path("CURRENT") == tmp_path / "store" / "CURRENT"
