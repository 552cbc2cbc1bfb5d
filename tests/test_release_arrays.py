"""Array files: mapped read-only, never unpickled, and refused by name where they are not what is expected."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harm
import made
from harm import outcome, refusal, rewrite
from made import Published
from nightrank.release.files import open_array
from nightrank.release.model_files import open_model
from nightrank.release.reader import open_release

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
release = harm.release
copy = harm.copy


class Exploding:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    """An array of pickled objects is refused by name, and the code in it does not run."""
    mark, path = tmp_path / "ran", tmp_path / "user_vectors.npy"
    np.save(path, np.array([Exploding(mark)], dtype=object), allow_pickle=True)
    assert "user_vectors.npy" in refusal(lambda: open_array(path, dtype="float32", shape=(None,)))
    assert not mark.exists()
    np.load(path, allow_pickle=True)
    assert mark.exists()  # the file was a trap indeed


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2), np.float64),
        np.zeros((3, 2), ">f4"),
        np.zeros((3, 2), np.int32),
        np.zeros(3, np.float32),
        np.zeros((0, 2), np.float64),
        np.zeros((1, 1), [("a", "f4")]),
    ],
    ids=str,
)
def test_arrays_of_another_type_or_shape_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    """An array that is not what the reader computes with is refused with found and expected."""
    np.save(tmp_path / "item_bias.npy", array)
    message = refusal(lambda: open_array(tmp_path / "item_bias.npy", dtype="float32", shape=(None, None)))
    assert "item_bias.npy holds" in message
    assert "expected float32 of shape (any, any)" in message


def test_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    """What is opened is a memory map that nobody can write through; an empty array opens too."""
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    np.save(tmp_path / "b.npy", np.zeros((5, 0), np.float32))
    array = open_array(tmp_path / "a.npy", dtype=("int32", "float32"), shape=(None,))
    assert str(tmp_path / "a.npy") in Path("/proc/self/maps").read_text()
    assert array.tolist() == [0, 1, 2, 3]
    assert not array.flags.writeable
    assert open_array(tmp_path / "b.npy", dtype="float32", shape=(None, None)).shape == (5, 0)


def test_an_open_array_keeps_no_file_descriptor(tmp_path: Path) -> None:
    """A service holds two files for every bucket: more than a process may have descriptors."""
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    before = len(os.listdir("/proc/self/fd"))
    kept = [open_array(tmp_path / "a.npy", dtype="float32", shape=(None,)) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert {array.sum() for array in kept} == {6}


def test_arrays_keep_their_order_and_format_version(tmp_path: Path) -> None:
    """Arrays by column, and headers of version 2, open as what numpy reads."""
    columns = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))
    np.save(tmp_path / "a.npy", columns)
    with (tmp_path / "b.npy").open("wb") as file:
        np.lib.format.write_array(file, columns, version=(2, 0))
    for name in ("a.npy", "b.npy"):
        assert (open_array(tmp_path / name, dtype="int32", shape=(2, 3)) == columns).all()


def test_no_descriptor_left_is_no_damage(tmp_path: Path) -> None:
    """A whole file that cannot be opened just now is not called broken: the reason is the system's."""
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        message = refusal(lambda: open_array(tmp_path / "a.npy", dtype="float32", shape=(None,)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in fillers:
            os.close(handle)
    assert message == "a.npy cannot be opened: Too many open files"


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "raw", [b"", b"\x93NUMPY", b"PK\x03\x04 not an archive", archive(), b"\x80\x05K\x00."]
)
def test_what_is_no_npy_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    """An archive, a pickle or a piece of an array is a named error, whatever numpy would make of it."""
    (tmp_path / "x.npy").write_bytes(raw)
    assert "x.npy is not a whole array file" in refusal(
        lambda: open_array(tmp_path / "x.npy", dtype="float32", shape=(None,))
    )
    assert "y.npy is missing" in refusal(
        lambda: open_array(tmp_path / "y.npy", dtype="float32", shape=(None,))
    )


def test_broken_array_headers_only_ever_raise_release_errors(tmp_path: Path) -> None:
    """Seeded damage to a header: the array opens with its type or a ReleaseError names the file."""
    path, rng = tmp_path / "user_vectors.npy", np.random.default_rng(3)
    np.save(path, np.arange(480, dtype=np.float32).reshape(60, 8))
    whole, messages = path.read_bytes(), []
    for _ in range(1500):
        raw = bytearray(whole)
        for place in rng.integers(0, 80, int(rng.integers(1, 4))):
            raw[place] = int(rng.integers(256))
        path.write_bytes(raw)
        messages.append(outcome(lambda: open_array(path, dtype="float32", shape=(None, None))))
    refused = [message for message in messages if message is not None]
    assert len(refused) > 1000
    assert all("user_vectors.npy" in message for message in refused)


def replace_array(copy: Published, name: str, array: np.ndarray) -> None:
    """Put an array in a release and its manifest: only what it is can be found wrong."""
    np.save(copy.folder / "arrays" / name, array)
    size = (copy.folder / "arrays" / name).stat().st_size
    rewrite(copy, lambda manifest: manifest["files"][f"arrays/{name}"].update({"bytes": size}))


@pytest.mark.parametrize(
    "offsets", [np.zeros(3, np.int32), np.arange(61, dtype=np.float32), np.full(61, 9**9, np.int32)], ids=str
)
def test_seen_offsets_that_do_not_fit_are_refused(copy: Published, offsets: np.ndarray) -> None:
    """Offsets of another length, type or end than the pairs they divide are a ReleaseError."""
    replace_array(copy, "seen_offsets.npy", offsets)
    assert "seen" in refusal(lambda: open_release(copy.store).model.seen)


def test_a_model_folder_without_its_card_holds_no_model(tmp_path: Path) -> None:
    """model.json is written last: a fit that was killed left no model, and the cure is named."""
    run = made.trained_run(made.make_job(tmp_path))
    assert open_model(run.store, run.name("model")).card.n_users == made.N_USERS
    made.place(run.store, run.name("model/model.json")).unlink()
    assert "run the train stage first" in refusal(lambda: open_model(run.store, run.name("model")))
