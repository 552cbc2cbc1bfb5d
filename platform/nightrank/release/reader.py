"""Reading a release: opened by manifest, sizes and headers only, in time that does not grow with users."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.data.ids import Ids, ids_from_arrays
from nightrank.errors import ReleaseError
from nightrank.release.files import open_array, part_name
from nightrank.release.manifest import Manifest, current, read_manifest, release_key
from nightrank.release.model_card import parsed_card
from nightrank.release.model_files import ModelFiles, open_ids
from nightrank.release.popular import rows_by_category
from nightrank.release.store import Files, Store

Ranked = tuple[NDArray[np.int32], NDArray[np.float32]]


@dataclass(frozen=True)
class Release:
    """One published release. Arrays are memory maps, opened when first asked for."""

    manifest: Manifest
    files: Files
    model: ModelFiles

    @property
    def id(self) -> str:
        """The release id."""
        return self.manifest.release

    def recommendations(self, user_row: int, k: int | None = None) -> Ranked:
        """(item rows, scores) of a user's stored list, best first, without padding; of the first k places."""
        return self._known(self.listed(user_row, k), "recommendations")

    def listed(self, user_row: int, k: int | None = None) -> Ranked:
        """The same for who checks the rows: those of a damaged file may be nobody's."""
        offsets = self.model.bucket_offsets
        bucket = bisect_right(self._bucket_bounds, user_row) - 1
        place = user_row - self._bucket_bounds[bucket]
        return _present(self._lists("recommendations", bucket, offsets), place, k)

    def bucket_items(self, bucket: int) -> NDArray[np.int32]:
        """int32 (users, k): item rows of all users of a bucket, -1 after the end of a list. Not kept open."""
        return self._item_rows("recommendations", bucket, self.model.bucket_offsets)

    def open_lists(self) -> None:
        """Open every list file, so that answers need no name in the store any more. Headers only."""
        for table, offsets in (
            ("recommendations", self.model.bucket_offsets),
            ("similar_items", self.similar_offsets),
        ):
            for part in range(len(offsets) - 1):
                self._lists(table, part, offsets)

    def similar(self, item_row: int) -> Ranked:
        """(item rows, cosines) of the items most like one, best first."""
        part = int(np.searchsorted(self.similar_offsets, item_row, side="right")) - 1
        lists = self._lists("similar_items", part, self.similar_offsets)
        return self._known(_present(lists, item_row - int(self.similar_offsets[part])), "similar_items")

    def history(self, user_row: int) -> Ranked:
        """(item rows, weights) of what a user did, strongest first, then by row."""
        start, end = (int(bound) for bound in self.model.seen.indptr[user_row : user_row + 2])
        items, weights = self.model.seen.indices[start:end], self.model.seen.data[start:end]
        order = np.lexsort((items, -weights))
        return self._known((items[order], weights[order]), "seen_items")

    def title(self, item_row: int) -> str | None:
        """The title of an item, None where the release has none."""
        if self.titles is None:
            return None
        title = self.titles[item_row]
        return str(title) if title else None

    @cached_property
    def similar_offsets(self) -> NDArray[np.int64]:
        """int64 (n_parts + 1,): part p of the similar items holds item rows [p] to [p + 1]."""
        return item_parts(self.model.card.n_items)

    @cached_property
    def by_popularity(self) -> NDArray[np.int32]:
        """All item rows, most users first, ties by row: popular.parquet in full. O(items) when first asked for."""
        return np.argsort(-self.model.popularity, kind="stable").astype(np.int32)

    @cached_property
    def categories(self) -> dict[str, NDArray[np.int32]]:
        """The item rows of every category, ascending; none where items have no categories. O(items) once."""
        if "items.parquet" not in self.manifest.files:
            return {}
        try:
            return rows_by_category(self.model.item_ids, pq.read_table(self.files.path("items.parquet")))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise ReleaseError(
                f"release {self.id} is damaged: items.parquet cannot be read ({type(error).__name__}); "
                "`nightrank releases verify` names all that is wrong with it"
            ) from None

    @cached_property
    def titles(self) -> Ids | None:
        """By item row, empty where an item has none; None where the release has no titles at all."""
        if "arrays/titles.offsets.npy" not in self.manifest.files:
            return None
        texts = open_ids(self.model.path, "titles", "string", n=self.model.card.n_items)
        return ids_from_arrays(texts)

    @cached_property
    def _bucket_bounds(self) -> list[int]:
        bounds: list[int] = self.model.bucket_offsets.tolist()
        return bounds

    @cached_property
    def _opened(self) -> dict[tuple[str, int], Ranked]:
        return {}

    def _known(self, ranked: Ranked, what: str) -> Ranked:
        """The same, once every row in it is an item's; contents are otherwise verified by checksum alone."""
        unsigned = ranked[0].view(np.uint32)  # where a negative one is huge
        if unsigned.size and unsigned.max() >= self.model.card.n_items:
            raise self.misnamed(int(ranked[0].max()), what)
        return ranked

    def misnamed(self, item_row: int, what: str) -> ReleaseError:
        """The error of a list that names an item that there is not."""
        return ReleaseError(
            f"release {self.id} is damaged: {what} names item row {item_row} of {self.model.card.n_items}; "
            "`nightrank releases verify` names all that is wrong with it"
        )

    def _lists(self, table: str, part: int, offsets: NDArray[np.int64]) -> Ranked:
        if (table, part) not in self._opened:
            rows = self._item_rows(table, part, offsets)
            name = list_array_names(table, part, len(offsets) - 1)[1]
            scores = open_array(self.files.path(name), dtype="float32", shape=rows.shape)
            self._opened[table, part] = rows, scores
        return self._opened[table, part]

    def _item_rows(self, table: str, part: int, offsets: NDArray[np.int64]) -> NDArray[np.int32]:
        name = list_array_names(table, part, len(offsets) - 1)[0]
        width = {"recommendations": self.manifest.k, "similar_items": self.manifest.similar_items_k}[table]
        shape = (int(offsets[part + 1] - offsets[part]), width)
        return open_array(self.files.path(name), dtype="int32", shape=shape)


