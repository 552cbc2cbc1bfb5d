"""A release without some of its users: their rows are dropped from every file that has any, all others are the same.

Arrays are copied through memory maps and one bucket's table is held at a time, so memory does not grow with users.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightrank.data.ids import INT64, Ids
from nightrank.errors import ReleaseError
from nightrank.release.files import part_name
from nightrank.release.manifest import FORMAT_VERSION, Manifest, release_key
from nightrank.release.model_card import ModelCard, parsed_card
from nightrank.release.model_files import ModelFiles, open_model
from nightrank.release.popular import popular_batch
from nightrank.release.reader import list_array_names
from nightrank.release.records import FileRecord, record_of
from nightrank.release.store import Store
from nightrank.release.tables import popular_schema, write_table

Ranges = NDArray[np.int64]


def successor_id(release_id: str, hashes: Sequence[str]) -> str:
    """The id of a release without the people of these keyed hashes: the same time, so the same place in the order."""
    digest = hashlib.sha256("\n".join([release_id, *sorted(hashes)]).encode())
    return f"{release_id[:16]}-{digest.hexdigest()[:12]}"


class Successor:
    """Writes the files of one release without some users under another id."""

    def __init__(self, store: Store, manifest: Manifest, *, release_id: str) -> None:
        self.store, self.manifest, self.release_id = store, manifest, release_id
        self.files = store.files(release_key(manifest.release), manifest.files)
        card = self.files.path("arrays/model.json").read_bytes()
        self.model = ModelFiles(
            path=lambda name: self.files.path(f"arrays/{name}"),
            card=parsed_card(card, where=f"release {manifest.release}"),
        )

    def write(self, rows: Sequence[int]) -> Manifest:
        """All files without the users of these rows; returns the manifest, which the caller publishes."""
        gone = np.array(sorted(rows), dtype=np.int64)
        written, card = self._arrays(gone)
        n_lists = 0
        for bucket in np.unique(np.searchsorted(self.model.bucket_offsets, gone, side="right") - 1):
            n_lists += self._bucket(int(bucket), gone, written)
        self._popular(written)
        for name, record in self.manifest.files.items():
            if name not in written:
                self.store.copy(release_key(self.manifest.release, name), self._key(name))
                written[name] = record
        counts = {"users": card.n_users, "pairs": card.n_pairs}
        counts["recommendations"] = self.manifest.counts["recommendations"] - n_lists
        return self.manifest.model_copy(
            update={
                "format_version": FORMAT_VERSION,
                "release": self.release_id,
                "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                "counts": self.manifest.counts | counts,
                "replaces": self.manifest.release,
                "erased_users": self.manifest.erased_users + len(gone),
                "files": dict(sorted(written.items())),
            }
        )

    def _arrays(self, gone: NDArray[np.int64]) -> tuple[dict[str, FileRecord], ModelCard]:
        """The arrays with a row per user or per pair, the popularity, and the card; written files by name."""
        model, users = self.model, np.stack([gone, gone + 1], axis=1)
        indptr = model.seen.indptr.astype(np.int64)
        pairs = np.stack([indptr[gone], indptr[gone + 1]], axis=1)
        lost = np.bincount(
            np.concatenate([model.seen.indices[start:stop] for start, stop in pairs]),
            minlength=model.card.n_items,
        )
        self.popularity = model.popularity - lost
        buckets = np.bincount(
            np.searchsorted(model.bucket_offsets, gone, side="right") - 1, minlength=model.card.n_buckets
        )
        offsets = model.bucket_offsets.copy()
        offsets[1:] -= np.cumsum(buckets)
        changed = {
            **self._ids(users),
            "user_vectors.npy": without(model.user_vectors, users),
            "user_offset.npy": without(model.user_offset, users),
            "seen_items.npy": without(model.seen.indices, pairs),
            "seen_weights.npy": without(model.seen.data, pairs),
            "seen_offsets.npy": [shortened(model.seen.indptr, gone)],
            "bucket_offsets.npy": [offsets],
            "popularity.npy": [self.popularity],
        }
        records = dict(model.card.files)
        for name, parts in changed.items():
            records[name] = self._save(f"arrays/{name}", parts)
        n_pairs = model.card.n_pairs - int(np.diff(pairs, axis=1).sum())
        update = {"n_users": model.card.n_users - len(gone), "n_pairs": n_pairs, "files": records}
        card = model.card.model_copy(update=update)
        self.store.put(self._key("arrays/model.json"), card.model_dump_json(indent=1).encode() + b"\n")
        written = {f"arrays/{name}": records[name] for name in changed}
        return written | {
            "arrays/model.json": self.store.record(release_key(self.release_id), "arrays/model.json")
        }, card

    def _ids(self, users: Ranges) -> dict[str, list[NDArray[Any]]]:
        arrays = self.model.user_ids.arrays("user_ids")
        if "user_ids" in arrays:
            return {"user_ids.npy": without(arrays["user_ids"], users)}
        ends = arrays["user_ids.offsets"].astype(np.int64)
        texts = np.stack([ends[users[:, 0]], ends[users[:, 1]]], axis=1)
        return {
            "user_ids.offsets.npy": [shortened(ends, users[:, 0])],
            "user_ids.bytes.npy": without(arrays["user_ids.bytes"], texts),
        }

    def _bucket(self, bucket: int, gone: NDArray[np.int64], written: dict[str, FileRecord]) -> int:
        """One bucket's table and lists; returns how many rows of the table went."""
        start, stop = (int(bound) for bound in self.model.bucket_offsets[bucket : bucket + 2])
        mine = gone[(gone >= start) & (gone < stop)]
        n_buckets = self.model.card.n_buckets
        for name in list_array_names("recommendations", bucket, n_buckets):
            lists = np.load(self.files.path(name), mmap_mode="r", allow_pickle=False)
            local = mine - start
            written[name] = self._save(name, without(lists, np.stack([local, local + 1], axis=1)))
        name = f"recommendations/part-{part_name(bucket, n_buckets)}.parquet"
        table = pq.read_table(self.files.path(name))
        users = self.model.user_ids.take(mine)
        left = table.filter(pc.invert(pc.is_in(table["user_id"], value_set=users))).combine_chunks()
        written[name] = self._table(name, left)
        return len(table) - len(left)

    def _popular(self, written: dict[str, FileRecord]) -> None:
        """Ranks by the users that are left."""
        items = None
        if "items.parquet" in self.manifest.files:
            items = pq.read_table(self.files.path("items.parquet")).rename_columns({"item_id": "item"})
        before = pq.read_table(self.files.path("popular.parquet"))
        batch = popular_batch(
            self.model.item_ids,
            self.popularity,
            items=items,
            k=self.manifest.k,
            schema=popular_schema(self.model.card.item_id_type),
        )
        table = pa.Table.from_batches([batch]).replace_schema_metadata(before.schema.metadata)
        written["popular.parquet"] = self._table("popular.parquet", table)

    def _table(self, name: str, table: pa.Table) -> FileRecord:
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        schema = table.schema.remove_metadata()
        batches = table.replace_schema_metadata(None).to_batches()
        return write_table(self.store, self._key(name), batches, schema=schema, metadata=metadata)

    def _save(self, name: str, parts: Sequence[NDArray[Any]]) -> FileRecord:
        """The parts one after the other as one .npy file."""
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        with self.store.writing(self._key(name)) as path:
            _write(path, parts, shape)
            return record_of(path)

    def _key(self, name: str) -> str:
        return release_key(self.release_id, name)


