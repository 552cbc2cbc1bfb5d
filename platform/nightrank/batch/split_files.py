"""Splits as memory-mapped files, so that all trials of a node share one copy in the page cache.

Arrays are mapped copy-on-write: `implicit` refuses read-only input, and nothing that it writes reaches the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.sparse import csr_matrix

from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split
from nightrank.errors import ReleaseError
from nightrank.release.files import save_array
from nightrank.release.records import FileRecord
from nightrank.release.store import Store

COMPLETE = "complete.json"
PARTS = ("weights", "items", "offsets")


class SplitCard(BaseModel):
    """complete.json, written last: the shapes of the matrices and the files that hold them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_unknown_users: int
    shapes: dict[str, tuple[int, int]]
    files: dict[str, FileRecord]


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
            files[f"{name}_{part}.npy"] = save_array(store, f"{key}/{name}_{part}.npy", array)
    card = SplitCard(
        n_unknown_users=split.n_unknown_users,
        shapes={name: matrix.shape for name, matrix in matrices.items()},
        files=files,
    )
    store.put(f"{key}/{COMPLETE}", card.model_dump_json(indent=1).encode() + b"\n")


def open_split(store: Store, key: str, *, combine: str) -> Split:
    """The split in which pairs combined that way, or the only one (as `split_for`), without times.

    Its ids are the row numbers, since a trial needs no others. Raises ReleaseError where it is not complete.
    """
    found = store.read(f"{key}/{combine}/{COMPLETE}")
    if found is not None:
        key = f"{key}/{combine}"
    else:
        found = store.read(f"{key}/{COMPLETE}")
    if found is None:
        raise ReleaseError(f"{key} in store {store.url} holds no complete split; run the sweep again")
    try:
        card = SplitCard.model_validate_json(found.data)
    except ValidationError:
        raise ReleaseError(
            f"{key}/{COMPLETE} in store {store.url} is broken; delete it, then run the sweep again"
        ) from None
    files = store.files(key, card.files)
    matrices = {}
    for name, shape in card.shapes.items():
        data, indices, indptr = (
            np.load(files.path(f"{name}_{part}.npy"), mmap_mode="c", allow_pickle=False) for part in PARTS
        )
        matrices[name] = csr_matrix((data, indices, indptr), shape=shape)
    n_users, n_items = card.shapes["train"]
    train = Interactions(
        user_ids=ids_from_arrays([np.arange(n_users, dtype=np.int64)]),
        item_ids=ids_from_arrays([np.arange(n_items, dtype=np.int64)]),
        user_items=matrices["train"],
        times=None,
        by_item=matrices["by_item"],
    )
    return Split(train=train, truth=matrices["truth"], n_unknown_users=card.n_unknown_users)
