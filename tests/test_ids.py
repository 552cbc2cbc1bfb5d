"""Ids: sorting, look-ups, hashes and files; the same ids give the same rows and buckets everywhere."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from numpy.typing import NDArray

from nightrank.data.coding import Coder
from nightrank.data.ids import INT, STRING, Id, Ids, bucket_of, hash_id, ids_from_arrays

INTS = [-(2**63), -70_000, -1, 0, 1, 9, 10, 2**31, 2**53 + 1, 2**63 - 1]
# By code point "\uffff" comes before "😀", by UTF-16 after it; UTF-8 agrees with code points.
STRINGS = ["", "\x00", " ", "10", "9", "A", "a", "a\x00", "aa", "z", "é", "中", "\uffff", "😀", "😀a"]
KINDS = [pytest.param(INTS, id="int64"), pytest.param(STRINGS, id="string")]


def ids_of(values: list[Id]) -> Ids:
    return Ids(pa.array(values, INT if isinstance(values[0], int) else STRING))


def column(values: list[Id], *, n_chunks: int = 1) -> pa.ChunkedArray:
    kind = INT if isinstance(values[0], int) else pa.string()
    bounds = np.linspace(0, len(values), n_chunks + 1).astype(int)
    return pa.chunked_array([pa.array(values[a:b], kind) for a, b in pairwise(bounds)], kind)


def encode(values: pa.ChunkedArray) -> tuple[Ids, NDArray[np.int32]]:
    """Ids and rows of one column, as those of events are made."""
    coder = Coder()
    coder.add(values, is_written=False)
    return coder.finish()


def bucketed(ids: Ids, n_buckets: int) -> Ids:
    """The ids in (bucket, id) order, by the documented rule and nothing of the library's but hash_id."""
    buckets = [hash_id(ids[row]) % n_buckets for row in range(len(ids))]
    order = sorted(range(len(ids)), key=lambda row: (buckets[row], row))
    ends = np.cumsum([0] + [buckets.count(b) for b in range(n_buckets)])
    return ids.reordered(np.array(order), offsets=ends)


def saved_and_mapped(ids: Ids, folder: Path) -> Ids:
    for stem, array in ids.arrays("x").items():
        np.save(folder / f"{stem}.npy", array)
    names = ["x.npy"] if ids.is_int else ["x.offsets.npy", "x.bytes.npy"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    return ids_from_arrays([np.load(folder / name, mmap_mode="r") for name in names], offsets=ids.offsets)


# Order


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("n_chunks", [1, 4])
def test_encode_sorts_and_gives_each_value_its_row(values: list[Id], n_chunks: int) -> None:
    """Protects the row order: ints by value, strings by UTF-8 bytes, however the column comes in."""
    rng = np.random.default_rng(0)
    drawn = [values[i] for i in rng.permutation(np.repeat(np.arange(len(values)), 3))]
    ids, rows = encode(column(drawn, n_chunks=n_chunks))
    expected = sorted(set(drawn), key=lambda value: value.encode() if isinstance(value, str) else value)
    assert ids.array.to_pylist() == expected == values
    assert rows.dtype == np.int32
    assert [ids[row] for row in rows] == drawn


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64()])
def test_encode_takes_any_integer_type_as_int64(kind: pa.DataType) -> None:
    """Protects that a narrow integer column gives the same ids as a wide one."""
    ids, rows = encode(pa.chunked_array([pa.array([7, 3, 7], kind)]))
    assert ids.array.equals(pa.array([3, 7], INT))
    assert rows.tolist() == [1, 0, 1]


def test_encode_sorts_by_bytes_where_utf16_would_differ() -> None:
    """Protects byte order for non-BMP ids, where UTF-16 order (Java, JavaScript) is another one."""
    ids, _ = encode(column(["😀", "\uffff", "Z", "a"]))
    assert ids.array.to_pylist() == ["Z", "a", "\uffff", "😀"]
    assert sorted(["\uffff", "😀"], key=lambda s: s.encode("utf-16-be")) == ["😀", "\uffff"]


