"""Stores with people to be erased: three releases, of which the middle one never knew them, and what must be left."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import made
from nightrank.data.ids import Id
from nightrank.release.publish import activate, published, verify
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store, open_store
from nightrank.release.suppressed import suppress

KINDS = ("int64", "string")
FEW = {"n_users": 24, "n_items": 12}


def events_of(kind: str, **sizes: Any) -> pa.Table:
    """Events whose user ids no item has, and whose bytes stand nowhere by chance."""
    table = made.make_events(users=kind, **(FEW | sizes))
    named = [
        f"person-{one}" if kind == "string" else one if one <= 0 or one > 10**6 else one * 1_000_003
        for one in table["user_id"].to_pylist()
    ]
    return table.set_column(0, "user_id", pa.array(named))


def spread(user: Id) -> bytes | None:
    """How an id stands in an array file; None for integers whose bytes are there by chance."""
    if isinstance(user, str):
        return user.encode()
    return struct.pack("<q", user) if 10**6 < user < 2**62 else None


def wait_for_next_second() -> None:
    """Releases of one second stand in the order of their keys."""
    time.sleep(1.01 - time.time() % 1)


def make_store(folder: Path, *, kind: str, people: Collection[Id], url: str | None = None) -> Store:
    """Releases A, B, C, of which B does not know the people; A is in service, C was before it.

    Somebody else was erased before, so that the key of the hashes is there and copies of the store agree.
    """
    store = open_store(str(folder / "store") if url is None else url)
    suppress(store, ["somebody-else"])
    events = events_of(kind)
    knew = pc.is_in(events["user_id"], value_set=pa.array(people))
    without = events.filter(pc.invert(knew))
    items = made.make_items(n_items=FEW["n_items"])
    for name, table in (("a", events), ("b", without), ("c", events)):
        if name != "a":
            wait_for_next_second()
        made.published_release(
            folder / name,
            events=table,
            items=items,
            store=store.url,
            seed=ord(name),
            score={"k": 6, "buckets": 4, "similar_items_k": 5},
        )
    activate(store, published(store)[0])
    return store


def copy_of(store: Store, folder: Path) -> Store:
    """The same in a folder of its own."""
    shutil.copytree(store.url, folder / "store")
    return open_store(str(folder / "store"))


def check_nothing_left(store: Store, user: Id) -> None:
    """The id stands in no table, no array and no other file."""
    needle = spread(user)
    for path in (one for one in Path(store.url).rglob("*") if one.is_file()):
        data = path.read_bytes()
        assert needle is None or needle not in data, path
        if path.name == "user_ids.npy":
            assert user not in np.load(path), path
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            assert "user_id" not in table.column_names or user not in table["user_id"].to_pylist(), path


def check_successor(old: Release, new: Release, gone: Collection[Id]) -> None:
    """Everybody else's lists, history and vectors are unchanged, and what counts people counts who is left."""
    users = old.model.user_ids.column.to_pylist()
    left = [row for row, user in enumerate(users) if user not in gone]
    assert new.model.user_ids.column.to_pylist() == [users[row] for row in left]
    for row, before in enumerate(left):
        assert new.model.user_ids.find(users[before]) == row
        for ask in ("recommendations", "history"):
            for mine, theirs in zip(getattr(new, ask)(row), getattr(old, ask)(before), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(new.model.user_vectors, old.model.user_vectors[left])
    np.testing.assert_array_equal(new.model.user_offset, old.model.user_offset[left])
    _check_files(old, new, gone)
    _check_popular(old, new, left)
    counts = old.manifest.counts
    assert new.manifest.counts == counts | {
        "users": len(left),
        "pairs": sum(len(old.history(row)[0]) for row in left),
        "recommendations": sum(len(old.recommendations(row)[0]) for row in left),
    }
    assert new.manifest.replaces == old.id
    assert new.manifest.erased_users == len(users) - len(left)
    assert new.id[:16] == old.id[:16]


def _check_files(old: Release, new: Release, gone: Collection[Id]) -> None:
    assert new.manifest.files.keys() == old.manifest.files.keys()
    for name in old.manifest.files:
        before, after = _lying(old, name), _lying(new, name)
        if name.startswith("recommendations/"):
            table, rest = pq.read_table(before), pq.read_table(after)
            keep = [user not in gone for user in table["user_id"].to_pylist()]
            assert rest.equals(table.filter(pa.array(keep, pa.bool_())))
            assert rest.schema.equals(table.schema, check_metadata=True)
        elif "similar" in name or (
            "item" in name.split("/")[-1] and "recommend" not in name and "seen" not in name
        ):
            assert after.read_bytes() == before.read_bytes(), name


def _lying(release: Release, name: str) -> Path:
    return Path(release.files.folder) / name  # type: ignore[attr-defined]


def _check_popular(old: Release, new: Release, left: list[int]) -> None:
    """A recount in plain loops, over all and by category; equal counts in the order of items."""
    ids = old.model.item_ids.column.to_pylist()
    counts = Counter(int(item) for row in left for item in old.history(row)[0])
    np.testing.assert_array_equal(new.model.popularity, [counts[row] for row in range(len(ids))])
    groups: dict[str | None, set[int]] = {None: set(range(len(ids)))}
    for one in pq.read_table(_lying(new, "items.parquet")).to_pylist():
        for category in one["categories"]:
            if one["item_id"] in ids:
                groups.setdefault(category, set()).add(ids.index(one["item_id"]))
    expected = [
        {"category": category, "rank": rank, "item_id": ids[row], "score": float(counts[row])}
        for category in [None, *sorted(name for name in groups if name is not None)]
        for rank, row in enumerate(
            sorted(groups[category], key=lambda row: (-counts[row], row))[: new.manifest.k], 1
        )
    ]
    assert pq.read_table(_lying(new, "popular.parquet")).to_pylist() == expected
    before, after = (pq.read_schema(_lying(one, "popular.parquet")) for one in (old, new))
    assert after.equals(before, check_metadata=True)


def receipts(store: Store) -> list[dict[str, Any]]:
    """All receipts, oldest first."""
    names = store.children("erasure/receipts")
    return [json.loads(store.read(f"erasure/receipts/{name}").data) for name in names]  # type: ignore[union-attr]


def opened(store: Store) -> list[Release]:
    """All releases, oldest first, verified."""
    return [open_release(store, verify(store, one).release) for one in published(store)]
