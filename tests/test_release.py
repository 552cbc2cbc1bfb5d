"""Releases: published whole or not at all, put in service by compare-and-swap, and refused when damaged."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import made
from made import Published
from nightrank.batch.inputs import find_inputs
from nightrank.batch.publish import publish
from nightrank.batch.run import Run, chosen_run, start_run
from nightrank.errors import DataError, GateRefused, ReleaseError, StoreConflict
from nightrank.release.files import open_array
from nightrank.release.manifest import CURRENT, current, read_manifest, release_key
from nightrank.release.model_files import default_buckets, open_model
from nightrank.release.publish import activate, published, verify, write_release
from nightrank.release.reader import open_release
from nightrank.release.store import open_store


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One release that no test of this module changes."""
    return made.published_release(tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(release: Published, tmp_path: Path) -> Published:
    """The same release in a store of its own, to be damaged."""
    return made.copied(release, tmp_path)


def text_job(folder: Path) -> Published:
    return made.published_release(
        folder,
        events=made.make_events(users="string", items="string"),
        items=made.make_items(items="string"),
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rewrite(published: Published, change: Callable[[dict[str, Any]], None]) -> None:
    path = published.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def outcome(call: Callable[[], object]) -> str | None:
    """The message of a ReleaseError, None where the call went through; anything else fails the test."""
    try:
        call()
    except ReleaseError as error:
        return str(error)
    return None


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ReleaseError) as refused:
        call()
    return str(refused.value)


# -- publish, then read ----------------------------------------------------------------------------------


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
    assert len(opened.popular) == 20


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
    assert manifest.model_hash == open_model(release.run.path("model")).card.model_hash
    assert {"nightrank", "python", "numpy", "pyarrow", "implicit"} <= set(manifest.versions)
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


# -- existence and the pointer ---------------------------------------------------------------------------


def test_a_release_without_a_manifest_does_not_exist(copy: Published) -> None:
    """A night that was killed before its last write left nothing that anybody lists, opens or activates."""
    release_id = copy.release.id
    (copy.folder / "manifest.json").unlink()
    assert published(copy.store) == []
    for call in (open_release, verify, activate, read_manifest):
        assert "has no manifest" in refusal(lambda call=call: call(copy.store, release_id))


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    """Nothing published is an error with a cure, not a crash."""
    store = open_store(str(tmp_path / "nothing-here"))
    assert published(store) == []
    assert current(store) == (None, None)
    assert "nightrank nightly" in refusal(lambda: open_release(store))


@pytest.mark.parametrize(
    "name", ["../../etc", "x", "", "20261121T031500Z-0123456789AB", "20261121T031500Z-0123456789ab/.."]
)
def test_what_is_no_release_id_is_refused(copy: Published, name: str) -> None:
    """An id from a request or a CURRENT file cannot name anything but a release folder."""
    for call in (open_release, verify, activate):
        assert "is not a release id" in refusal(lambda call=call: call(copy.store, name))
    copy.store.put(CURRENT, f"{name}\n".encode())
    assert "is not a release id" in refusal(lambda: open_release(copy.store))


def test_folders_that_are_no_releases_are_not_listed(copy: Published) -> None:
    """Strangers in releases/ are ignored; releases are listed oldest first."""
    older = "20010101T000000Z-0123456789ab"
    shutil.copytree(copy.folder, copy.folder.parent / older)
    shutil.copytree(copy.folder, copy.folder.parent / "backup")
    (copy.folder.parent / "notes.txt").write_text("x")
    assert published(copy.store) == [older, copy.release.id]


def second_run(first: Published, folder: Path) -> Run:
    """Another night in the same store, with its publish stage left."""
    return made.scored_run(folder, store=first.store.url, seed=1)


def test_publish_moves_current_to_the_new_release(copy: Published, tmp_path: Path) -> None:
    """The next night's release replaces the one in service, and says which that was."""
    run = second_run(copy, tmp_path / "second")
    assert publish(run)["before"] == copy.release.id
    assert current(copy.store)[0] == run.record.release
    assert published(copy.store) == sorted([copy.release.id, run.record.release])


def test_current_moved_in_between_is_a_conflict(copy: Published, tmp_path: Path) -> None:
    """A night does not undo what somebody put in service meanwhile: its release exists, CURRENT stays."""
    late = second_run(copy, tmp_path / "late")
    other = made.scored_run(tmp_path / "other", store=copy.store.url, seed=2)
    publish(other)
    with pytest.raises(StoreConflict, match="complete but not in service; `nightrank releases activate"):
        publish(late)
    assert current(copy.store)[0] == other.record.release
    assert late.record.release in published(copy.store)
    assert late.stage("publish") is None
    assert activate(copy.store, late.record.release) == other.record.release
    assert open_release(copy.store).id == late.record.release


def test_a_rerun_of_publish_moves_nothing_back(copy: Published, tmp_path: Path) -> None:
    """After an operator has activated another release a rerun of the night is a no-op."""
    run = second_run(copy, tmp_path / "second")
    done = publish(run)
    activate(copy.store, copy.release.id)
    before = content(Path(copy.store.url))
    assert publish(run) == done
    assert content(Path(copy.store.url)) == before
    assert current(copy.store)[0] == copy.release.id


def test_publish_killed_before_current_moved_is_finished_by_a_rerun(copy: Published, tmp_path: Path) -> None:
    """A manifest without the pointer: the rerun only moves the pointer, the files stay as they are."""
    run = second_run(copy, tmp_path / "second")
    publish(run)
    run.store.put(CURRENT, f"{copy.release.id}\n".encode())
    run.store.delete(run.name("stages/publish.json"))
    folder = run.store.path(release_key(run.record.release))
    before = content(folder)
    publish(run)
    assert content(folder) == before
    assert current(copy.store)[0] == run.record.release


def test_leftovers_of_a_killed_writer_are_not_published(tmp_path: Path) -> None:
    """Temporary files in a release folder that nobody can see yet are gone from the release."""
    run = made.scored_run(tmp_path)
    folder = run.store.path(release_key(run.record.release))
    (folder / "recommendations" / ".part-00000-of-00004.parquet.abc.parquet").write_bytes(b"half")
    (folder / "arrays" / "old.npy").write_bytes(b"old")
    publish(run)
    assert set(content(folder)) == {*read_manifest(run.store, run.record.release).files, "manifest.json"}


@pytest.mark.parametrize("name", ["recommendations", "similar_items"])
def test_a_file_damaged_between_score_and_publish_is_not_published(tmp_path: Path, name: str) -> None:
    """Checksums are taken when a file is written and compared before the manifest exists."""
    run = made.scored_run(tmp_path)
    folder = run.store.path(release_key(run.record.release))
    path = sorted((folder / name).glob("*.parquet"))[0]
    flip(path, -100)
    assert path.name in refusal(lambda: publish(run))
    assert published(run.store) == []
    assert current(run.store) == (None, None)


def test_publish_needs_the_score_stage(tmp_path: Path) -> None:
    """Publishing a run that was only trained names the stage that is missing."""
    run = made.trained_run(made.make_job(tmp_path))
    with pytest.raises(DataError, match="has not finished its score stage"):
        publish(run)
    run.put_json("stages/score.json", {"users": 1, "rows": 1, "empty_users": 0})
    assert "run the score stage again" in refusal(lambda: publish(run))


def test_a_run_is_found_again_and_refused_for_other_inputs(tmp_path: Path) -> None:
    """The same work finds its own run; --run with changed files or settings is refused by name."""
    job = made.make_job(tmp_path)
    run = made.trained_run(job)
    assert start_run(run.store, job, run.inputs).record == run.record
    assert chosen_run(run.store, job, run.inputs, key="latest").record == run.record
    with pytest.raises(DataError, match="began with other settings"):
        chosen_run(run.store, job.model_copy(update={"seed": 9}), run.inputs, key=run.key)
    changed = find_inputs(made.make_job(tmp_path / "other", events=made.make_events(seed=1)))
    with pytest.raises(DataError, match="began with other files"):
        chosen_run(run.store, job, changed, key=run.key)
    with pytest.raises(DataError, match="has no run nosuchkey"):
        chosen_run(run.store, job, run.inputs, key="nosuchkey")


# -- the structure gate ----------------------------------------------------------------------------------


def gate(settings: dict[str, float], folder: Path, first: Published) -> Run:
    return made.scored_run(folder, store=first.store.url, seed=1, gate=settings, score={"k": 1})


def test_low_coverage_is_refused_and_what_is_in_service_stays(copy: Published, tmp_path: Path) -> None:
    """A release that shows too little of the catalogue is refused with exit code 3 and exists for nobody."""
    run = gate({"min_coverage": 0.9}, tmp_path / "second", copy)
    with pytest.raises(GateRefused, match=r"coverage is 0\.\d+: \d+ of 40 items .* asks for 0\.9") as refused:
        publish(run)
    assert refused.value.exit_code == 3
    assert published(copy.store) == [copy.release.id]
    assert current(copy.store)[0] == copy.release.id
    assert run.stage("publish") is None


def test_coverage_counts_distinct_recommended_items(copy: Published, tmp_path: Path) -> None:
    """The figure in the manifest is the share of the catalogue that stands in any list."""
    run = gate({"min_coverage": 0.0}, tmp_path / "second", copy)
    publish(run)
    opened = open_release(copy.store)
    distinct = len(set(pq.read_table(opened.folder / "recommendations")["item_id"].to_pylist()))
    assert opened.manifest.gates["structure"]["coverage"] == distinct / made.N_ITEMS


@pytest.mark.parametrize(
    ("count", "value", "problem"),
    [
        ("users", 59, "59 users were scored, 60 are in the model"),
        ("empty_users", 1, "1 users have an empty list"),
    ],
)
def test_missing_and_empty_users_are_refused(tmp_path: Path, count: str, value: int, problem: str) -> None:
    """A user who was left out or got nothing without having seen everything stops the release."""
    run = made.scored_run(tmp_path)
    run.put_json("stages/score.json", run.finished("score") | {count: value})
    with pytest.raises(GateRefused, match=problem):
        publish(run)
    assert published(run.store) == []


# -- verify ----------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def swap(first: Path, second: Path) -> None:
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)


