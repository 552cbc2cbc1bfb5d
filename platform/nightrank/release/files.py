"""Files of a release: names, and arrays that are opened by memory map and never unpickled."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord, record_of
from nightrank.release.store import Store

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def part_name(part: int, n_parts: int) -> str:
    """`00007-of-00064`."""
    return f"{part:05d}-of-{n_parts:05d}"


def save_array(store: Store, key: str, array: NDArray[np.generic]) -> FileRecord:
    """Write a .npy file, in one step: two writers of the same array cannot harm each other."""
    with store.writing(key) as path:
        with path.open("wb") as file:
            np.save(file, array)
        return record_of(path)


def open_array(path: Path, *, dtype: str | Sequence[str], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Memory-map a .npy file read-only; None in `shape` is any length.

    Raises ReleaseError where the file is missing, broken or not (one of) the array that is expected.
    """
    try:
        array = _mapped(path)
    except FileNotFoundError:
        raise ReleaseError(f"{path.name} is missing from {path.parent.name}") from None
    except OSError as error:  # of the machine, not of the file
        reason = error if error.errno is None else os.strerror(error.errno)
        raise ReleaseError(f"{path.name} cannot be opened: {reason}") from None
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


def _mapped(path: Path) -> NDArray[Any]:
    """Only the .npy format: np.load would also open archives and, if let, pickles. Keeps no file descriptor."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"its format version is {version}, expected 1.0 or 2.0")
        shape, by_column, dtype = HEADERS[version](file)
        start = file.tell()
        found = os.fstat(file.fileno()).st_size
    size = start + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or found < size:
        raise ValueError(f"{found} bytes found, {size} expected")
    if size == start:  # nothing cannot be mapped
        return np.empty(shape, dtype)
    flat = np.frombuffer(_whole(path, size), dtype=dtype, count=math.prod(shape), offset=start)
    return flat.reshape(shape, order="F" if by_column else "C")


def _whole(path: Path, size: int) -> pa.Buffer:
    """A file's first `size` bytes, read-only. numpy's map keeps a descriptor per file, of which a process has few.

    Arrow asks the disk for all that is read through it: that is one byte, and the others follow in memory.
    """
    with pa.memory_map(str(path)) as file:
        first = file.read_buffer(1)
    return pa.foreign_buffer(first.address, size, base=first)
