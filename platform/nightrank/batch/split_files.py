"""Splits as memory-mapped files, so that all trials of a node share one copy in the page cache.

Arrays are mapped copy-on-write: `implicit` refuses read-only input, and nothing that it writes reaches the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split
from nightrank.release.files import save_array
from nightrank.release.store import replacing

COMPLETE = "complete"


def save_splits(folder: Path, splits: Mapping[str, Split]) -> None:
    """Write the first of `splits` (by how pairs combine) into the folder, others below it; `complete` comes last."""
    first, *others = splits
    for how in others:
        _save(folder / how, splits[how])
    _save(folder, splits[first])


def _save(folder: Path, split: Split) -> None:
    matrices = {"train": split.train.user_items, "by_item": split.train.item_users, "truth": split.truth}
    for name, matrix in matrices.items():
        save_array(folder / f"{name}_weights.npy", matrix.data)
        save_array(folder / f"{name}_items.npy", matrix.indices)
        save_array(folder / f"{name}_offsets.npy", matrix.indptr)
        save_array(folder / f"{name}_shape.npy", np.array(matrix.shape, dtype=np.int64))
    with replacing(folder / COMPLETE) as temporary:
        temporary.write_text(f"{split.n_unknown_users}\n")


def open_split(folder: Path, *, combine: str) -> Split:
    """The split in which pairs combined that way, or the only one (as `split_for`), without times.

    Its ids are the row numbers, since a trial needs no others.
    """
    if (folder / combine).is_dir():
        folder = folder / combine
    matrices = {}
    for name in ("train", "by_item", "truth"):
        data, indices, indptr = (
            np.load(folder / f"{name}_{part}.npy", mmap_mode="c", allow_pickle=False)
            for part in ("weights", "items", "offsets")
        )
        shape = np.load(folder / f"{name}_shape.npy", allow_pickle=False)
        matrices[name] = csr_matrix((data, indices, indptr), shape=(int(shape[0]), int(shape[1])))
    n_users, n_items = matrices["train"].shape
    train = Interactions(
        user_ids=ids_from_arrays([np.arange(n_users, dtype=np.int64)]),
        item_ids=ids_from_arrays([np.arange(n_items, dtype=np.int64)]),
        user_items=matrices["train"],
        times=None,
        by_item=matrices["by_item"],
    )
    unknown = int((folder / COMPLETE).read_text())
    return Split(train=train, truth=matrices["truth"], n_unknown_users=unknown)
