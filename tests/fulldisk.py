"""A disk that is really full: a small tmpfs in place of a folder. Needs root; refused, the test fails by name."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, n_bytes: int) -> None:
        """Make it take this many bytes."""
        mount("-o", f"remount,size={n_bytes}", str(self.folder))


@contextlib.contextmanager
def small_disk(folder: Path, *, n_bytes: int) -> Iterator[SmallDisk]:
    """A file system of n_bytes at `folder`, gone at the end with all that is on it."""
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={n_bytes},mode=0755", "nightrank-soak", str(folder))
    try:
        yield SmallDisk(folder)
    finally:  # lazily: a worker of a killed driver may still have a file of it mapped
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*words: str) -> None:
    """`mount`, or a failure that says who may."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"mount {' '.join(words)} was refused: {done.stderr.strip()}; the soak needs root for a full disk"
        )


def bytes_of(paths: Iterable[Path]) -> int:
    """What a tmpfs takes for files and folders: whole pages for a file."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in paths if path.is_file())
