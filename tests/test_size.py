"""Size: memory bounded in the events, chunks and batches that make no difference, counts without a sort."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eventfiles import coded
from nightrank.data import coding, grouping, tables
from nightrank.data.coding import Coder
from nightrank.data.grouping import chunks_of, occurrences
from nightrank.data.growing import Growing
from nightrank.data.interactions import Interactions, from_events
from nightrank.data.rare import without_rare
from nightrank.data.report import _n_duplicates
from nightrank.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 60  # an event; 35 measured, 120 when events passed as one table


def repeated(n: int = 3_000) -> pa.Table:
    """Many repeats of every kind: pairs, times, weights, and whole rows; one user has a third of all."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "user": np.where(rng.random(n) < 0.3, 7, rng.integers(0, 60, n)),
            "item": rng.integers(0, 25, n),
            "weight": rng.integers(0, 3, n) / 7,
            "time": rng.integers(0, 3, n),
            "type": rng.choice(["a", "b"], n),
        }
    )


def test_memory_is_bounded_for_each_event(tmp_path: Path) -> None:
    """Protects drivers from a load that holds its events several times: 1M and 3M events, a process each."""
    rng = np.random.default_rng(0)
    peaks = []
    for millions in (1, 3):
        folder = tmp_path / str(millions)
        folder.mkdir()
        n = millions * 1_000_000
        columns = {
            "user_id": rng.integers(0, 50_000, n),
            "item_id": rng.integers(0, 20_000, n),
            "timestamp": rng.integers(0, 10**7, n),
        }
        pq.write_table(pa.table(columns), folder / "events.parquet")
        run = [sys.executable, str(ROOT / "benchmarks/load.py"), str(folder)]
        row = subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout.split(" | ")
        assert row[0] == f"{n:,}"
        peaks.append(float(row[4]) * 1e6)
    assert 20 < (peaks[1] - peaks[0]) / 2_000_000 < MOST_BYTES  # 16 of them are the events themselves


def bits(found: Interactions) -> list[bytes]:
    matrix = found.user_items
    return [array.tobytes() for array in (matrix.data, matrix.indices, matrix.indptr, found.times)]


@pytest.mark.parametrize("how", ["sum", "max", "last"])
@pytest.mark.parametrize("chunk", [1, 50, 700])
def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch, how: str, chunk: int) -> None:
    """Protects the CSR from where chunks of users end, also where one user is larger than a chunk."""
    events = coded(repeated())
    whole = bits(from_events(events, combine=how, half_life_days=1))
    duplicates = _n_duplicates(events)
    monkeypatch.setattr(grouping, "CHUNK_EVENTS", chunk)
    assert len(list(chunks_of(events))) > 3
    assert bits(from_events(events, combine=how, half_life_days=1)) == whole
    assert _n_duplicates(events) == duplicates > 0


@pytest.mark.parametrize("chunk", [1, 3, 50])
@pytest.mark.parametrize("how", ["sum", "max", "last"])
@pytest.mark.parametrize("users", [[0, 0, 0, 0, 1], [0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4], [0, 2, 2, 2, 2, 3]])
def test_users_without_events_make_no_chunk(
    monkeypatch: pytest.MonkeyPatch, users: list[int], how: str, chunk: int
) -> None:
    """Protects large users with rare ones before, between and behind them: a chunk of nothing was a crash."""
    table = pa.table({"user_id": users, "item_id": range(len(users)), "timestamp": range(len(users))})
    rules: dict[str, Any] = {"columns": {"time": "timestamp"}, "combine": how, "half_life_days": 1}
    whole = Interactions.from_arrow(table, min_events=(2, 1), **rules)
    monkeypatch.setattr(grouping, "CHUNK_EVENTS", chunk)
    found = Interactions.from_arrow(table, min_events=(2, 1), **rules)
    assert bits(found) == bits(whole)
    assert found.user_ids.array.to_pylist() == sorted(user for user in set(users) if users.count(user) > 1)
    for part in chunks_of(
        without_rare(coded(table.rename_columns(["user", "item", "time"])), per_user=2, per_item=1)
    ):
        assert len(part.starts) > 0


def test_a_search_for_a_chunk_leaves_the_ends_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects linear time: numpy turns all ends into the type of what it looks for, with every chunk."""
    searched = np.searchsorted
    types = set()

    def spied(ends: Any, value: Any, **options: Any) -> Any:
        types.add((ends.dtype, np.asarray(value).dtype))
        return searched(ends, value, **options)

    monkeypatch.setattr(grouping.np, "searchsorted", spied)
    list(chunks_of(coded(repeated())))
    assert types == {(np.dtype(np.int32), np.dtype(np.int32))}


def test_many_small_batches_of_ids_are_counted_as_they_come() -> None:
    """Protects linear time over thousands of small files: what waits is not counted again with every batch."""
    coder = Coder()
    coder._waiting = Uncounted()
    for start in range(0, 90, 30):
        coder.add(pa.chunked_array([pa.array(range(start, start + 30))]), is_written=False)
    assert coder._n_waiting == 90
    coder.finish()
    assert coder._n_waiting == 0


class Uncounted(list[pa.Array]):
    """A list to be read once."""

    n_reads = 0

    def __iter__(self) -> Iterator[pa.Array]:
        self.n_reads += 1
        assert self.n_reads <= 2  # both by the merge at the end
        return super().__iter__()


def test_a_dictionary_is_read_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects linear time over a category column: a part holds its own values, not the dictionary of all."""
    monkeypatch.setattr(tables, "BATCH_ROWS", 7)
    texts = [f"u{n % 13}" for n in range(40)]
    table = pa.table({"u": pa.array(texts).dictionary_encode(), "i": range(40)})
    batches = list(tables.table_batches(table))
    assert [str(batch["u"].type) for batch in batches] == ["string"] * 6
    assert [text for batch in batches for text in batch["u"].to_pylist()] == texts
    broken = pa.DictionaryArray.from_arrays(pa.array([0, 7]), pa.array(["a"]), safe=False)
    with pytest.raises(DataError, match="table: column 'u' is damaged"):
        list(tables.table_batches(pa.table({"u": broken})))


