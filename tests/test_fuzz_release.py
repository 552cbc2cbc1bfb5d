"""Fuzzed releases: whatever a file of one says, the answers are right or a ReleaseError names what is wrong."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golden_releases import FOLDER, answers_of
from harm import outcome, refusal
from nightrank.cli.app import app
from nightrank.release import open_release, open_store
from nightrank.release.diff import diff
from nightrank.release.manifest import FORMAT_VERSION
from nightrank.release.publish import activate, verify
from test_release_arrays import Exploding

EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True, database=None)
TRICKS = (
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a\\..\\b",
    "a\0b",
    "",
    ".",
    "..",
    "x" * 5000,
    "\ud800",
    "ü/日",
    "./CURRENT",
)

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(2**63) - 1, 1e308, 2**31]))
texts = st.one_of(st.text(max_size=12), st.sampled_from(TRICKS))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


@dataclass(frozen=True)
class Kept:
    """A golden in a folder of its own, and what it answers."""

    root: Path
    release: str
    answers: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The release."""
        return self.root / "releases" / self.release

    def answer(self) -> None:
        """Open it and ask everything: what is answered must be right where anything is."""
        assert answers_of(open_release(open_store(str(self.root)))) == self.answers

    def compare(self) -> None:
        """List it, and compare it with itself as it was, both ways, as the commands do."""
        listed = CliRunner().invoke(app, ["releases", "list", "--store", str(self.root)])
        if listed.exception is not None:
            raise listed.exception
        whole = open_release(open_store(str(FOLDER / f"v{FORMAT_VERSION}" / "texts" / "store")))
        release = open_release(open_store(str(self.root)))
        assert (
            diff(release, whole).users["both"]
            == diff(whole, release).users["both"]
            == len(release.model.user_ids)
        )

    def verify(self) -> None:
        """Verify it."""
        verify(open_store(str(self.root)), self.release)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A copy that every test leaves as it was."""
    golden = FOLDER / f"v{FORMAT_VERSION}" / "texts"
    root = tmp_path_factory.mktemp("golden") / "store"
    shutil.copytree(golden / "store", root)
    answers = json.loads((golden / "answers.json").read_text())
    return Kept(root, answers["release"], answers)


@pytest.fixture
def mine(kept: Kept, tmp_path: Path) -> Kept:
    """A copy to be damaged."""
    shutil.copytree(kept.root, tmp_path / "store")
    return Kept(tmp_path / "store", kept.release, kept.answers)


@pytest.fixture
def patience() -> Iterator[None]:
    """Whatever waits for longer than ten seconds ends the test process: a hang in C knows no exception."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10)
    yield
    signal.alarm(0)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document but the whole."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield (*at, key)
        yield from places(child, (*at, key))


def changed(document: Any, place: tuple[Any, ...], value: Any, how: str) -> bytes:
    """The document with one value replaced, removed, under another name or beside an unknown one."""
    document = copy.deepcopy(document)
    inside = document
    for key in place[:-1]:
        inside = inside[key]
    if how == "remove":
        del inside[place[-1]]
    elif how == "rename" and isinstance(inside, dict):
        inside[value if isinstance(value, str) else "unheard_of"] = inside.pop(place[-1])
    elif how == "add" and isinstance(inside, dict):
        inside[value if isinstance(value, str) else "unheard_of"] = inside[place[-1]]
    else:
        inside[place[-1]] = value
    return json.dumps(document).encode()


MANIFEST = json.loads(next((FOLDER / f"v{FORMAT_VERSION}" / "texts").rglob("manifest.json")).read_bytes())
CARD = json.loads(next((FOLDER / f"v{FORMAT_VERSION}" / "texts").rglob("model.json")).read_bytes())
HOW = st.sampled_from(["replace", "replace", "remove", "rename", "add"])


@EXAMPLES
@given(place=st.sampled_from(list(places(MANIFEST))), value=anything, how=HOW)
def test_any_manifest_is_refused_or_answers_right(
    kept: Kept, place: tuple[Any, ...], value: Any, how: str
) -> None:
    """Any JSON in any place: opening, answering and verifying give the truth or a ReleaseError, nothing else."""
    path = kept.folder / "manifest.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(changed(MANIFEST, place, value, how))
        outcome(kept.answer)
        outcome(kept.compare)
        outcome(kept.verify)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": -5}, {"k": 2**31}, {"similar_items_k": -1}, {"counts": {}}, {"counts": {"users": 1}}],
    ids=str,
)
def test_numbers_that_nobody_can_read_are_refused_by_name(mine: Kept, wrong: dict[str, Any]) -> None:
    """A manifest without the counts that `list` prints, or with a k that is none, is broken where it is read."""
    (mine.folder / "manifest.json").write_text(json.dumps(MANIFEST | wrong))
    (name,) = wrong
    for call in (mine.answer, mine.verify):
        assert f"manifest of release {mine.release} is broken at {name}: " in refusal(call)
    listed = CliRunner().invoke(app, ["releases", "list", "--store", str(mine.root)])
    assert listed.exit_code == 0
    assert f"! {mine.release}  manifest of release {mine.release} is broken at {name}" in listed.stdout