@pytest.mark.parametrize("values", KINDS)
def test_types_out_are_the_callers(values: list[Id]) -> None:
    """Protects that Parquet gets int64 or plain string, never our large_string."""
    ids = ids_of(values)
    written = INT if ids.is_int else pa.string()
    rows = np.array([3, 0, 3])
    assert ids.kind == ("int64" if ids.is_int else "string")
    assert ids.column.equals(pa.array(values, written))
    assert ids.take(rows).equals(pa.array([values[row] for row in rows], written))


# Look-ups


@pytest.mark.parametrize("values", KINDS)
def test_rows_of_equals_a_dictionary(values: list[Id]) -> None:
    """Protects batch look-ups: each id's row, -1 for absent ids and nulls, chunked or not, reordered or not."""
    known, asked = values[::2], [*values, None, values[0]]
    kind = INT if isinstance(values[0], int) else pa.string()
    for ids in (ids_of(known), bucketed(ids_of(known), 4)):
        place = {ids[row]: row for row in range(len(ids))}
        expected = [place.get(value, -1) for value in asked]
        whole = ids.rows_of(pa.array(asked, kind))
        split = ids.rows_of(pa.chunked_array([pa.array(asked[:3], kind), pa.array(asked[3:], kind)]))
        assert whole.dtype == split.dtype == np.int64
        assert whole.tolist() == split.tolist() == expected
        assert expected.count(-1) == len(values) // 2 + 1


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("n_buckets", [1, 2, 4, 64])
def test_find_in_buckets_finds_each_id_and_no_other(values: list[Id], n_buckets: int) -> None:
    """Protects the look-up of a release: every id in its bucket's segment, absent ones None, row 0 a row."""
    ids = bucketed(ids_of(values[::2]), n_buckets)
    rows = {value: ids.find(value) for value in values[::2]}
    assert sorted(row for row in rows.values() if row is not None) == list(range(len(ids)))
    for value, row in rows.items():
        assert row is not None
        assert ids[row] == value
        bucket = bucket_of(value, n_buckets)
        assert ids.offsets[bucket] <= row < ids.offsets[bucket + 1]
    assert [ids.find(value) for value in values[1::2]] == [None] * (len(values) // 2)


@pytest.mark.parametrize("n_buckets", [1, 8])
def test_find_of_many_random_ids(n_buckets: int) -> None:
    """Protects the binary search at segment bounds: 500 random ids of either type, and 500 absent ones."""
    rng = np.random.default_rng(1)
    numbers = [int(n) for n in np.unique(rng.integers(-(10**12), 10**12, 1000))]
    words: list[Id] = sorted({format(n, "x") for n in numbers})
    for values in (list[Id](numbers), words):
        ids = bucketed(ids_of(values[::2]), n_buckets)
        place = {ids[row]: row for row in range(len(ids))}
        assert [ids.find(value) for value in values] == [place.get(value) for value in values]


@pytest.mark.parametrize("n_buckets", [1, 4])
def test_find_of_what_cannot_be_an_id_is_none(n_buckets: int) -> None:
    """Protects requests: a wrong type, a number beyond int64 or a lone surrogate is absent, never an error."""
    numbers, words = bucketed(ids_of(INTS), n_buckets), bucketed(ids_of(STRINGS), n_buckets)
    assert [numbers.find(value) for value in ("1", "", 2**63, -(2**63) - 1, 10**30)] == [None] * 5
    assert [words.find(value) for value in (10, 0, "\ud800", "a\udfff")] == [None] * 4


# Hashes


def test_hashes_are_pinned() -> None:
    """Protects the buckets of every published release: these numbers may never change."""
    golden: dict[Id, int] = {
        0: 0x34C96ACDCADB1BBB,
        1: 0x9F29CB17A2A49995,
        -1: 0x85D136ADB773C6C9,
        2**63 - 1: 0xFF70CC60366E770C,
        "": 0xEF46DB3751D8E999,
        "1": 0xB7B41276360564D4,
        "é": 0x17D757DFB8B46F78,
        "😀": 0x9025B8ABAAE87B80,
    }
    assert {value: hash_id(value) for value in golden} == golden


@pytest.mark.parametrize("values", KINDS)
def test_hashes_are_xxh64_of_the_documented_bytes(values: list[Id]) -> None:
    """Protects that others can compute a bucket: int64 little-endian or UTF-8, seed 0, mod n_buckets."""
    raw = [value.encode() if isinstance(value, str) else struct.pack("<q", value) for value in values]
    expected = [xxhash.xxh64(data, seed=0).intdigest() for data in raw]
    hashes = ids_of(values).hashes()
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == expected == [hash_id(value) for value in values]
    assert [bucket_of(value, 7) for value in values] == [h % 7 for h in expected]


def test_hashes_of_many_integers_are_those_of_the_library() -> None:
    """Protects the vectorised xxh64 against the library, over random numbers of every size and all extremes."""
    rng = np.random.default_rng(4)
    drawn = rng.integers(-(2**63), 2**63, 5_000) >> rng.integers(0, 63, 5_000)
    powers = [sign * 2**bit + near for bit in range(63) for sign in (1, -1) for near in (-1, 0, 1)]
    values = np.unique(np.r_[drawn, np.array([*powers, *INTS], dtype=np.int64)])
    expected = [xxhash.xxh64_intdigest(struct.pack("<q", value)) for value in values.tolist()]
    assert Ids(pa.array(values)).hashes().tolist() == expected


# Slices and files


@pytest.mark.parametrize("values", KINDS)
def test_sliced_array_is_its_own_list(values: list[Id], tmp_path: Path) -> None:
    """Protects against reading from the start of a shared buffer where an Arrow slice begins later."""
    ids = Ids(ids_of(values).array.slice(3, 5))
    part = values[3:8]
    assert len(ids) == 5
    assert [ids[row] for row in range(5)] == part
    assert [ids.find(value) for value in values] == [None] * 3 + [0, 1, 2, 3, 4] + [None] * (len(values) - 8)
    assert ids.hashes().tolist() == [hash_id(value) for value in part]
    assert ids.column.to_pylist() == part
    assert saved_and_mapped(ids, tmp_path).array.to_pylist() == part


@pytest.mark.parametrize("values", KINDS)
@pytest.mark.parametrize("n_buckets", [1, 4])
def test_save_then_memory_map_gives_the_same_ids(values: list[Id], n_buckets: int, tmp_path: Path) -> None:
    """Protects a release's ids: mapped from files, they answer as they did in memory, without a copy."""
    ids = bucketed(ids_of(values), n_buckets)
    mapped = saved_and_mapped(ids, tmp_path)
    assert mapped.array.equals(ids.array)
    assert mapped.array.type == ids.array.type
    assert [mapped.find(value) for value in values] == [ids.find(value) for value in values]
    assert mapped.hashes().tolist() == ids.hashes().tolist()
    assert mapped.rows_of(ids.column).tolist() == list(range(len(ids)))


def test_ids_from_arrays_share_the_memory() -> None:
    """Protects that opening a release copies no ids: the Arrow buffers are the arrays given."""
    numbers = np.arange(5)
    ends, data = np.array([0, 1, 3]), np.frombuffer(b"abc", dtype=np.uint8)
    assert ids_from_arrays([numbers]).array.buffers()[1].address == numbers.ctypes.data
    shared = ids_from_arrays([ends, data])
    assert shared.array.to_pylist() == ["a", "bc"]
    assert [buffer.address for buffer in shared.array.buffers()[1:]] == [ends.ctypes.data, data.ctypes.data]


@pytest.mark.parametrize("kind", [INT, STRING])
def test_no_ids_at_all(kind: pa.DataType) -> None:
    """Protects the empty list: nothing is found, hashing and saving work."""
    ids = Ids(pa.array([], kind))
    assert len(ids) == 0
    assert ids.find(0) is None
    assert ids.find("") is None
    assert ids.hashes().tolist() == []
    assert ids.rows_of(pa.array([], kind)).tolist() == []
    assert len(ids.arrays("x")) == (1 if ids.is_int else 2)
