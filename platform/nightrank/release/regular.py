"""Regular files only: what a release or store names must lie where it says and be a plain file.

A link would bring in bytes from elsewhere, and opening a pipe would wait for ever: neither is followed or opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nightrank.errors import ReleaseError

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def regular_size(folder: Path, name: str) -> int:
    """Bytes of the regular file `name` in `folder`; no part of `name` may be a link, `folder` itself may.

    Raises FileNotFoundError where it is missing, ReleaseError where it is anything but a regular file.
    """
    for place in _above(name):
        kind = _kind(folder / place)
        if kind != "a folder":
            raise ReleaseError(
                f"{place} is {kind}, expected a folder of the release itself; put the files there"
            )
    kind = _kind(folder / name)
    if kind != "a file":
        raise ReleaseError(f"{name} is {kind}, expected a regular file; put the file itself there")
    return (folder / name).lstat().st_size


def _above(name: str) -> Iterator[PurePosixPath]:
    return reversed(PurePosixPath(name).parents[:-1])


def _kind(path: Path) -> str:
    """What lies there, links not followed."""
    return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "a file")