@pytest.mark.parametrize("k", [1, 4, 6, 2**31 - 1])
def test_a_k_that_is_not_the_lists_is_refused(mine: Kept, k: int) -> None:
    """The width of every list file is k: any other ends with found and expected."""
    (mine.folder / "manifest.json").write_text(json.dumps(MANIFEST | {"k": k}))
    for call in (mine.answer, mine.compare):
        assert f"expected int32 of shape (8, {k})" in refusal(call)


@EXAMPLES
@given(name=st.one_of(texts, st.builds("{}/../{}".format, texts, texts), st.builds("/{}".format, texts)))
def test_any_name_in_a_manifest_is_refused(kept: Kept, name: str) -> None:
    """A file that the release does not have is refused whatever it is called, and nothing outside is read."""
    path = kept.folder / "manifest.json"
    whole = path.read_bytes()
    try:
        record = {"rows": None, "bytes": 0, "sha256": "0" * 64}
        path.write_text(json.dumps(MANIFEST | {"files": MANIFEST["files"] | {name: record}}))
        for call in (kept.answer, kept.verify):
            assert kept.release in refusal(call)
    finally:
        path.write_bytes(whole)


@EXAMPLES
@given(place=st.sampled_from(list(places(CARD))), value=anything, how=HOW)
def test_any_model_card_is_refused_or_answers_right(
    kept: Kept, place: tuple[Any, ...], value: Any, how: str
) -> None:
    """model.json with any JSON in any place, its size made good in the manifest: the truth or a ReleaseError."""
    paths = [kept.folder / "arrays" / "model.json", kept.folder / "manifest.json"]
    whole = [path.read_bytes() for path in paths]
    try:
        card, manifest = changed(CARD, place, value, how), copy.deepcopy(MANIFEST)
        manifest["files"]["arrays/model.json"]["bytes"] = len(card)
        paths[0].write_bytes(card)
        paths[1].write_text(json.dumps(manifest))
        outcome(kept.answer)
        outcome(kept.compare)
        assert card == whole[0] or "arrays/model.json" in refusal(kept.verify)
    finally:
        for path, raw in zip(paths, whole, strict=True):
            path.write_bytes(raw)


ARRAYS = sorted(name for name in MANIFEST["files"] if name.endswith(".npy"))


@EXAMPLES
@given(name=st.sampled_from(ARRAYS), data=st.data())
def test_flipped_bits_in_any_array_never_end_the_process(kept: Kept, name: str, data: st.DataObject) -> None:
    """Header or body, any bits: verify names the file, and whoever answers unverified gets lists or an error."""
    path = kept.folder / name
    whole = path.read_bytes()
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(raw)
        outcome(lambda: answers_of(open_release(open_store(str(kept.root)))))  # right or not: verify's to say
        assert raw == whole or name in refusal(kept.verify)
    finally:
        path.write_bytes(whole)


