"""Files of a release: names, checksums, and arrays that are opened by memory map and never unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nightrank.errors import ReleaseError
from nightrank.release.store import replacing


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
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ReleaseError(f"{path.name} cannot be read: {error}") from None


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a .npy file, in one step: two writers of the same array cannot harm each other."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def open_array(path: Path, *, dtype: str | Sequence[str], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Memory-map a .npy file read-only; None in `shape` is any length.

    Raises ReleaseError where the file is missing, broken or not (one of) the array that is expected.
    """
    try:
        array = _mapped(path)
    except FileNotFoundError:
        raise ReleaseError(f"{path.name} is missing from {path.parent.name}") from None
    except Exception as error:  # on a broken header numpy's parser raises nearly anything
        raise ReleaseError(f"{path.name} is not a whole array file: {error}") from None
    expected = [dtype] if isinstance(dtype, str) else dtype
    fits = len(shape) == array.ndim and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype not in map(np.dtype, expected) or not fits:
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        raise ReleaseError(
            f"{path.name} holds {array.dtype} of shape {array.shape}; "
            f"expected {' or '.join(expected)} of shape ({lengths})"
        )
    return array


def _mapped(path: Path) -> NDArray[np.generic]:
    """Only the .npy format: np.load would also open archives and, if let, pickles."""
    try:
        mapped: NDArray[np.generic] = np.lib.format.open_memmap(path, mode="r")
        return mapped
    except ValueError:
        with path.open("rb") as file:
            array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
        if array.size:  # an empty array cannot be mapped; any other has to be
            raise
        return array