def parts(published: Published) -> list[Path]:
    return sorted((published.folder / "recommendations").glob("*.parquet"))


def test_verify_names_every_file_that_is_wrong(copy: Published) -> None:
    """Truncated, flipped, missing, swapped and extra files are all in one message, intact ones are not."""
    release, arrays = parts(copy), copy.folder / "arrays"
    release[0].write_bytes(release[0].read_bytes()[:-7])
    flip(arrays / "user_vectors.npy", -5)
    (copy.folder / "popular.parquet").unlink()
    swap(release[1], release[2])
    (arrays / "extra.npy").write_bytes(b"?")
    message = refusal(lambda: verify(copy.store, copy.release.id))
    named = set(re.findall(r"^  (\S+): ", message, flags=re.MULTILINE))
    wrong = {path.relative_to(copy.folder).as_posix() for path in release[:3]}
    wrong |= {"arrays/user_vectors.npy", "popular.parquet", "arrays/extra.npy"}
    assert named == wrong
    assert "popular.parquet is missing" in message
    assert "arrays/extra.npy: not in the manifest" in message


def test_verify_finds_one_flipped_bit_in_any_file(copy: Published) -> None:
    """No file of a release is left out of the checksums, and no damage to one crashes the check."""
    for name in copy.release.manifest.files:
        path = copy.folder / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 9):
            flip(path, place)
            assert f"\n  {name}: " in refusal(lambda: verify(copy.store, copy.release.id))
            path.write_bytes(whole)
    assert verify(copy.store, copy.release.id) == copy.release.manifest