def replacement(kind: str, array: np.ndarray, mark: Path) -> bytes:
    """An array file that is not the one expected."""
    file = io.BytesIO()
    if kind == "dtype":
        np.save(file, array.astype(np.complex128))
    elif kind == "endianness":
        np.save(file, array.astype(array.dtype.newbyteorder(">")))
    elif kind == "fortran":
        np.save(file, np.asfortranarray(np.zeros((3, 5), array.dtype)))
    elif kind == "shape":
        np.save(file, np.zeros((*array.shape, 2), array.dtype))
    elif kind == "longer":
        np.save(file, np.concatenate([array, array[:1], array[:1]]))
    else:
        np.save(file, np.array([Exploding(mark)] * 3, dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["dtype", "endianness", "fortran", "shape", "longer", "pickle"])
def test_any_other_array_in_place_of_each_is_refused(mine: Kept, tmp_path: Path, kind: str) -> None:
    """Its size made good in the manifest, an array of another kind is refused, and a pickle is never run."""
    mark, path = tmp_path / "ran", mine.folder / "manifest.json"
    accepted = []
    for name in ARRAYS:
        whole = (mine.folder / name).read_bytes()
        raw = replacement(kind, np.load(io.BytesIO(whole)), mark)
        if raw == whole:  # single bytes have no order
            continue
        manifest = copy.deepcopy(MANIFEST)
        manifest["files"][name]["bytes"] = len(raw)
        (mine.folder / name).write_bytes(raw)
        path.write_text(json.dumps(manifest))
        if outcome(mine.answer) is None:
            accepted.append(name)
        assert name in refusal(mine.verify)
        (mine.folder / name).write_bytes(whole)
    assert not mark.exists()
    if (
        kind == "longer"
    ):  # the engine's own arrays are not asked by anybody here, and vectors have no fixed width
        accepted = [name for name in accepted if "index_" not in name]
    assert accepted == []


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_any_truncated_array_is_refused(mine: Kept, share: float) -> None:
    """Every array, cut anywhere, its size made good in the manifest: refused when opened or when first asked."""
    for name in ARRAYS:
        whole = (mine.folder / name).read_bytes()
        raw = whole[: int(share * len(whole))]
        manifest = copy.deepcopy(MANIFEST)
        manifest["files"][name]["bytes"] = len(raw)
        (mine.folder / name).write_bytes(raw)
        (mine.folder / "manifest.json").write_text(json.dumps(manifest))
        assert Path(name).name in refusal(mine.answer)
        (mine.folder / name).write_bytes(whole)


def test_files_swapped_between_releases_are_refused(mine: Kept, tmp_path: Path) -> None:
    """A file of another release in place of one's own is found by verify and by activate, each by its name."""
    other = FOLDER / f"v{FORMAT_VERSION}" / "ints" / "store"
    theirs = next((other / "releases").iterdir())
    for name, record in MANIFEST["files"].items():
        whole, foreign = (mine.folder / name).read_bytes(), theirs / name
        if not foreign.is_file() or foreign.read_bytes() == whole:
            continue
        (mine.folder / name).write_bytes(foreign.read_bytes())
        for call in (mine.verify, lambda: activate(open_store(str(mine.root)), mine.release)):
            assert f"\n  {name}: " in refusal(call)
        if foreign.stat().st_size != record["bytes"]:
            assert name in refusal(mine.answer)
        (mine.folder / name).write_bytes(whole)
    mine.verify()


# -- not a regular file ----------------------------------------------------------------------------------

KINDS = {"link": "a symbolic link", "pipe": "a named pipe", "folder": "a folder", "loop": "a symbolic link"}


def put_in_place(path: Path, kind: str, aside: Path) -> None:
    path.rename(aside)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(aside if kind == "link" else path.name)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["manifest.json", "arrays/model.json", "arrays/user_vectors.npy", "popular.parquet"]
)
def test_what_is_no_regular_file_is_refused(mine: Kept, tmp_path: Path, name: str, kind: str) -> None:
    """A link to the very same bytes outside, a pipe or a folder is refused by open, verify and activate, at once."""
    put_in_place(mine.folder / name, kind, tmp_path / "aside")
    for call in (mine.answer, mine.verify, lambda: activate(open_store(str(mine.root)), mine.release)):
        message = refusal(call)
        assert f"{Path(name).name} is {KINDS[kind]}, expected a regular file" in message


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pointer_that_is_no_regular_file_is_refused(mine: Kept, tmp_path: Path, kind: str) -> None:
    """CURRENT as a pipe would make every service and every night wait for ever."""
    put_in_place(mine.root / "CURRENT", kind, tmp_path / "aside")
    assert f"CURRENT is {KINDS[kind]}" in refusal(mine.answer)


def test_a_linked_folder_in_a_release_is_refused(mine: Kept, tmp_path: Path) -> None:
    """Files reached through a link inside the release lie elsewhere, though each is a file."""
    put_in_place(mine.folder / "arrays", "link", tmp_path / "aside")
    for call in (mine.answer, mine.verify):
        assert "arrays is a symbolic link, expected a folder" in refusal(call)


def test_a_linked_release_folder_or_store_is_fine(mine: Kept, tmp_path: Path) -> None:
    """What lies above a release is the operator's: a store on another disk may be linked to."""
    mine.root.rename(tmp_path / "elsewhere")
    mine.root.symlink_to(tmp_path / "elsewhere")
    mine.answer()
    mine.verify()


def test_a_stranger_of_any_kind_is_named_by_verify(mine: Kept, tmp_path: Path) -> None:
    """A pipe or a dangling link that no manifest lists is told, not waited for and not passed over."""
    os.mkfifo(mine.folder / "arrays" / "pipe")
    (mine.folder / "dangling").symlink_to(tmp_path / "nowhere")
    message = refusal(mine.verify)
    assert "\n  arrays/pipe: not in the manifest" in message
    assert "\n  dangling: not in the manifest" in message
