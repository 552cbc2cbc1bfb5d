"""Batches of ids as codes: what a file's column of ids becomes while it is read.

Each batch is encoded by itself (its distinct ids, and a code for each row). Now and then the distinct ids of the
batches since are merged into those known, and the batches' codes are rewritten in place; at the end the distinct ids
are sorted once. No step loops over ids or events in Python. Memory: 4 bytes an event, and at a merge about 70 for
each distinct integer; for each distinct text 150, and 4 for each of its bytes (measured with 18 to 100 of them).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.columns import as_written
from nightrank.data.growing import Growing
from nightrank.data.ids import INT, STRING, Ids, sorted_ids

_WAITING = 4  # so each id is merged about once and a quarter, however many there are
_LEAST_WAITING = 1 << 18


class Coder:
    """One column of ids over the batches of all files, in their order."""

    def __init__(self) -> None:
        self._codes = Growing(np.int32)
        self._known: pa.Array = pa.array([], INT)
        self._waiting: list[pa.Array] = []  # the distinct ids of each batch that is not merged
        self._n_waiting = 0  # how many they are together
        self._bounds = [0]  # the first event of each of those batches, and the end of the last
        self._file_is_int = True

    def add(self, column: pa.ChunkedArray, *, is_written: bool) -> None:
        """One batch of ids, int64 or texts. is_written: texts that are integers where all of the file are."""
        keys = column.cast(INT if pa.types.is_integer(column.type) else STRING)
        encoded = keys.combine_chunks().dictionary_encode()
        distinct = as_written(encoded.dictionary) if is_written else encoded.dictionary
        self._file_is_int = self._file_is_int and distinct.type == INT
        self._codes.append(encoded.indices.to_numpy())
        self._bounds.append(len(self._codes))
        self._waiting.append(distinct)
        self._n_waiting += len(distinct)
        if self._n_waiting > max(_WAITING * len(self._known), _LEAST_WAITING):
            self._merge()

    def end_file(self) -> str:
        """The kind of the file's ids: `int64`, or `string` where one of them is no integer as written."""
        kind = "int64" if self._file_is_int else "string"
        self._file_is_int = True
        return kind

    def finish(self) -> tuple[Ids, NDArray[np.int32]]:
        """The sorted distinct ids, and the row of each event (int32). Cost: a sort of the distinct ids."""
        self._merge()
        ids, rows = sorted_ids(self._known)
        self._codes.translate(rows)
        return ids, self._codes.finish()

    def _merge(self) -> None:
        """Take the ids in waiting among those known, whose codes stay."""
        parts = [ids for ids in (self._known, *self._waiting) if len(ids)]
        # A file's texts were integers so far; written as texts again they are what they were.
        kind = INT if all(ids.type == INT for ids in parts) else STRING
        distinct, codes = _by_appearance(pa.chunked_array([ids.cast(kind) for ids in parts], kind))
        first = len(self._known)
        for start, end, ids in zip(self._bounds, self._bounds[1:], self._waiting, strict=False):
            self._codes.translate(codes[first : first + len(ids)], start=start, end=end)
            first += len(ids)
        pa.default_memory_pool().release_unused()  # what the hash table of all of them took
        self._known, self._waiting, self._n_waiting, self._bounds = distinct, [], 0, self._bounds[-1:]


def _by_appearance(ids: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """The distinct ids in the order they first appear in, and the place there of each."""
    if ids.type != INT:
        encoded = ids.combine_chunks().dictionary_encode()
        return encoded.dictionary, encoded.indices.to_numpy()
    # A sort of integers needs a quarter of the memory of Arrow's hash table.
    values, first, groups = np.unique(ids.to_numpy(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    return pa.array(values[order]), places[groups]
