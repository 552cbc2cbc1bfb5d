"""A column of metadata from its files to its type, categories or numbers; the rules are those of docs/data.md.

Texts and booleans are categories; a list, or a text that holds the separator, is several. In CSV, where all is text,
a column of which every value is written as a number is one of numbers. Whole numbers are categories where few are
distinct. Null, NaN, `MISSING_TEXTS` and texts of nothing but spaces are missing. Refused: infinite numbers and those
beyond 32-bit floats, and what `attribute_types` refuses. Nothing here loops over rows in Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightrank.data import columns
from nightrank.data.attribute_types import are_missing, are_numbers, as_written, named_or_measured, typed
from nightrank.data.attributes import FLOAT32_MAX, Attribute, Categories, Misfits
from nightrank.data.columns import Place
from nightrank.data.formats import is_csv
from nightrank.data.ids import INT, STRING
from nightrank.errors import DataError

# Of the values of a column of texts, from which share of numbers on it may be meant as one of numbers.
NEARLY = 0.95
_WORDS = {"text": "texts", "list": "lists", "whole": "whole numbers", "number": "numbers"}
_ARE_NUMBERS = {"whole", "number"}


class AttributeReading:
    """A column while its files are read, part by part; texts are held as codes."""

    def __init__(self, name: str, *, separator: str) -> None:
        self._name, self._separator = name, separator
        self._kind: str | None = None  # of `_WORDS`; None as long as nothing but nulls came
        self._kind_in: Path | None = None
        self._parts: list[pa.ChunkedArray] = []
        self._sizes: list[tuple[Path, int]] = []  # of the parts, for messages

    def add(self, column: pa.ChunkedArray, *, file: Path, row: int) -> None:
        """The next part of a file, as `tables.read_batches` gives it; row: its first in the file.

        Raises DataError on a type that is no attribute, or another than before.
        """
        at = Place(file, self._name, row)
        kind, values = typed(columns.decoded(column), at=at)
        if kind is not None:
            if self._kind not in (None, kind) and {self._kind, kind} != _ARE_NUMBERS:
                raise DataError(
                    f"{at} holds {_WORDS[kind]}, but {_WORDS[str(self._kind)]} in {self._kind_in}; "
                    "a column has one type in all files: write it the same way everywhere"
                )
            self._kind, self._kind_in = "number" if "number" in (self._kind, kind) else kind, file
        self._parts.append(values)
        self._sizes.append((file, len(column)))

    def finish(self) -> Attribute:
        """The column as a whole. Raises DataError naming the first row with a value that cannot be used."""
        if self._kind in _ARE_NUMBERS:
            return self._numbers(_joined(self._parts, pa.float64() if self._kind == "number" else INT))
        if self._kind == "list":
            return self._lists()
        return self._texts()

    def _numbers(self, values: pa.ChunkedArray) -> Attribute:
        known = values.is_valid().to_numpy()
        plain = pc.fill_null(values, 0).to_numpy()
        if plain.dtype == np.int64:
            return named_or_measured(self._name, plain, known)
        known = known & ~np.isnan(plain)
        wrong = known & ~(np.abs(plain) <= FLOAT32_MAX)
        if wrong.any():
            cure = "correct the value, or leave it empty"
            found = f"has the number {plain[int(np.argmax(wrong))]}"
            self._refuse(wrong, found=found, cure=f"features are finite and within 32-bit floats: {cure}")
        return named_or_measured(self._name, np.where(known, plain, 0.0), known)

    def _texts(self) -> Attribute:
        """Everything is asked of the distinct texts, and only then of the rows."""
        codes, texts = _one_coding(_joined(self._parts, STRING))
        trimmed = pc.utf8_trim_whitespace(texts)
        if is_csv(self._sizes[0][0]):
            broken = pc.match_substring(texts, "\n").to_numpy(zero_copy_only=False)
            if broken.any():
                self._refuse(
                    (codes >= 0) & broken[codes],
                    found="has a line break",
                    cure="is a quote not closed on its line? close it, or take the line break out",
                )
            trimmed, numbers = as_written(trimmed)
            if numbers is not None:
                return self._numbers(pa.chunked_array([_taken(numbers, codes)]))
        trimmed = pc.if_else(are_missing(trimmed), "", trimmed)  # before a separator can split it
        words = pc.split_pattern(trimmed, pattern=self._separator)
        sizes = pc.list_value_length(words).to_numpy()
        of_texts = self._categories(*_one_coding(pa.chunked_array([pc.list_flatten(words)])), sizes=sizes)
        lengths, found = of_texts.of(codes)
        ends = np.r_[0, np.cumsum(lengths)]
        return Categories(self._name, of_texts.values, ends, found, self._misfits(codes, trimmed))

    def _misfits(self, codes: NDArray[np.int32], trimmed: pa.Array) -> Misfits | None:
        """The rows of texts (codes; -1: none) that keep a column from looking like numbers; None where many do."""
        given = pc.not_equal(trimmed, "").to_numpy(zero_copy_only=False)
        odd = given & ~are_numbers(trimmed).to_numpy(zero_copy_only=False)
        sizes = np.bincount(codes[codes >= 0], minlength=len(trimmed))  # rows of every distinct text
        n_known, n_odd = int(sizes[given].sum()), int(sizes[odd].sum())
        if n_odd == 0 or n_known - n_odd < NEARLY * n_known:
            return None
        first = int(np.argmax((codes >= 0) & odd[codes]))
        file, begin, _ = self._file_of(first)
        text = trimmed[int(codes[first])].as_py()
        return Misfits(rows=n_odd, known=n_known, first=text, file=file, row=first - begin)

    def _lists(self) -> Categories:
        parts = [part.cast(pa.large_list(STRING)) for part in self._parts]
        sizes = [pc.fill_null(pc.list_value_length(part), 0).to_numpy() for part in parts]
        words = [pc.list_flatten(part) for part in parts]
        codes, texts = _one_coding(_joined(words, STRING))
        return self._categories(codes, texts, sizes=np.concatenate(sizes))

    def _categories(
        self, codes: NDArray[np.int32], texts: pa.Array, *, sizes: NDArray[np.integer]
    ) -> Categories:
        """Rows of `sizes` words each, as codes of texts (-1: none): spaces around each go, then missing ones do."""
        trimmed = pc.utf8_trim_whitespace(texts)
        vocabulary = pc.unique(trimmed.filter(pc.invert(are_missing(trimmed))))
        vocabulary = vocabulary.take(pc.sort_indices(vocabulary))
        places = pc.fill_null(pc.index_in(trimmed, value_set=vocabulary), -1).to_numpy()
        found = np.where(codes >= 0, places[codes], -1) if len(places) else codes
        owners = np.repeat(np.arange(len(sizes)), sizes)[found >= 0]
        # One whole number for each pair of row and category; a row's come in order, and once.
        pairs = owners * np.int64(max(len(vocabulary), 1)) + found[found >= 0]
        if len(sizes) < len(found) or np.any(sizes > 1):
            pairs = np.unique(pairs)
        owners, kept = np.divmod(pairs, max(len(vocabulary), 1))
        ends = np.r_[0, np.cumsum(np.bincount(owners, minlength=len(sizes)))].astype(np.int64)
        return Categories(self._name, tuple(vocabulary.to_pylist()), ends, kept.astype(np.int32))

    def _refuse(self, wrong: NDArray[np.bool_], *, found: str, cure: str) -> NoReturn:
        """Raise DataError naming the file and row of the first that is wrong, and how many the file has."""
        first = int(np.argmax(wrong))
        file, begin, end = self._file_of(first)
        at, count = Place(file, self._name), int(np.count_nonzero(wrong[begin:end]))
        raise DataError(f"{at} {found} in row {first - begin} ({count} such rows); {cure}")

    def _file_of(self, row: int) -> tuple[Path, int, int]:
        """The file of a row of all files, its first row and the end of its rows."""
        ends = np.cumsum([size for _, size in self._sizes])
        file = self._sizes[int(np.searchsorted(ends, row, side="right"))][0]
        in_file = np.flatnonzero([one == file for one, _ in self._sizes])
        return file, int(ends[in_file[0]]) - self._sizes[in_file[0]][1], int(ends[in_file[-1]])


def _joined(parts: list[pa.ChunkedArray], kind: pa.DataType) -> pa.ChunkedArray:
    """The parts as one column of numbers, or of texts with their distinct ones; a part without values takes part."""
    if kind != STRING:
        chunks = [chunk for part in parts for chunk in part.cast(kind, safe=False).chunks]
        return pa.chunked_array(chunks, type=kind)
    coded = pa.dictionary(pa.int32(), STRING)
    texts = [
        part if part.type == coded else part.cast(STRING).dictionary_encode() for part in map(_chunked, parts)
    ]
    return pa.chunked_array([chunk for part in texts for chunk in part.chunks], type=coded)


def _chunked(part: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return part if isinstance(part, pa.ChunkedArray) else pa.chunked_array([part])


def _one_coding(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], pa.Array]:
    """Codes of the rows, int32 with -1 for null, and the distinct texts (large_string)."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    if not chunks:
        return np.zeros(0, np.int32), pa.array([], STRING)
    codes = [pc.fill_null(chunk.indices, -1).to_numpy() for chunk in chunks]
    return np.concatenate(codes).astype(np.int32, copy=False), chunks[0].dictionary


def _taken(values: pa.Array, codes: NDArray[np.int32]) -> pa.Array:
    return values.take(pa.array(codes, mask=codes < 0))