def _write(path: Path, parts: Sequence[NDArray[Any]], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            for chunk in _chunks(part):
                file.write(np.ascontiguousarray(chunk).data)


def _chunks(part: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, (8 << 20) // max(1, part.itemsize * int(np.prod(part.shape[1:], dtype=np.int64))))
    for start in range(0, len(part), rows):
        if part[start : start + rows].size:
            yield part[start : start + rows]


def without(array: NDArray[Any], ranges: Ranges) -> list[NDArray[Any]]:
    """Views of what is left of the first axis without these ranges (n, 2), ascending and apart."""
    starts = [0, *(int(stop) for _, stop in ranges)]
    stops = [*(int(start) for start, _ in ranges), len(array)]
    return [array[start:stop] for start, stop in zip(starts, stops, strict=True)]


def shortened(ends: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """CSR offsets (n + 1,) without these rows, the same dtype."""
    counts = np.delete(np.diff(ends), rows)
    found = np.zeros(len(counts) + 1, dtype=ends.dtype)
    np.cumsum(counts, out=found[1:])
    return found


def rows_of(ids: Ids, users: Sequence[str]) -> dict[str, int]:
    """The row of each user, given as text, that is here; among integers only the plain form of one is found."""
    found: dict[str, int] = {}
    for user in users:
        value = integer(user) if ids.is_int else user
        row = None if value is None or str(value) != user else ids.find(value)
        if row is not None:
            found[user] = row
    return found


def knows(store: Store, folder: str, people: Sequence[str]) -> bool:
    """Does the model below a key know any of the people? Brings and checks nothing but its user ids."""
    model = open_model(store, folder)
    names = [name for name in model.card.files if name.startswith(("user_ids.", "bucket_offsets."))]
    for name, size in zip(names, store.sizes(folder, names), strict=True):
        if size is None or record_of(model.path(name)) != model.card.files[name]:
            raise ReleaseError(f"{name} is missing or is not what model.json says")
    return bool(rows_of(model.user_ids, people))


def integer(text: str) -> int | None:
    """The int64 that a text spells, in digits with or without a minus; None where it spells none."""
    if re.fullmatch(r"-?[0-9]{1,40}", text) is None or int(text) not in INT64:
        return None
    return int(text)
