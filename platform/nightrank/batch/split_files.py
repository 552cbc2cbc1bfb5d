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

from nightrank.data.features import Features, SideFeatures
from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split
from nightrank.errors import ReleaseError
from nightrank.release.files import save_array
from nightrank.release.model_card import FeatureColumnRecord, column_records
from nightrank.release.records import FileRecord
from nightrank.release.store import Files, Store

COMPLETE = "complete.json"
MATRICES = ("train", "by_item", "truth")
SIDES = ("users", "items")
PARTS = ("weights", "items", "offsets")
FEATURED = "featured"  # below a split's own key: the same for families that learn from features


class SplitCard(BaseModel):
    """complete.json, written last: the shapes of the matrices and the files that hold them.

    features: the columns of users and of items, whose matrices are among the others then; None where families that
    learn from features have a split of their own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_unknown_users: int
    shapes: dict[str, tuple[int, int]]
    files: dict[str, FileRecord]
    features: dict[str, tuple[FeatureColumnRecord, ...]] | None = None

    @model_validator(mode="after")
    def _complete(self) -> SplitCard:
        wanted = [*MATRICES, *(_matrix(side) for side in self.features or ())]
        if set(self.shapes) != set(wanted) or not set(self.features or ()) <= set(SIDES):
            raise ValueError(f"shapes of {', '.join(wanted)} expected")
        if set(self.files) != {_file(name, part) for name in wanted for part in PARTS}:
            raise ValueError(f"{', '.join(PARTS)} of each of {', '.join(wanted)} expected")
        return self


def _file(matrix: str, part: str) -> str:
    return f"{matrix}_{part}.npy"


def _matrix(side: str) -> str:
    return f"features_of_{side}"


def save_splits(
    store: Store, key: str, *, splits: Mapping[str, Split], with_features: Mapping[str, Split] | None = None
) -> None:
    """Write the first of `splits` (by how pairs combine) below a key, others below that; complete.json comes last.

    with_features: the same, featured, of the ways in which families that learn from features combine pairs.
    """
    first, *others = splits
    for how, split in (with_features or {}).items():
        _save(store, f"{key}/{FEATURED}" if how == first else f"{key}/{how}/{FEATURED}", split)
    for how in others:
        _save(store, f"{key}/{how}", splits[how])
    _save(store, key, splits[first])


def _save(store: Store, key: str, split: Split) -> None:
    matrices = {"train": split.train.user_items, "by_item": split.train.item_users, "truth": split.truth}
    sides = split.train.features
    known = {} if sides is None else {"users": sides.users, "items": sides.items}
    features = {side: found for side, found in known.items() if found is not None}
    matrices |= {_matrix(side): found.matrix for side, found in features.items()}
    files = {}
    for name, matrix in matrices.items():
        for part, array in zip(PARTS, (matrix.data, matrix.indices, matrix.indptr), strict=True):
            files[_file(name, part)] = save_array(store, f"{key}/{_file(name, part)}", array)
    columns = {side: column_records(found.columns) for side, found in features.items()}
    card = SplitCard(
        n_unknown_users=split.n_unknown_users,
        shapes={name: matrix.shape for name, matrix in matrices.items()},
        files=files,
        features=None if sides is None else columns,
    )
    store.put(f"{key}/{COMPLETE}", card.model_dump_json(indent=1).encode() + b"\n")


def open_split(store: Store, key: str, *, combine: str, with_features: bool = False) -> Split:
    """The split in which pairs combined that way, or the only one (as `split_for`), without times.

    Its ids are the row numbers, since a trial needs no others. Raises ReleaseError where it is not complete, or
    where a file is not of the size that it was saved with.
    """
    key = key if _card(store, f"{key}/{combine}") is None else f"{key}/{combine}"
    key = f"{key}/{FEATURED}" if with_features else key
    card = _card(store, key)
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
        features=_features(card, matrices),
    )
    return Split(train=train, truth=matrices["truth"], n_unknown_users=card.n_unknown_users)


def _features(card: SplitCard, matrices: Mapping[str, csr_matrix]) -> SideFeatures | None:
    if card.features is None:
        return None
    found = {
        side: Features(matrices[_matrix(side)], tuple(one.column() for one in records))
        for side, records in card.features.items()
    }
    return SideFeatures(**found)


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
