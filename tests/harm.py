"""What the tests of releases share: one release, copies of it to be damaged, and what a refusal said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import made
from made import Published
from nightrank.batch.run import Run
from nightrank.errors import ReleaseError


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One release that no test of this module changes."""
    return made.published_release(tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(release: Published, tmp_path: Path) -> Published:
    """The same release in a store of its own, to be damaged."""
    return made.copied(release, tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rewrite(published: Published, change: Callable[[dict[str, Any]], None]) -> None:
    path = published.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def outcome(call: Callable[[], object]) -> str | None:
    """The message of a ReleaseError, None where the call went through; anything else fails the test."""
    try:
        call()
    except ReleaseError as error:
        return str(error)
    return None


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ReleaseError) as refused:
        call()
    return str(refused.value)


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def parts(published: Published) -> list[Path]:
    return sorted((published.folder / "recommendations").glob("*.parquet"))


def second_run(first: Published, folder: Path) -> Run:
    """Another night in the same store, with its publish stage left."""
    return made.scored_run(folder, store=first.store.url, seed=1)
