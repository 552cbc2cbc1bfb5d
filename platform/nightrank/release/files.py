"""Files of a release: names, and arrays that are opened by memory map and never unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord, record_of
from nightrank.release.store import Store


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
