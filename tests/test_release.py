"""Releases read back: lists, ids, arrays, Parquet and manifest say the same, and equal runs publish equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harm
import made
from harm import content
from made import Published
from nightrank.release.manifest import current
from nightrank.release.model_files import default_buckets, open_model
from nightrank.release.publish import verify
from nightrank.release.reader import open_release

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
release = harm.release


def text_job(folder: Path) -> Published:
    return made.published_release(
        folder,
        events=made.make_events(users="string", items="string"),
        items=made.make_items(items="string"),
    )


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_everything_published_can_be_read_back(tmp_path: Path, kind: str) -> None:
    """Every list, history, title and id of the opened release is what the model and the inputs say."""
    one = made.published_release(tmp_path) if kind == "int64" else text_job(tmp_path)
    opened = open_release(one.store)
    events = made.make_events(users=kind, items=kind).to_pylist()
    model = opened.model
    assert opened.id == one.run.record.release == current(one.store)[0]
    assert (model.user_ids.kind, model.item_ids.kind) == (kind, kind)
    for user_id in made.make_ids(made.N_USERS, kind=kind):
        row = model.user_ids.find(user_id)
        assert row is not None
        assert model.user_ids[row] == user_id
        weights = {pair["item_id"]: pair["weight"] for pair in events if pair["user_id"] == user_id}
        rows, values = opened.history(row)
        told = [(model.item_ids[int(item)], float(value)) for item, value in zip(rows, values, strict=True)]
        assert dict(told) == weights
        assert told == sorted(told, key=lambda pair: (-pair[1], model.item_ids.find(pair[0])))
        listed, scores = opened.recommendations(row)
        assert len(listed) == min(20, made.N_ITEMS - len(weights))
        assert not {model.item_ids[int(item)] for item in listed} & set(weights)
        assert np.isfinite(scores).all()
    titles = [opened.title(model.item_ids.find(item)) for item in made.make_ids(made.N_ITEMS, kind=kind)]
    assert titles == [f"Títle {place}" if place != 2 else None for place in range(made.N_ITEMS)]
    assert len(opened.by_popularity) == made.N_ITEMS


def test_an_id_of_the_other_type_or_unknown_is_not_found(release: Published) -> None:
    """7 and "7" are two ids, and an id that nobody used has no row, also where it hashes to a bucket."""
    ids = release.release.model.user_ids
    assert ids.find(0) is not None
    assert ids.find("0") is None
    assert [ids.find(absent) for absent in (1, -2, 2**62)] == [None] * 3


def test_arrays_equal_the_parquet_rows(release: Published) -> None:
    """The service reads arrays, the warehouse Parquet: both hold the same lists, to the bit."""
    opened, model = release.release, release.release.model
    for table, owner, item, ids, lists in (
        ("recommendations", "user_id", "item_id", model.user_ids, opened.recommendations),
        ("similar_items", "item_id", "similar_item_id", model.item_ids, opened.similar),
    ):
        rows = pq.read_table(release.folder / table).to_pylist()
        stored: dict[Any, list[tuple[int, Any, float]]] = {}
        for row in rows:
            stored.setdefault(row[owner], []).append((row["rank"], row[item], row["score"]))
        for place in range(len(ids)):
            found = [
                (rank, model.item_ids[int(one)], float(score))
                for rank, (one, score) in enumerate(zip(*lists(place), strict=True), start=1)
            ]
            assert found == stored.pop(ids[place], [])
        assert stored == {}


def test_the_manifest_says_where_the_release_came_from(release: Published) -> None:
    """Run, recipe, seed, gates, counts, versions and every file are in the manifest, and it agrees with disk."""
    manifest = release.release.manifest
    assert manifest.run_key == release.run.key
    assert (manifest.family, manifest.params["factors"], manifest.seed) == ("als", 8, 0)
    assert set(manifest.gates) == {"quality", "structure"}
    assert manifest.gates["structure"]["passed"] is True
    assert manifest.metrics == {"ndcg@10": manifest.gates["quality"]["candidate"]}
    assert manifest.counts["users"] == made.N_USERS
    assert set(manifest.files) | {"manifest.json"} == set(content(release.folder))
    rows = pq.read_table(release.folder / "recommendations").num_rows
    parts = [record.rows for name, record in manifest.files.items() if name.startswith("recommendations/")]
    assert manifest.counts["recommendations"] == sum(parts) == rows
    assert manifest.model_hash == open_model(release.store, release.run.name("model")).card.model_hash
    assert {"nightrank", "python", "numpy", "pyarrow", "implicit", "numba"} <= set(manifest.versions)
    assert verify(release.store, release.release.id) == manifest


def test_two_equal_runs_publish_the_same_bytes(tmp_path: Path) -> None:
    """Same inputs in two stores, with 1 and with 2 threads: every file of the release is byte-identical."""
    one = made.published_release(tmp_path / "one", threads=1)
    two = made.published_release(tmp_path / "two", threads=2)
    assert one.run.key == two.run.key
    files = [content(each.folder) for each in (one, two)]
    manifests = [json.loads(found.pop("manifest.json")) for found in files]
    assert files[0] == files[1]
    for manifest in manifests:
        del manifest["created"], manifest["release"]
    assert manifests[0] == manifests[1]


def test_the_order_of_events_changes_nothing(tmp_path: Path) -> None:
    """The same events in another order are other input files but the same release content."""
    events = made.make_events()
    backwards = events.take(pa.array(range(len(events) - 1, -1, -1)))
    one = made.published_release(tmp_path / "one", events=events)
    two = made.published_release(tmp_path / "two", events=backwards)
    assert one.run.key != two.run.key
    assert one.release.manifest.model_hash == two.release.manifest.model_hash
    tables = [pq.read_table(each.folder / "recommendations") for each in (one, two)]
    assert tables[0].equals(tables[1])


def test_parquet_metadata_names_run_and_model_and_nothing_else(release: Published) -> None:
    """Every Parquet file says which run and model made it, and holds nothing that differs between equal runs."""
    common = {b"nightrank.run_key", b"nightrank.model_hash"}
    for path in release.folder.rglob("*.parquet"):
        metadata = pq.read_schema(path).metadata
        lists = path.parent.name in ("recommendations", "similar_items")
        assert set(metadata) == common | ({b"nightrank.family", b"nightrank.metric"} if lists else set())
        assert metadata[b"nightrank.run_key"].decode() == release.run.key
        assert metadata[b"nightrank.model_hash"].decode() == release.release.manifest.model_hash


def test_a_model_without_vectors_is_published_too(tmp_path: Path) -> None:
    """popularity has no columns: its lists are the most used unseen items, and nothing is similar to anything."""
    one = made.published_release(tmp_path, train={"model": "popularity", "params": {}})
    opened, popularity = one.release, one.release.model.popularity
    for row in range(made.N_USERS):
        items, scores = opened.recommendations(row)
        unseen = np.setdiff1d(np.arange(made.N_ITEMS), opened.history(row)[0])
        assert items.tolist() == sorted(unseen.tolist(), key=lambda item: (-popularity[item], item))[:20]
        assert scores.tolist() == popularity[items].tolist()
    assert [len(opened.similar(row)[0]) for row in range(made.N_ITEMS)] == [0] * made.N_ITEMS
    assert pq.read_table(one.folder / "similar_items").num_rows == 0


def test_a_job_without_an_item_table_has_no_titles_and_no_items_file(tmp_path: Path) -> None:
    """Titles are optional: without them nothing pretends that there are any."""
    one = made.published_release(tmp_path, items=[])
    assert one.release.title(0) is None
    assert not (one.folder / "items.parquet").exists()
    assert set(pq.read_table(one.folder / "popular.parquet")["category"].to_pylist()) == {None}


def test_seen_items_are_ranked_where_the_job_asks_for_it(tmp_path: Path) -> None:
    """score.exclude_seen false does something: users who saw everything get full lists."""
    one = made.published_release(tmp_path, score={"k": 40, "exclude_seen": False, "buckets": 2})
    assert one.release.manifest.exclude_seen is False
    assert {len(one.release.recommendations(row)[0]) for row in range(made.N_USERS)} == {40}


def test_more_buckets_than_users_leave_empty_buckets_that_do_no_harm(tmp_path: Path) -> None:
    """Empty buckets are files without rows; every user is still found and listed."""
    one = made.published_release(tmp_path, events=made.make_events(n_users=6), score={"k": 5, "buckets": 64})
    assert len(list((one.folder / "recommendations").glob("*.parquet"))) == 64
    for user_id in made.make_ids(6, kind="int64"):
        row = one.release.model.user_ids.find(user_id)
        seen = len(one.release.history(row)[0])
        assert len(one.release.recommendations(row)[0]) == min(5, made.N_ITEMS - seen)


@pytest.mark.parametrize(
    ("n_users", "buckets"),
    [(0, 1), (1, 1), (20_000, 1), (20_001, 2), (40_001, 4), (160_000, 8), (160_001, 16)],
)
def test_default_buckets(n_users: int, buckets: int) -> None:
    """The next power of two of users / 20,000: file names of a release depend on it."""
    assert default_buckets(n_users) == buckets
