"""Files of a release: names, checksums, and arrays that are opened by memory map and never unpickled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nightrank.errors import ReleaseError


class FileRecord(BaseModel):
    """rows: of a Parquet file, None for an array. bytes: size. sha256: of the content, in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rows: int | None
    bytes: int
    sha256: str


def part_name(part: int, n_parts: int) -> str:
    """`00007-of-00064`."""
    return f"{part:05d}-of-{n_parts:05d}"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(path: Path) -> FileRecord:
    """Size, checksum and, for Parquet, rows of a file as it lies on disk."""
    try:
        rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        return FileRecord(rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))
    except FileNotFoundError:
        raise ReleaseError(f"{path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path.name} cannot be read: {error}") from None


def open_array(path: Path, *, dtype: str, n_dims: int) -> NDArray[np.generic]:
    """Memory-map a .npy file read-only; ReleaseError where it is not the array that is expected."""
    try:
        try:
            array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:
            array = np.load(path, allow_pickle=False)  # an empty array cannot be mapped
            if array.size:
                raise
    except FileNotFoundError:
        raise ReleaseError(f"{path.name} is missing from {path.parent.name}") from None
    except (OSError, ValueError, EOFError) as error:
        raise ReleaseError(f"{path.name} is not a whole array file: {error}") from None
    if array.dtype != np.dtype(dtype) or array.ndim != n_dims:
        raise ReleaseError(
            f"{path.name} holds {array.dtype} with {array.ndim} dimensions; expected {dtype} with {n_dims}"
        )
    return array
