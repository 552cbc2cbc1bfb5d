"""Ids: the caller's own keys (int64 or string), and the dense rows that stand for them inside.

An `Ids` is the sorted list of distinct ids; the row of an id is its position. Integers sort by value, strings
by their UTF-8 bytes, so the same ids give the same rows on every machine. Floats, dates and mixtures are
refused where files are read; here every array already is int64 or string.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from nightrank.errors import DataError, ReleaseError

Id = int | str
INT = pa.int64()
STRING = pa.large_string()
INT64 = range(-(2**63), 2**63)
_PRIMES = [
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
]


class Ids:
    """Distinct ids in row order: an Arrow array of int64 or large_string without nulls.

    Rows are sorted by id within each of the segments that `offsets` bounds: one segment for a plain list,
    one per bucket in a saved model.
    """

    def __init__(self, array: pa.Array, *, offsets: NDArray[np.int64] | None = None) -> None:
        self.array = array
        self.offsets = np.array([0, len(array)], dtype=np.int64) if offsets is None else offsets
        self.is_int: bool = array.type == INT
        if self.is_int:
            self._values = array.to_numpy()
            self._view: Any = self._values.data  # of single rows, many times faster than the array
        else:
            _, ends, data = array.buffers()
            self._ends = np.frombuffer(ends, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
            self._view = self._ends.data
            self._bytes = memoryview(data) if data is not None else memoryview(b"")

    def __len__(self) -> int:
        return len(self.array)

    @property
    def kind(self) -> str:
        """`int64` or `string`: what the caller's column held."""
        return "int64" if self.is_int else "string"

    @property
    def column(self) -> pa.Array:
        """The ids as they are written to Parquet: int64 or string."""
        return self.array if self.is_int else self.array.cast(pa.string())

    def __getitem__(self, row: int) -> Id:
        """By our own look at the bytes: Arrow would follow a damaged offset out of the file and end the process.

        Raises ReleaseError where they are no text.
        """
        if self.is_int:
            return int(self._view[row])
        raw: bytes = self._key(row)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ReleaseError(
                f"the text of row {row} is damaged: {raw[:40]!r} is not UTF-8; `nightrank releases verify` names the "
                "file it is in"
            ) from None

    def take(self, rows: NDArray[np.integer]) -> pa.Array:
        """The ids of `rows`, as written to Parquet."""
        taken = self.array.take(pa.array(rows))
        return taken if self.is_int else taken.cast(pa.string())

    def rows_of(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """The rows of `values`; -1 where an id is not here. One hash table per call: for batches."""
        found = pc.index_in(values.cast(self.array.type), value_set=self.array)
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        rows: NDArray[np.int64] = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return rows

    def find(self, value: Id) -> int | None:
        """The row of one id by binary search in its segment, or None. O(log n), no memory of its own."""
        if isinstance(value, str) == self.is_int or not (isinstance(value, str) or value in INT64):
            return None
        segment = 0 if len(self.offsets) == 2 else bucket_of(value, len(self.offsets) - 1)
        low, high = int(self.offsets[segment]), int(self.offsets[segment + 1])
        row = self.first_not_below(value, low=low, high=high)
        key = _utf8(value) if isinstance(value, str) else value
        return row if row < high and self._key(row) == key else None

    def first_not_below(self, value: Id, *, low: int, high: int) -> int:
        """The first of rows [low, high), all in one segment, whose id is not below `value`; `high` if none is.

        `value` has the type of the ids. Integers compare by value, strings by their UTF-8 bytes.
        """
        if not isinstance(value, str):
            return bisect_left(self._view, value, low, high)
        return bisect_left(range(high), _utf8(value), low, high, key=self._key)

    def _key(self, row: int) -> Any:
        if self.is_int:
            return self._view[row]
        return bytes(self._bytes[self._view[row] : self._view[row + 1]])

    def hashes(self) -> NDArray[np.uint64]:
        """xxh64 of every id: int64 as little-endian bytes, strings as UTF-8."""
        if self.is_int:
            return _xxh64_of_ints(self._values)
        digests = (xxhash.xxh64_intdigest(self._key(row)) for row in range(len(self)))
        return np.fromiter(digests, dtype=np.uint64, count=len(self))

    def reordered(self, rows: NDArray[np.int64], *, offsets: NDArray[np.int64]) -> Ids:
        """The same ids in another row order, sorted within the segments of `offsets`."""
        return Ids(self.array.take(pa.array(rows)), offsets=offsets)

    def arrays(self, stem: str) -> dict[str, NDArray[np.generic]]:
        """The ids as named arrays for files: `stem` (int64), or `stem.offsets` and `stem.bytes` (string)."""
        if self.is_int:
            return {stem: self._values}
        first, last = int(self._ends[0]), int(self._ends[-1])
        data = np.frombuffer(self._bytes[first:last], dtype=np.uint8)
        return {f"{stem}.offsets": self._ends - first, f"{stem}.bytes": data}


def ids_from_arrays(
    arrays: Sequence[NDArray[np.generic]], *, offsets: NDArray[np.int64] | None = None
) -> Ids:
    """Ids over saved arrays without a copy: (values,) for int64, (offsets, bytes) for strings.

    Raises ReleaseError where the offsets cannot be those of the bytes, as far as their ends show it.
    """
    if len(arrays) == 1:
        return Ids(pa.array(arrays[0]), offsets=offsets)
    ends, data = arrays
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    try:
        return Ids(pa.Array.from_buffers(STRING, len(ends) - 1, buffers), offsets=offsets)
    except pa.ArrowInvalid as error:
        raise ReleaseError(f"saved texts are damaged, their offsets do not fit: {error}") from None


def sorted_ids(distinct: pa.Array) -> tuple[Ids, NDArray[np.int32]]:
    """The ids of distinct values (int64 or large_string, no nulls), and the row of each value (int32)."""
    if len(distinct) > np.iinfo(np.int32).max:
        raise DataError(f"{len(distinct)} distinct ids found; rows are int32, 2,147,483,647 at most")
    order = pc.sort_indices(distinct).to_numpy()
    rows = np.empty(len(order), dtype=np.int32)
    rows[order] = np.arange(len(order), dtype=np.int32)
    return Ids(distinct.take(pa.array(order))), rows


def _xxh64_of_ints(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """xxh64, seed 0, of each value's 8 little-endian bytes. Source: Collet, xxHash specification, short inputs."""
    prime_1, prime_2, prime_3, prime_4, prime_5 = _PRIMES
    mixed = _rotated(values.astype(np.uint64) * prime_2, 31) * prime_1
    mixed ^= prime_5 + np.uint64(8)
    mixed = _rotated(mixed, 27) * prime_1 + prime_4
    for shift, prime in ((33, prime_2), (29, prime_3)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= prime
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _rotated(values: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return (values << np.uint64(bits)) | (values >> np.uint64(64 - bits))


def hash_id(value: Id) -> int:
    """xxh64 of one id, as in `Ids.hashes`."""
    raw = _utf8(value) if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    return xxhash.xxh64_intdigest(raw)


def _utf8(value: str) -> bytes:
    """UTF-8; a lone surrogate, which JSON can bring in, gets bytes that no valid id has."""
    return value.encode("utf-8", "surrogatepass")


def bucket_of(value: Id, n_buckets: int) -> int:
    """The bucket of one id: xxh64 mod n_buckets."""
    return hash_id(value) % n_buckets
