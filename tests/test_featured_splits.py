"""Splits for families that learn from features: the same truth, over a catalogue with the rows of the item table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import made
from nightrank.batch.inputs import Inputs, find_inputs, load_metadata, load_splits, split_of
from nightrank.batch.split_files import open_split, save_splits
from nightrank.batch.sweep import _prepare
from nightrank.config import families
from nightrank.config.families import FAMILIES, Family
from nightrank.config.job import JobConfig
from nightrank.data.given import given_split
from nightrank.data.interactions import Interactions
from nightrank.data.splits import Split, featured
from nightrank.errors import ReleaseError
from nightrank.release.store import LocalStore

LEARNER = Family({}, uses_features=True)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> str:
    """A family that learns from features, as far as splits and files are concerned: nothing is fitted here."""
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "learner": LEARNER})
    return "learner"


def job_of(folder: Path, *, kind: str = "int64") -> JobConfig:
    """Items 38 and 39 are held out alone (their only event is the latest); 40 is in the table and in no event; 39 is
    not in the table."""
    events = made.make_events(users=kind, items=kind).to_pylist()
    users, items = made.make_ids(made.N_USERS, kind=kind), made.make_ids(made.N_ITEMS, kind=kind)
    kept = [event for event in events if event["item_id"] not in items[38:]]
    late = [
        {"user_id": user, "item_id": item, "weight": 5.0, "timestamp": 890_000_001}
        for user, item in zip(users[10:12], items[38:], strict=True)
    ]
    table = made.make_items(items=kind)
    table = table.filter(pa.array([item != items[39] for item in table["item_id"].to_pylist()]))
    return made.make_job(
        folder,
        events=pa.Table.from_pylist(kept + late),
        items=table,
        users=made.make_users(users=kind),
    )


def events_of(job: JobConfig) -> pa.Table:
    return pq.read_table(job.events.path)


def plain_and_featured(job: JobConfig, family: str) -> tuple[Split, Split, Inputs]:
    inputs = find_inputs(job)
    splits = load_splits(job, inputs, families=["als", family])
    plain = splits["sum"]
    metadata = load_metadata(job, inputs, families=["als", family], like=plain.train)
    assert split_of(job, splits, family="als", metadata=metadata) is plain
    return plain, split_of(job, splits, family=family, metadata=metadata), inputs


def truth_by_id(split: Split) -> dict[tuple[object, object], float]:
    items = split.train.item_ids.array.to_pylist() + split.new_items.array.to_pylist()
    coo = split.truth.tocoo()
    assert split.truth.shape[1] == len(items)
    return {
        (split.train.user_ids[int(user)], items[int(item)]): float(weight)
        for user, item, weight in zip(coo.row, coo.col, coo.data, strict=True)
    }


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_a_held_out_item_of_the_table_becomes_one_that_train_knows(
    tmp_path: Path, learner: str, kind: str
) -> None:
    """Cold items can be found: same users, same truth by id, and a column of the catalogue for what the table has."""
    plain, found, _ = plain_and_featured(job_of(tmp_path, kind=kind), learner)
    items = made.make_ids(made.N_ITEMS, kind=kind)
    nobody = "id-nobody" if kind == "string" else 999_999
    assert set(plain.new_items.array.to_pylist()) == {items[38], items[39]}
    assert found.new_items.array.to_pylist() == [items[39]]
    known = found.train.item_ids.array.to_pylist()
    assert set(known) == set(plain.train.item_ids.array.to_pylist()) | {items[38], nobody}
    assert found.train.user_ids.array.equals(plain.train.user_ids.array)
    assert truth_by_id(found) == truth_by_id(plain)
    assert found.truth.has_sorted_indices
    assert found.train.item_counts[known.index(items[38])] == 0
    sides = found.train.features
    assert sides.users.matrix.shape[0] == len(found.train.user_ids)
    assert sides.items.matrix.shape[0] == len(known)


def test_what_is_held_out_teaches_no_feature(tmp_path: Path, learner: str) -> None:
    """No leak: a genre that only held-out items have is no feature of the split, but one of all events."""
    job = job_of(tmp_path)
    table = made.make_items()
    genres = table["genres"].to_pylist()
    genres[38] = "Western"
    job = made.make_job(
        tmp_path / "western",
        events=events_of(job),
        items=table.set_column(2, "genres", pa.array(genres)),
        users=made.make_users(),
    )
    _, found, _ = plain_and_featured(job, learner)
    (column,) = found.train.features.items.columns
    assert "Western" not in column.values


def test_a_given_split_is_featured_the_same_way(tmp_path: Path, learner: str) -> None:
    """`nightrank evaluate` with files of its own: test items of the table are columns of the catalogue."""
    job = job_of(tmp_path)
    train = Interactions.from_arrow(pa.table({"user_id": [1, 1, 2], "item_id": [5, 7, 5]}))
    test = Interactions.from_arrow(pa.table({"user_id": [1, 2, 2], "item_id": [3, 7, 999_999]}))
    metadata = load_metadata(job, find_inputs(job), families=[learner], like=train)
    found = featured(given_split(train, test), metadata)
    assert truth_by_id(found) == {(1, 3): 1.0, (2, 7): 1.0, (2, 999_999): 1.0}
    assert len(found.new_items) == int(3 not in made.make_ids(made.N_ITEMS, kind="int64"))


def test_features_come_back_as_they_were_saved(tmp_path: Path, learner: str) -> None:
    """A trial opens what the process that made the split has: catalogue, truth, features and their columns."""
    plain, found, _ = plain_and_featured(job_of(tmp_path), learner)
    store = LocalStore(tmp_path / "files")
    save_splits(store, "split", splits={"sum": plain}, with_features={"sum": found})
    opened = open_split(store, "split", combine="sum", with_features=True)
    assert open_split(store, "split", combine="sum").train.features is None
    for name in ("users", "items"):
        one, two = getattr(found.train.features, name), getattr(opened.train.features, name)
        assert one.columns == two.columns
        assert (one.matrix != two.matrix).nnz == 0
        assert one.matrix.dtype == two.matrix.dtype
    assert (opened.truth != found.truth).nnz == 0
    assert (opened.train.user_items != found.train.user_items).nnz == 0
    assert (opened.train.item_users != found.train.item_users).nnz == 0


def test_a_split_without_features_is_not_taken_for_one(tmp_path: Path, learner: str) -> None:
    """A trial of a family with features never runs on ids alone because files are missing: it is refused by name."""
    plain, _, _ = plain_and_featured(job_of(tmp_path), learner)
    store = LocalStore(tmp_path / "files")
    save_splits(store, "split", splits={"sum": plain})
    with pytest.raises(ReleaseError, match="no complete split"):
        open_split(store, "split", combine="sum", with_features=True)


def test_the_users_table_is_among_what_a_run_began_with(tmp_path: Path) -> None:
    """A changed users' table is another run; its path is not."""
    first = find_inputs(job_of(tmp_path / "a"))
    assert find_inputs(job_of(tmp_path / "b")).fingerprint == first.fingerprint
    users = made.make_users().slice(1)
    job = made.make_job(tmp_path / "c", events=events_of(job_of(tmp_path / "d")), users=users)
    assert find_inputs(job).fingerprint != first.fingerprint
    assert [path.name for path in first.users] == ["users.parquet"]


def test_each_way_of_combining_has_its_own_split_with_features(tmp_path: Path) -> None:
    """Where pairs repeat, hybrid opens sums and fm the latest ratings, both featured, beside als and one truth."""
    events = made.make_events()
    later = events.set_column(3, "timestamp", pc.add(events["timestamp"], 1)).slice(0, 200)
    job = made.make_job(
        tmp_path,
        events=pa.concat_tables([events, later]),
        users=made.make_users(),
        train={},
        sweep={"models": {"als": {}, "fm": {}, "hybrid": {}}},
    )
    store = LocalStore(tmp_path / "files")
    _prepare(job, find_inputs(job), store.url, "split")
    plain, summed = (
        open_split(store, "split", combine="sum", with_features=featured) for featured in (False, True)
    )
    last = open_split(store, "split", combine="last", with_features=True)
    weights = [float(one.train.user_items.sum()) for one in (plain, summed, last)]
    assert weights[0] == weights[1] > weights[2]
    assert (summed.truth != last.truth).nnz == 0
    assert summed.train.features is not None
    assert last.train.features is not None
