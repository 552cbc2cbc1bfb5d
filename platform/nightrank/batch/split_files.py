"""Splits as memory-mapped files, so that all trials of a node share one copy in the page cache.

Arrays are mapped copy-on-write: `implicit` refuses read-only input, and nothing that it writes reaches the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from scipy.sparse import csr_matrix

from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split
from nightrank.errors import ReleaseError
from nightrank.release.files import save_array
from nightrank.release.records import FileRecord
from nightrank.release.store import Files, Store

COMPLETE = "complete.json"
MATRICES = ("train", "by_item", "truth")
PARTS = ("weights", "items", "offsets")


class SplitCard(BaseModel):
    """complete.json, written last: the shapes of the matrices and the files that hold them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_unknown_users: int
    shapes: dict[str, tuple[int, int]]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _complete(self) -> SplitCard:
        if set(self.shapes) != set(MATRICES):
            raise ValueError(f"shapes of {', '.join(MATRICES)} expected")
        if set(self.files) != {_file(name, part) for name in MATRICES for part in PARTS}:
            raise ValueError(f"{', '.join(PARTS)} of each of {', '.join(MATRICES)} expected")
        return self


def _file(matrix: str, part: str) -> str:
    return f"{matrix}_{part}.npy"


def save_splits(store: Store, key: str, *, splits: Mapping[str, Split]) -> None:
    """Write the first of `splits` (by how pairs combine) below a key, others below that; complete.json comes last."""
    first, *others = splits
    for how in others:
        _save(store, f"{key}/{how}", splits[how])
    _save(store, key, splits[first])


def _save(store: Store, key: str, split: Split) -> None:
    matrices = {"train": split.train.user_items, "by_item": split.train.item_users, "truth": split.truth}
    files = {}
    for name, matrix in matrices.items():
        for part, array in zip(PARTS, (matrix.data, matrix.indices, matrix.indptr), strict=True):
            files[_file(name, part)] = save_array(store, f"{key}/{_file(name, part)}", array)
    card = SplitCard(
        n_unknown_users=split.n_unknown_users,
        shapes={name: matrix.shape for name, matrix in matrices.items()},
        files=files,
    )
    store.put(f"{key}/{COMPLETE}", card.model_dump_json(indent=1).encode() + b"\n")


def open_split(store: Store, key: str, *, combine: str) -> Split:
    """The split in which pairs combined that way, or the only one (as `split_for`), without times.

    Its ids are the row numbers, since a trial needs no others. Raises ReleaseError where it is not complete, or
    where a file is not of the size that it was saved with.
    """
    own = f"{key}/{combine}"
    card = _card(store, own)
    key, card = (key, _card(store, key)) if card is None else (own, card)
    if card is None:
        raise ReleaseError(f"{key} in store {store.url} holds no complete split; run the sweep again")
    files = store.files(key, card.files)
    try:
        matrices = {
            name: csr_matrix(tuple(_mapped(files, card, _file(name, part)) for part in PARTS), shape=shape)
            for name, shape in card.shapes.items()
        }
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"{key} in store {store.url} is damaged: {error}; delete that folder, then run the sweep again"
        ) from None
    n_users, n_items = card.shapes["train"]
    train = Interactions(
        user_ids=ids_from_arrays([np.arange(n_users, dtype=np.int64)]),
        item_ids=ids_from_arrays([np.arange(n_items, dtype=np.int64)]),
        user_items=matrices["train"],
        times=None,
        by_item=matrices["by_item"],
    )
    return Split(train=train, truth=matrices["truth"], n_unknown_users=card.n_unknown_users)


def users_of(store: Store, key: str) -> int | None:
    """How many users the split below a key trains on, None where there is no complete one."""
    card = _card(store, key)
    return None if card is None else card.shapes["train"][0]


def _card(store: Store, key: str) -> SplitCard | None:
    found = store.read(f"{key}/{COMPLETE}")
    try:
        return None if found is None else SplitCard.model_validate_json(found.data)
    except ValidationError:
        raise ReleaseError(
            f"{key}/{COMPLETE} in store {store.url} is broken; delete it, then run the sweep again"
        ) from None


def _mapped(files: Files, card: SplitCard, name: str) -> NDArray[Any]:
    """An array, copy-on-write. Raises OSError or ValueError where it is not as it was saved."""
    path = files.path(name)
    found, expected = path.stat().st_size, card.files[name].bytes
    if found != expected:
        raise ValueError(f"{name} has {found} bytes, expected {expected}")
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # on a broken header numpy's parser raises nearly anything
        raise ValueError(f"{name} is not a whole array file ({error})") from None
