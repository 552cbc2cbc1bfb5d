"""The folder of a synthetic data set: put in place in one step, and only where nothing of others can be lost.

A folder is ours where its marker lists every file in it with the checksum that the file still has. Ours is replaced,
or left alone where it was made by the same recipe already. Refused: a folder with anything else in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from nightrank.errors import DataError

log = logging.getLogger("nightrank.data")

MARKER = ".synth.json"


def make_folder(out: Path, *, recipe: Mapping[str, object], write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder beside `out`, then put it at `out` in one step.

    Nothing is written where `out` already holds what `recipe` makes. Raises DataError where `out` is no folder,
    holds files that are not ours, or cannot be written.
    """
    target = out.expanduser().resolve()
    whole = {**recipe, "versions": {name: version(name) for name in ("nightrank", "numpy", "pyarrow")}}
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        found = _recipe_in(target)
        if found == whole:
            log.info("%s: complete already, nothing to do", target)
            return
        staging.mkdir(parents=True)
        write(staging)
        record = {"recipe": whole, "files": _digests(staging)}
        (staging / MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _put(staging, target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error}; expected a folder we may make or replace: choose another"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _recipe_in(folder: Path) -> object:
    """What made the folder's content; None where there is none. Raises DataError where it is not ours."""
    if not folder.exists():
        return None
    if not folder.is_dir() or folder == Path.cwd():
        kind = "the current folder" if folder.is_dir() else "a file"
        raise DataError(
            f"--out {folder} is {kind}; expected a folder of its own, new or empty: name a subfolder"
        )
    if not any(folder.iterdir()):
        return None
    record = _record(folder)
    kept, real = record["files"], _digests(folder)
    foreign = sorted(name for name, digest in real.items() if kept.get(name) != digest)
    if foreign:
        raise DataError(
            f"--out {folder} holds '{foreign[0]}', which was not written here ({len(foreign)} such files); "
            "expected a new or empty folder: choose another, or move those files away"
        )
    return record["recipe"] if real.keys() == kept.keys() else None


def _record(folder: Path) -> dict[str, dict[str, object]]:
    """The marker; an empty record where there is none that can be read."""
    try:
        record = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return {"recipe": dict(record["recipe"]), "files": dict(record["files"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {"recipe": {}, "files": {}}


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in the folder but the marker, by path inside it; "" for what no maker writes.

    That is a link, an empty folder, a socket: they are never ours, and so are never removed with the folder.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            digests[name] = ""
        elif path.is_dir():
            digests |= {} if any(path.iterdir()) else {name: ""}
        elif name != MARKER:
            with path.open("rb") as stream:
                digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _put(staging: Path, target: Path) -> None:
    """Rename, which also replaces an empty folder; a full one, ours, steps aside first."""
    aside = staging.with_name(staging.name + ".old")
    if target.exists() and any(target.iterdir()):
        target.rename(aside)
    try:
        os.rename(staging, target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