def test_verify_survives_broken_parquet_footers(copy: Published) -> None:
    """Whatever a damaged footer makes the Parquet library raise, the answer is the file's name."""
    path, rng = parts(copy)[0], np.random.default_rng(0)
    whole = path.read_bytes()
    for _ in range(600):
        raw = bytearray(whole)
        for place in rng.integers(len(raw) - 1000, len(raw), 3):
            raw[place] = (raw[place] + int(rng.integers(1, 256))) % 256
        if raw == whole:
            continue
        path.write_bytes(raw)
        assert path.name in refusal(lambda: verify(copy.store, copy.release.id))


def test_activate_verifies_first(copy: Published, tmp_path: Path) -> None:
    """A damaged release cannot be put in service by hand; the one in service stays."""
    run = second_run(copy, tmp_path / "second")
    publish(run)
    flip(parts(copy)[0], 100)
    assert parts(copy)[0].name in refusal(lambda: activate(copy.store, copy.release.id))
    assert current(copy.store)[0] == run.record.release


# -- open ------------------------------------------------------------------------------------------------


def test_open_refuses_wrong_sizes_and_missing_files(copy: Published) -> None:
    """Opening compares the size of every file with the manifest and names the first that differs."""
    for name in copy.release.manifest.files:
        path = copy.folder / name
        whole = path.read_bytes()
        for raw in (whole[:-1], whole + b"\0", None):
            path.unlink() if raw is None else path.write_bytes(raw)
            message = refusal(lambda: open_release(copy.store))
            assert "is damaged" in message
            assert name in message
        path.write_bytes(whole)
    assert open_release(copy.store).id == copy.release.id


