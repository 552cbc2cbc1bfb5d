"""Comma-separated text: the named columns of each row as texts, in parts.

A quoted field may hold a line break, in a column that is not even read. So a quote that is never closed takes all
rows behind it into its own field, and to the parser that is the last row: the file is looked through for such a quote
once it is read. A quote inside a field that does not begin with one is a character like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from nightrank.errors import DataError

BLOCK_BYTES = 4 << 20  # the longest row too
_PARSE = pacsv.ParseOptions(newlines_in_values=True)
_CURE = "a field that begins with a quote ends with one, and a quote in it is doubled: correct the row"

# A quote at the start of a field opens it; the next one that is not doubled closes it.
_OPENING = re.compile(rb'"(?<![^,\r\n]")')
_QUOTED = re.compile(_OPENING.pattern + rb'[^"]*+(?:""[^"]*+)*+"(?=[^"])')


def csv_names(file: Path, *, is_gzip: bool) -> list[str]:
    """The names in the header line. Raises DataError on a line that is too long, and what pyarrow raises."""
    try:
        with _reader(file, pacsv.ConvertOptions(), is_gzip=is_gzip) as reader:
            names: list[str] = reader.schema.names
    except pa.ArrowInvalid as error:
        is_blank = all(not block.strip() for block in _blocks(file, is_gzip=is_gzip))
        raise (
            error if is_blank else _in_our_words(error, f"{file}: the header or the row behind it")
        ) from None
    return names


def stream_csv(file: Path, columns: Sequence[str], *, is_gzip: bool) -> Iterator[pa.Table]:
    """The named columns in parts: texts, an empty field is "".

    Raises DataError on a row that is too long, on a quote that is never closed, and what pyarrow raises. Cost:
    linear; the bytes are read twice.
    """
    options = pacsv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string())
    )
    n_rows = 0
    try:
        with _reader(file, options, is_gzip=is_gzip) as reader:
            for batch in reader:
                n_rows += batch.num_rows
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        raise _in_our_words(error, f"{file}: row {n_rows}") from None
    n_quotes = sum(block.count(b'"') for block in _blocks(file, is_gzip=is_gzip))
    if n_quotes % 2 and _ends_in_a_quote(_blocks(file, is_gzip=is_gzip)):
        where = "the header" if n_rows == 0 else f"row {n_rows - 1}"
        raise DataError(
            f"{file}: {where} has a quote that is never closed, so everything behind it is in one field; {_CURE}"
        )


def _in_our_words(error: Exception, where: str) -> Exception:
    # A header that does not end within a block is called empty.
    if not any(word in str(error) for word in ("straddl", "Empty CSV")):
        return error
    return DataError(
        f"{where} has more than {BLOCK_BYTES:,} bytes, perhaps behind a quote that is never closed; {_CURE}"
    )


@contextmanager
def _reader(
    file: Path, options: pacsv.ConvertOptions, *, is_gzip: bool
) -> Iterator[pacsv.CSVStreamingReader]:
    blocks = pacsv.ReadOptions(block_size=BLOCK_BYTES)
    with (
        _open(file, is_gzip=is_gzip) as stream,
        pacsv.open_csv(stream, read_options=blocks, parse_options=_PARSE, convert_options=options) as reader,
    ):
        yield reader


def _open(file: Path, *, is_gzip: bool) -> pa.NativeFile:
    return pa.input_stream(str(file), compression="gzip" if is_gzip else None)


def _blocks(file: Path, *, is_gzip: bool) -> Iterator[bytes]:
    with _open(file, is_gzip=is_gzip) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _ends_in_a_quote(blocks: Iterator[bytes]) -> bool:
    """Is a quoted field open at the end? What is not known to be closed in a block goes over to the next."""
    held = b"\n"
    for block in blocks:
        rest = _QUOTED.sub(b"x", held + block)
        if opened := _OPENING.search(rest):
            held = rest[opened.start() - 1 :]
        else:
            held = rest[-1:] if rest[-1:] in (b",", b"\r", b"\n") else b"x"
    return _OPENING.search(_QUOTED.sub(b"x", held + b"\n")) is not None
