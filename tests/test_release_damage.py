"""Damaged releases: verify names every wrong file, open refuses by name, and no damage is another error."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harm
from harm import flip, outcome, parts, refusal, rewrite, second_run
from made import Published
from nightrank.batch.publish import publish
from nightrank.release.manifest import FORMAT_VERSION, current
from nightrank.release.publish import activate, verify
from nightrank.release.reader import open_release

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
release = harm.release
copy = harm.copy


# -- verify ----------------------------------------------------------------------------------------------


def swap(first: Path, second: Path) -> None:
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)


def test_verify_names_every_file_that_is_wrong(copy: Published) -> None:
    """Truncated, flipped, missing, swapped and extra files are all in one message, intact ones are not."""
    release, arrays = parts(copy), copy.folder / "arrays"
    release[0].write_bytes(release[0].read_bytes()[:-7])
    flip(arrays / "user_vectors.npy", -5)
    (copy.folder / "popular.parquet").unlink()
    swap(release[1], release[2])
    (arrays / "extra.npy").write_bytes(b"?")
    message = refusal(lambda: verify(copy.store, copy.release.id))
    named = set(re.findall(r"^  (\S+): ", message, flags=re.MULTILINE))
    wrong = {path.relative_to(copy.folder).as_posix() for path in release[:3]}
    wrong |= {"arrays/user_vectors.npy", "popular.parquet", "arrays/extra.npy"}
    assert named == wrong
    assert "popular.parquet is missing" in message
    assert "arrays/extra.npy: not in the manifest" in message


def test_verify_finds_one_flipped_bit_in_any_file(copy: Published) -> None:
    """No file of a release is left out of the checksums, and no damage to one crashes the check."""
    for name in copy.release.manifest.files:
        path = copy.folder / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 9):
            flip(path, place)
            assert f"\n  {name}: " in refusal(lambda: verify(copy.store, copy.release.id))
            path.write_bytes(whole)
    assert verify(copy.store, copy.release.id) == copy.release.manifest


def test_verify_survives_broken_parquet_footers(copy: Published) -> None:
    """Whatever a damaged footer makes the Parquet library raise, the answer is the file's name."""
    path, rng = parts(copy)[0], np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(600):
        raw = bytearray(whole)
        for place in rng.integers(len(raw) - 1000, len(raw), 3):
            raw[place] = (raw[place] + int(rng.integers(1, 256))) % 256
        if raw == whole:
            continue
        path.write_bytes(raw)
        assert path.name in refusal(lambda: verify(copy.store, copy.release.id))


def test_activate_verifies_first(copy: Published, tmp_path: Path) -> None:
    """A damaged release cannot be put in service by hand; the one in service stays."""
    run = second_run(copy, tmp_path / "second")
    publish(run)
    flip(parts(copy)[0], 100)
    assert parts(copy)[0].name in refusal(lambda: activate(copy.store, copy.release.id))
    assert current(copy.store)[0] == run.record.release


# -- open ------------------------------------------------------------------------------------------------


def test_open_refuses_wrong_sizes_and_missing_files(copy: Published) -> None:
    """Opening compares the size of every file with the manifest and names the first that differs."""
    for name in copy.release.manifest.files:
        path = copy.folder / name
        whole = path.read_bytes()
        for raw in (whole[:-1], whole + b"\0", None):
            path.unlink() if raw is None else path.write_bytes(raw)
            message = refusal(lambda: open_release(copy.store))
            assert "is damaged" in message
            assert name in message
        path.write_bytes(whole)
    assert open_release(copy.store).id == copy.release.id


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 99])
@pytest.mark.parametrize("other_fields", [False, True])
def test_open_refuses_another_format_version(copy: Published, version: int, other_fields: bool) -> None:
    """An older or newer format is named with what to do, also where its fields are not ours."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = version
        if other_fields:
            manifest["vectors"] = manifest.pop("params")

    rewrite(copy, change)
    message = refusal(lambda: open_release(copy.store))
    assert f"has format version {version}; this nightrank reads versions 1 to {FORMAT_VERSION}" in message
    assert "publish again" in message


def test_open_reads_a_release_of_version_1(copy: Published) -> None:
    """What was published before people could be erased: nobody was."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        del manifest["replaces"], manifest["erased_users"]

    rewrite(copy, change)
    manifest = verify(copy.store, copy.release.id)
    assert (manifest.replaces, manifest.erased_users) == (None, 0)
    assert open_release(copy.store).history(0)[0].tolist() == copy.release.history(0)[0].tolist()