def open_release(store: Store, id: str | None = None) -> Release:
    """The release `id`, or the one that CURRENT names.

    Checks the manifest, the sizes of all files and the headers of the model's arrays; content is
    verified by `publish.verify`. Raises ReleaseError by name for anything that is missing or differs.
    """
    if id is None:
        id, _ = current(store)
        if id is None:
            raise ReleaseError(
                f"nothing is published in store {store.url}; run `nightrank nightly --config JOB` first"
            )
    manifest = read_manifest(store, id)
    try:
        sizes = store.sizes(release_key(id), list(manifest.files))
    except ReleaseError as error:
        raise ReleaseError(f"release {id} is damaged: {error}") from None
    for (name, expected), size in zip(manifest.files.items(), sizes, strict=True):
        if size is None:
            raise ReleaseError(f"release {id} is damaged: {name} is missing")
        if size != expected.bytes:
            raise ReleaseError(f"release {id} is damaged: {name} has {size} bytes, not {expected.bytes}")
    files = store.files(release_key(id), {name: one for name, one in manifest.files.items() if _asked(name)})
    if "arrays/model.json" not in manifest.files:
        raise ReleaseError(f"release {id} is damaged: its manifest names no arrays/model.json")
    card = parsed_card(files.path("arrays/model.json").read_bytes(), where=f"release {id}")
    model = ModelFiles(path=lambda name: files.path(f"arrays/{name}"), card=card)
    model.check()
    bounds = model.bucket_offsets
    if bounds[0] != 0 or (bounds[1:] < bounds[:-1]).any():
        raise ReleaseError(f"release {id} is damaged: bucket_offsets.npy does not rise from 0")
    return Release(manifest=manifest, files=files, model=model)


def _asked(name: str) -> bool:
    """The files that answers come from; the others are for warehouses."""
    return name.startswith("arrays/") or name == "items.parquet"


ITEMS_PER_PART = 20_000


def item_parts(n_items: int) -> NDArray[np.int64]:
    """Bounds of the parts of the catalogue, int64 (n_parts + 1,), at most 20,000 items each."""
    n_parts = max(1, -(-n_items // ITEMS_PER_PART))
    return np.linspace(0, n_items, n_parts + 1).astype(np.int64)


def list_array_names(table: str, part: int, n_parts: int) -> tuple[str, str]:
    """The two array files that hold a part of a table for the service: item rows and scores, (n, k)."""
    name = part_name(part, n_parts)
    return f"arrays/{table}/items-{name}.npy", f"arrays/{table}/scores-{name}.npy"


def _present(lists: Ranked, row: int, k: int | None = None) -> Ranked:
    items, scores = lists[0][row, :k], lists[1][row, :k]
    if items.size and items[-1] >= 0:
        return items, scores
    count = int(np.count_nonzero(items >= 0))  # absent rows are -1 and come last
    return items[:count], scores[:count]
