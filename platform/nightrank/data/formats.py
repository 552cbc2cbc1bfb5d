"""Which files a path means, and which formats they have; nothing is opened here."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from nightrank.errors import DataError

SUPPORTED = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
_FORMATS = "nightrank reads " + ", ".join(SUPPORTED)


def find_files(path: str | Path, *, what: str) -> list[Path]:
    """The files behind a file, folder or glob, sorted; `what` names them in messages ("events").

    Files whose name starts with `.` or `_` are skipped, in folders and globs. Raises DataError where nothing
    is found, a file has another format, two formats stand side by side, or a subfolder would be left out.
    """
    base = Path(path)
    if base.is_file():
        _one_format([base], what=what)
        return [base]
    found = (
        list(base.iterdir())
        if base.is_dir()
        else [Path(name) for name in glob.glob(str(path), recursive=True)]
    )
    found = sorted(entry for entry in found if not entry.name.startswith((".", "_")))
    if not found:
        kind = (
            "the folder holds no files" if base.is_dir() else "no file, folder or glob of that name has files"
        )
        raise DataError(f"{what}: found nothing at '{path}': {kind}; {_FORMATS}")
    for entry in found:
        if entry.is_dir():
            raise DataError(
                f"{what}: '{path}' holds the folder '{entry.name}', and subfolders are not read; "
                f"name the files with a glob, such as '{base if base.is_dir() else entry}/*.parquet'"
            )
    _one_format(found, what=what)
    return found


def _one_format(files: Sequence[Path], *, what: str) -> None:
    first: dict[str, Path] = {}
    for file in files:
        suffix = file_format(file)
        if suffix is None:
            raise DataError(f"{what}: '{file}' has a format that is not supported; {_FORMATS}")
        first.setdefault(suffix, file)
    if len(first) > 1:
        names = " and ".join(f"'{file}'" for file in first.values())
        raise DataError(
            f"{what}: {names} have different formats; keep one format, or name the files with a glob"
        )


def is_csv(file: Path | str) -> bool:
    """Do the columns arrive as text, their types to be found? Not for a table in memory (the word `table`)."""
    return isinstance(file, Path) and file_format(file) in (".csv", ".csv.gz")


def file_format(file: Path) -> str | None:
    """The entry of SUPPORTED that the file's name ends with, in any case; None for none."""
    return next((suffix for suffix in SUPPORTED if file.name.lower().endswith(suffix)), None)