@pytest.mark.parametrize("version", [0, 2, 99])
@pytest.mark.parametrize("other_fields", [False, True])
def test_open_refuses_another_format_version(copy: Published, version: int, other_fields: bool) -> None:
    """An older or newer format is named with what to do, also where its fields are not ours."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = version
        if other_fields:
            manifest["vectors"] = manifest.pop("params")

    rewrite(copy, change)
    message = refusal(lambda: open_release(copy.store))
    assert f"has format version {version}; this nightrank reads version 1" in message
    assert "publish again" in message


def test_open_refuses_a_copied_folder(copy: Published) -> None:
    """A release folder under another id is somebody's copy: its manifest belongs to another release."""
    other = "20010101T000000Z-0123456789ab"
    shutil.copytree(copy.folder, copy.folder.parent / other)
    assert f"belongs to {copy.release.id}" in refusal(lambda: open_release(copy.store, other))
    assert f"belongs to {copy.release.id}" in refusal(lambda: activate(copy.store, other))


@pytest.mark.parametrize("name", ["../../CURRENT", "/etc/passwd", "arrays/../../x", "a\\b", "a\0b", ""])
def test_open_refuses_a_manifest_that_points_outside(copy: Published, name: str) -> None:
    """A manifest cannot make anybody read or checksum a file outside its own folder."""
    rewrite(
        copy,
        lambda manifest: manifest["files"].update({name: {"rows": None, "bytes": 1, "sha256": "0" * 64}}),
    )
    for call in (open_release, verify):
        message = refusal(lambda call=call: call(copy.store, copy.release.id))
        assert "broken at files" in message
        assert "must be relative and stay inside its folder" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"),
        ("k", 1.5),
        ("params", {"factors": "8"}),
        ("files", []),
        ("unheard_of", 1),
        ("release", None),
    ],
)
def test_open_names_the_field_of_a_broken_manifest(copy: Published, field: str, value: Any) -> None:
    """Wrong types and unknown fields are refused by field, never taken along."""
    rewrite(copy, lambda manifest: manifest.update({field: value}))
    assert f"is broken at {field}" in refusal(lambda: open_release(copy.store))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format_version": 1}',
        pytest.param(b'{"format_version": ' + b"9" * 5_000 + b"}", id="a-number-of-5000-digits"),
    ],
)
def test_open_refuses_a_manifest_that_is_none(copy: Published, raw: bytes) -> None:
    """Bytes that are no manifest at all are a ReleaseError that says so."""
    (copy.folder / "manifest.json").write_bytes(raw)
    assert copy.release.id in refusal(lambda: open_release(copy.store))


@pytest.mark.parametrize("name", ["manifest.json", "arrays/model.json", "CURRENT"])
def test_garbage_bytes_only_ever_raise_release_errors(copy: Published, name: str) -> None:
    """Seeded damage to the small files: opening works as before or raises ReleaseError, never anything else."""
    rng = np.random.default_rng(7)
    path = Path(copy.store.url) / name if name == "CURRENT" else copy.folder / name
    whole, outcomes = path.read_bytes(), []
    for turn in range(400):
        raw = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(len(raw)))
            if turn % 3 == 0:
                raw[place] = int(rng.integers(256))
            elif turn % 3 == 1:
                del raw[place : place + int(rng.integers(1, 40))]
            else:
                raw[place:place] = raw[place // 2 : place // 2 + int(rng.integers(1, 40))]
            raw = raw or bytearray(b"{")
        path.write_bytes(raw)
        outcomes.append(outcome(lambda: open_release(copy.store)))
    assert sum(message is not None for message in outcomes) > 200


# -- arrays ----------------------------------------------------------------------------------------------


class Exploding:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    """An array of pickled objects is refused by name, and the code in it does not run."""
    mark, path = tmp_path / "ran", tmp_path / "user_vectors.npy"
    np.save(path, np.array([Exploding(mark)], dtype=object), allow_pickle=True)
    assert "user_vectors.npy" in refusal(lambda: open_array(path, dtype="float32", shape=(None,)))
    assert not mark.exists()
    np.load(path, allow_pickle=True)
    assert mark.exists()  # the file was a trap indeed


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2), np.float64),
        np.zeros((3, 2), ">f4"),
        np.zeros((3, 2), np.int32),
        np.zeros(3, np.float32),
        np.zeros((0, 2), np.float64),
        np.zeros((1, 1), [("a", "f4")]),
    ],
    ids=str,
)
def test_arrays_of_another_type_or_shape_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    """An array that is not what the reader computes with is refused with found and expected."""
    np.save(tmp_path / "item_bias.npy", array)
    message = refusal(lambda: open_array(tmp_path / "item_bias.npy", dtype="float32", shape=(None, None)))
    assert "item_bias.npy holds" in message
    assert "expected float32 of shape (any, any)" in message


