"""A fitted model as files: arrays in (bucket, user_id) order, and model.json written last.

Permuted once, when the model is saved, so that a bucket is one contiguous slice of every per-user array.
A folder without model.json holds no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.data.ids import Ids, ids_from_arrays
from nightrank.errors import ReleaseError
from nightrank.ranking import ItemIndex
from nightrank.ranking.packing import SAVED, prepare
from nightrank.release.files import open_array, save_array
from nightrank.release.model_card import ModelCard, column_records, read_card
from nightrank.release.store import Store

if TYPE_CHECKING:  # every scorer and replica imports this; they need no family's code
    from nightrank.config.rules import Rule
    from nightrank.data.interactions import Interactions
    from nightrank.models import FactorModel
    from nightrank.models.factor_model import FeatureVectors

USERS_PER_BUCKET = 20_000


@dataclass(frozen=True)
class ModelFiles:
    """The arrays of a saved model, opened by memory map; user rows are in (bucket, user_id) order.

    path: from the name of a file to where it is."""

    path: Callable[[str], Path]
    card: ModelCard

    @cached_property
    def bucket_offsets(self) -> NDArray[np.int64]:
        """int64 (n_buckets + 1,): bucket b holds user rows [b] to [b + 1]."""
        return self._array("bucket_offsets", "int64", (self.card.n_buckets + 1,))

    @cached_property
    def user_ids(self) -> Ids:
        """The users, sorted by id within their bucket."""
        return ids_from_arrays(
            open_ids(self.path, "user_ids", self.card.user_id_type, n=self.card.n_users),
            offsets=self.bucket_offsets,
        )

    @cached_property
    def item_ids(self) -> Ids:
        """The items, sorted by id."""
        return ids_from_arrays(open_ids(self.path, "item_ids", self.card.item_id_type, n=self.card.n_items))

    @cached_property
    def user_vectors(self) -> NDArray[np.float32]:
        """float32 (n_users, d)."""
        return self._array("user_vectors", "float32", (self.card.n_users, None))

    @cached_property
    def item_vectors(self) -> NDArray[np.float32]:
        """float32 (n_items, d)."""
        return self._array("item_vectors", "float32", (self.card.n_items, None))

    @cached_property
    def item_bias(self) -> NDArray[np.float32]:
        """float32 (n_items,)."""
        return self._array("item_bias", "float32", (self.card.n_items,))

    @cached_property
    def user_offset(self) -> NDArray[np.float32]:
        """float32 (n_users,): what predictions add to a score."""
        return self._array("user_offset", "float32", (self.card.n_users,))

    @cached_property
    def prepared(self) -> dict[str, NDArray[Any]]:
        """The arrays of the engine for these items, as `nightrank.ranking.packing` prepares them."""
        shapes = {"panels": (None, None, None)}
        return {
            name: self._array(f"index_{name}", dtype, shapes.get(name, (None,)))
            for name, dtype in SAVED.items()
        }

    def item_index(self, *, threads: int | None) -> ItemIndex:
        """The items ready to be ranked; the arrays stay mapped, so processes of a machine share them."""
        return ItemIndex(self.item_vectors, self.item_bias, threads=threads, prepared=self.prepared)

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """Users per item, int64 (n_items,)."""
        return self._array("popularity", "int64", (self.card.n_items,))

    @cached_property
    def user_features(self) -> FeatureVectors | None:
        """The vectors of the users' features, (n_features, d), None where the model has none."""
        vectors = self._feature_vectors(self.user_vectors.shape[1])
        if vectors is None or self.card.user_features is None:
            return None
        # Here, since every scorer and replica imports this module: they need no family's code.
        from nightrank.models.factor_model import FeatureVectors

        return FeatureVectors(tuple(one.column() for one in self.card.user_features), vectors)

    @cached_property
    def seen(self) -> csr_matrix:
        """The combined weights, CSR float32 (n_users, n_items)."""
        weights = self._array("seen_weights", "float32", (self.card.n_pairs,))
        items = self._array("seen_items", "int32", (self.card.n_pairs,))
        offsets = self._array("seen_offsets", ("int32", "int64"), (self.card.n_users + 1,))
        try:
            return csr_matrix((weights, items, offsets), shape=(self.card.n_users, self.card.n_items))
        except ValueError as error:
            raise ReleaseError(f"seen_*.npy do not fit each other or model.json: {error}") from None

    def check(self) -> None:
        """Open every array and hold it against model.json: headers only, nothing that grows with users.

        Raises ReleaseError for the first that does not fit.
        """
        _ = (self.user_ids, self.item_ids, self.item_bias, self.user_offset)
        _ = (self.prepared, self.popularity, self.seen)
        width = self.user_vectors.shape[1]
        self._array("item_vectors", "float32", (self.card.n_items, width))
        self._feature_vectors(width)
        if int(self.bucket_offsets[-1]) != self.card.n_users:
            raise ReleaseError("bucket_offsets.npy ends elsewhere than the users of model.json")

    def _feature_vectors(self, width: int) -> NDArray[np.float32] | None:
        columns = self.card.user_features
        if columns is None:
            return None
        n_features = sum(one.column().n_features for one in columns)
        return self._array("user_feature_vectors", "float32", (n_features, width))

    def _array(self, name: str, dtype: str | Sequence[str], shape: tuple[int | None, ...]) -> NDArray[Any]:
        return open_array(self.path(f"{name}.npy"), dtype=dtype, shape=shape)