@pytest.mark.parametrize("n_rows", [2, 3, 100])
def test_no_part_is_empty_where_types_change(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    """Protects those who read parts from one without rows, where a full part ends just before a change of type."""
    monkeypatch.setattr(tables, "BATCH_ROWS", n_rows)
    parts = [pa.table({"w": values}) for values in ([1, 2, 3, 4, 5, 6], [0.5, 1.5], [2.5])]
    found = list(tables._in_batches(parts))
    assert all(len(part) > 0 for part in found)
    assert [value for part in found for value in part["w"].to_pylist()] == [1, 2, 3, 4, 5, 6, 0.5, 1.5, 2.5]


def test_chunks_hold_every_event_once_in_order() -> None:
    """Protects what is built on chunks: all events, sorted by user, item, time and weight, pairs marked."""
    events = coded(repeated())
    for chunk in chunks_of(events):
        assert chunk.weights is not None
        assert chunk.times is not None
        keys = list(zip(chunk.users, chunk.items, chunk.times, chunk.weights, strict=True))
        assert keys == sorted(zip(events.users, events.items, events.times, events.weights, strict=True))
        assert sorted(chunk.events) == list(range(len(events)))
        pairs = [key[:2] for key in keys]
        assert chunk.starts.tolist() == [
            place for place in range(len(pairs)) if place == 0 or pairs[place] != pairs[place - 1]
        ]


def test_duplicates_of_untyped_events_equal_a_plain_count() -> None:
    """Protects the count of repeated rows where the sorted chunks already have them side by side."""
    for names in (["user", "item"], ["user", "item", "time"], ["user", "item", "weight", "time", "type"]):
        table = repeated().select(names)
        rows = list(zip(*table.to_pydict().values(), strict=True))
        assert _n_duplicates(coded(table)) == len(rows) - len(set(rows)) > 0


@pytest.mark.parametrize("waiting", [0, 10, 10**9])
@pytest.mark.parametrize("is_text", [False, True])
def test_merging_ids_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch, waiting: int, is_text: bool
) -> None:
    """Protects ids and rows from when the distinct ids of batches are merged."""
    monkeypatch.setattr(coding, "_LEAST_WAITING", waiting)
    rng = np.random.default_rng(1)
    values = rng.zipf(1.3, 500) % 1_000
    drawn: list[int] | list[str] = [f"é{value}" for value in values] if is_text else values.tolist()
    coder = Coder()
    for start in range(0, 500, 30):
        coder.add(pa.chunked_array([pa.array(drawn[start : start + 30])]), is_written=False)
    assert coder.end_file() == ("string" if is_text else "int64")
    ids, rows = coder.finish()
    assert ids.array.to_pylist() == sorted(set(drawn))
    assert [ids[row] for row in rows] == drawn


@pytest.mark.parametrize("waiting", [0, 10**9])
def test_integers_among_written_texts_become_the_texts_they_were(
    monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """Protects CSV ids where the first text that is no integer stands in a later batch, merged before or not."""
    monkeypatch.setattr(coding, "_LEAST_WAITING", waiting)
    coder = Coder()
    for batch in (["7", "12", "-3"], ["8", "7"], ["007", "7"], ["12"]):
        coder.add(pa.chunked_array([pa.array(batch)]), is_written=True)
    assert coder.end_file() == "string"
    ids, rows = coder.finish()
    assert [ids[row] for row in rows] == ["7", "12", "-3", "8", "7", "007", "7", "12"]


def test_growing_arrays_equal_their_parts() -> None:
    """Protects values from moves of the array, and its length from the room kept ahead."""
    rng = np.random.default_rng(2)
    parts = [rng.integers(0, 9, size) for size in (0, 1, 1_000, 3, 0, 70_000)]
    growing = Growing(np.int32)
    for part in parts:
        growing.append(part)
    whole = np.concatenate(parts)
    assert len(growing) == len(whole)
    growing.translate(np.arange(9) * 10, start=1, end=500)
    whole[1:500] *= 10
    found = growing.finish()
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, whole)


def test_occurrences_equal_bincount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects counts over several slices, and rows that never occur."""
    monkeypatch.setattr(grouping, "CHUNK_EVENTS", 7)
    rows = np.random.default_rng(3).integers(0, 5, 100).astype(np.int32)
    assert occurrences(rows, 9).tolist() == np.bincount(rows, minlength=9).tolist()
    assert occurrences(rows[:0], 2).tolist() == [0, 0]