def test_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    """What is opened is a memory map that nobody can write through; an empty array opens too."""
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float32))
    np.save(tmp_path / "b.npy", np.zeros((5, 0), np.float32))
    array = open_array(tmp_path / "a.npy", dtype=("int32", "float32"), shape=(None,))
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    assert open_array(tmp_path / "b.npy", dtype="float32", shape=(None, None)).shape == (5, 0)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.npy", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "raw", [b"", b"\x93NUMPY", b"PK\x03\x04 not an archive", archive(), b"\x80\x05K\x00."]
)
def test_what_is_no_npy_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    """An archive, a pickle or a piece of an array is a named error, whatever numpy would make of it."""
    (tmp_path / "x.npy").write_bytes(raw)
    assert "x.npy is not a whole array file" in refusal(
        lambda: open_array(tmp_path / "x.npy", dtype="float32", shape=(None,))
    )
    assert "y.npy is missing" in refusal(
        lambda: open_array(tmp_path / "y.npy", dtype="float32", shape=(None,))
    )


def test_broken_array_headers_only_ever_raise_release_errors(tmp_path: Path) -> None:
    """Seeded damage to a header: the array opens with its type or a ReleaseError names the file."""
    path, rng = tmp_path / "user_vectors.npy", np.random.default_rng(3)
    np.save(path, np.arange(480, dtype=np.float32).reshape(60, 8))
    whole, messages = path.read_bytes(), []
    for _ in range(1500):
        raw = bytearray(whole)
        for place in rng.integers(0, 80, int(rng.integers(1, 4))):
            raw[place] = int(rng.integers(256))
        path.write_bytes(raw)
        messages.append(outcome(lambda: open_array(path, dtype="float32", shape=(None, None))))
    refused = [message for message in messages if message is not None]
    assert len(refused) > 1000
    assert all("user_vectors.npy" in message for message in refused)


def replace_array(copy: Published, name: str, array: np.ndarray) -> None:
    """Put an array in a release and its manifest: only what it is can be found wrong."""
    np.save(copy.folder / "arrays" / name, array)
    size = (copy.folder / "arrays" / name).stat().st_size
    rewrite(copy, lambda manifest: manifest["files"][f"arrays/{name}"].update({"bytes": size}))


@pytest.mark.parametrize(
    "offsets", [np.zeros(3, np.int32), np.arange(61, dtype=np.float32), np.full(61, 9**9, np.int32)], ids=str
)
def test_seen_offsets_that_do_not_fit_are_refused(copy: Published, offsets: np.ndarray) -> None:
    """Offsets of another length, type or end than the pairs they divide are a ReleaseError."""
    replace_array(copy, "seen_offsets.npy", offsets)
    assert "seen" in refusal(lambda: open_release(copy.store).model.seen)


def test_damage_to_popular_is_a_release_error(copy: Published) -> None:
    """The one table that the service reads as Parquet names itself when it is broken, without a path."""
    path = copy.folder / "popular.parquet"
    whole, rng, messages = path.read_bytes(), np.random.default_rng(5), []
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), 3):
            raw[place] = int(rng.integers(256))
        path.write_bytes(raw)
        messages.append(outcome(lambda: open_release(copy.store).popular))
    refused = [message for message in messages if message is not None]
    assert len(refused) > 100
    assert all("popular.parquet cannot be read" in message for message in refused)
    assert not any(str(copy.folder) in message for message in refused)


def test_a_model_folder_without_its_card_holds_no_model(tmp_path: Path) -> None:
    """model.json is written last: a fit that was killed left no model, and the cure is named."""
    run = made.trained_run(made.make_job(tmp_path))
    assert open_model(run.path("model")).card.n_users == made.N_USERS
    (run.path("model") / "model.json").unlink()
    assert "run the train stage first" in refusal(lambda: open_model(run.path("model")))


def test_items_of_another_id_type_are_refused_by_name(tmp_path: Path) -> None:
    """Text ids in the item table of integer events are a DataError, not a crash of the Parquet library."""
    run = made.scored_run(tmp_path, items=made.make_items(items="string"))
    with pytest.raises(DataError, match=r"items.*string.*int64"):
        publish(run)
    assert published(run.store) == []


def test_a_manifest_written_twice_is_a_conflict(release: Published, tmp_path: Path) -> None:
    """Two publishers of one run: the manifest is created once and never overwritten."""
    copy = made.copied(release, tmp_path)
    with pytest.raises(StoreConflict):
        write_release(copy.store, release.release.manifest)