def test_open_refuses_a_copied_folder(copy: Published) -> None:
    """A release folder under another id is somebody's copy: its manifest belongs to another release."""
    other = "20010101T000000Z-0123456789ab"
    shutil.copytree(copy.folder, copy.folder.parent / other)
    assert f"belongs to {copy.release.id}" in refusal(lambda: open_release(copy.store, other))
    assert f"belongs to {copy.release.id}" in refusal(lambda: activate(copy.store, other))


@pytest.mark.parametrize("name", ["../../CURRENT", "/etc/passwd", "arrays/../../x", "a\\b", "a\0b", ""])
def test_open_refuses_a_manifest_that_points_outside(copy: Published, name: str) -> None:
    """A manifest cannot make anybody read or checksum a file outside its own folder."""
    rewrite(
        copy,
        lambda manifest: manifest["files"].update({name: {"rows": None, "bytes": 1, "sha256": "0" * 64}}),
    )
    for call in (open_release, verify):
        message = refusal(lambda call=call: call(copy.store, copy.release.id))
        assert "broken at files" in message
        assert "must be relative and stay inside its folder" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"),
        ("k", 1.5),
        ("params", {"factors": [8]}),
        ("files", []),
        ("unheard_of", 1),
        ("release", None),
    ],
)
def test_open_names_the_field_of_a_broken_manifest(copy: Published, field: str, value: Any) -> None:
    """Wrong types and unknown fields are refused by field, never taken along."""
    rewrite(copy, lambda manifest: manifest.update({field: value}))
    assert f"is broken at {field}" in refusal(lambda: open_release(copy.store))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format_version": 1}',
        pytest.param(b'{"format_version": ' + b"9" * 5_000 + b"}", id="a-number-of-5000-digits"),
    ],
)
def test_open_refuses_a_manifest_that_is_none(copy: Published, raw: bytes) -> None:
    """Bytes that are no manifest at all are a ReleaseError that says so."""
    (copy.folder / "manifest.json").write_bytes(raw)
    assert copy.release.id in refusal(lambda: open_release(copy.store))


@pytest.mark.parametrize("name", ["manifest.json", "arrays/model.json", "CURRENT"])
def test_garbage_bytes_only_ever_raise_release_errors(copy: Published, name: str) -> None:
    """Seeded damage to the small files: opening works as before or raises ReleaseError, never anything else."""
    rng = np.random.default_rng(7)
    path = Path(copy.store.url) / name if name == "CURRENT" else copy.folder / name
    whole, outcomes = path.read_bytes(), []
    for turn in range(400):
        raw = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(raw)))
            if turn % 3 == 0:
                raw[place] = int(rng.integers(256))
            elif turn % 3 == 1:
                del raw[place : place + int(rng.integers(1, 40))]
            else:
                raw[place:place] = raw[place // 2 : place // 2 + int(rng.integers(1, 40))]
            raw = raw or bytearray(b"{")
        path.write_bytes(raw)
        outcomes.append(outcome(lambda: open_release(copy.store)))
    assert sum(message is not None for message in outcomes) > 200


def test_damage_to_the_items_is_a_release_error(copy: Published) -> None:
    """The one table that the service reads as Parquet names itself when it is broken, without a path."""
    path = copy.folder / "items.parquet"
    whole, rng, messages = path.read_bytes(), np.random.default_rng(5), []
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), 3):
            raw[place] = int(rng.integers(256))
        path.write_bytes(raw)
        messages.append(outcome(lambda: open_release(copy.store).categories))
    refused = [message for message in messages if message is not None]
    assert len(refused) > 100
    assert all("items.parquet cannot be read" in message for message in refused)
    assert not any(str(copy.folder) in message for message in refused)