def default_buckets(n_users: int) -> int:
    """The next power of two that keeps a bucket at or under 20,000 users on average."""
    needed = -(-n_users // USERS_PER_BUCKET)
    return 1 << max(0, needed - 1).bit_length()


def save_model(
    model: FactorModel,
    interactions: Interactions,
    *,
    store: Store,
    key: str,
    n_buckets: int,
    seed: int,
    label: Rule | None = None,
) -> ModelCard:
    """Write a model's arrays and the interactions that it was fitted on below a key; model.json comes last.

    label: the rule of the classes of a model of probabilities; of no other is it kept.
    """
    store.delete(f"{key}/model.json")  # until all is there, a kill leaves no model and no mixture of two
    buckets = (interactions.user_ids.hashes() % np.uint64(n_buckets)).astype(np.int64)
    order = np.argsort(buckets, kind="stable")
    offsets = np.zeros(n_buckets + 1, dtype=np.int64)
    np.cumsum(np.bincount(buckets, minlength=n_buckets), out=offsets[1:])
    seen = interactions.user_items[order]
    arrays = {
        **interactions.user_ids.reordered(order, offsets=offsets).arrays("user_ids"),
        **interactions.item_ids.arrays("item_ids"),
        "bucket_offsets": offsets,
        "user_vectors": model.user_vectors[order],
        "item_vectors": model.item_vectors,
        "item_bias": model.item_bias,
        "user_offset": model.user_offset[order],
        **{f"index_{name}": array for name, array in prepare(model.item_vectors, model.item_bias).items()},
        "popularity": interactions.item_counts,
        "seen_offsets": seen.indptr,
        "seen_items": seen.indices,
        "seen_weights": seen.data,
    }
    features = model.user_features
    if features is not None:
        arrays["user_feature_vectors"] = features.vectors
    files = {
        f"{name}.npy": save_array(store, f"{key}/{name}.npy", array) for name, array in sorted(arrays.items())
    }
    card = ModelCard(
        family=model.family,
        params=dict(model.params),
        link=model.link,
        seed=seed,
        n_users=len(interactions.user_ids),
        n_items=len(interactions.item_ids),
        n_pairs=int(seen.nnz),
        n_buckets=n_buckets,
        user_id_type=interactions.user_ids.kind,  # type: ignore[arg-type]
        item_id_type=interactions.item_ids.kind,  # type: ignore[arg-type]
        bounds=model.bounds,
        label=str(label) if label is not None and model.link == "logistic" else None,
        user_features=None if features is None else column_records(features.columns),
        files=files,
    )
    store.put(f"{key}/model.json", card.model_dump_json(indent=1).encode() + b"\n")
    return card


def open_model(store: Store, key: str) -> ModelFiles:
    """The model below a key; ReleaseError where there is none or its card cannot be read."""
    card = read_card(store, key)
    return ModelFiles(path=store.files(key, card.files).path, card=card)


def saved_model_hash(store: Store, key: str) -> str | None:
    """The hash of the model below a key whose arrays are all what its card says, None where there is none."""
    try:
        card = read_card(store, key)
    except ReleaseError:
        return None
    return None if damaged_files(store, key, card) else card.model_hash


def damaged_files(store: Store, key: str, card: ModelCard) -> list[str]:
    """The arrays of a model that are not what its card says; reads them all, where nobody else does before use."""
    found = []
    for (name, record), size in zip(card.files.items(), store.sizes(key, list(card.files)), strict=True):
        if size != record.bytes or (not store.checks_files and store.record(key, name) != record):
            found.append(name)
    return found


def refuse_damaged(store: Store, key: str) -> None:
    """ReleaseError where an array of the model below a key is not what its card says."""
    found = damaged_files(store, key, read_card(store, key))
    if found:
        raise ReleaseError(
            f"{', '.join(found)} of {key} in store {store.url} are not what the train stage saved; run `nightrank "
            "nightly` or `nightrank train` again, which fits the model anew"
        )


def open_ids(path: Callable[[str], Path], stem: str, kind: str, *, n: int) -> list[NDArray[Any]]:
    """The arrays of n saved ids or other texts: (values,) for int64, (offsets, bytes) for strings."""
    if kind == "int64":
        return [open_array(path(f"{stem}.npy"), dtype="int64", shape=(n,))]
    ends = open_array(path(f"{stem}.offsets.npy"), dtype="int64", shape=(n + 1,))
    return [ends, open_array(path(f"{stem}.bytes.npy"), dtype="uint8", shape=(int(ends[-1]),))]
