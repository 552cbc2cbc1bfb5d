"""Files of rows, and tables in memory: the named columns of each, as Arrow tables in parts.

Read: Parquet; comma-separated UTF-8 CSV with a header (`csvlines`); JSON lines (`jsonlines`); the last two gzipped
too. Refused by name: missing or ambiguous columns, files that are broken, texts that are not UTF-8. Which files a
path means is for `formats` to say. Each CSV column arrives as text (pyarrow's guess would turn the id 007 into 7);
`columns` types and checks what is in it.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.data.columns import decoded
from nightrank.data.csvlines import csv_names, stream_csv
from nightrank.data.formats import file_format
from nightrank.data.jsonlines import field_names, stream_jsonl
from nightrank.errors import DataError

# Rows read at a time, 6 MB for three columns; with half as many, reading 25M events took a third longer.
BATCH_ROWS = 1 << 18
_BUFFER_BYTES = 1 << 20


def read_columns(file: Path, columns: Sequence[str]) -> pa.Table:
    """All of `read_batches` as one table; no rows, of no type, where it gives none."""
    tables = list(read_batches(file, columns))
    if not tables:
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    return pa.concat_tables(tables, promote_options="permissive")


def names_of(file: Path, wanted: Sequence[str]) -> list[str]:
    """The names of a file's columns, empty where it has no header; of JSON lines, those of `wanted` that occur.

    Raises DataError where the file cannot be read.
    """
    list_names, _ = _readers(file)
    try:
        return [] if _is_blank(file) else list_names(file, wanted)
    except (pa.ArrowException, OSError, ValueError, zlib.error) as error:
        _broken(file, reason=str(error).splitlines()[0] if str(error) else type(error).__name__)


def read_batches(file: Path, columns: Sequence[str], *, numbers: Collection[str] = ()) -> Iterator[pa.Table]:
    """The named columns of one file, in that order, in parts of BATCH_ROWS; nothing else of the file is decoded.

    CSV columns come as strings, an empty field as "". A file without a row gives no part. numbers: columns that may
    mix whole numbers and fractions; in JSON lines a part of one may be float64 where those before it were int64.
    Raises DataError naming the file where it cannot be read or a column is missing or occurs twice; what was given
    before that says nothing about the rest.
    """
    list_names, read = _readers(file)
    try:
        if _is_blank(file):
            return
        check_names(file, columns=columns, names=list_names(file, columns))
        for table in _in_batches(read(file, columns, numbers)):
            yield checked_texts(table, file=file)
    except UnicodeDecodeError as error:
        _broken(file, reason=f"it is not UTF-8 ({error.reason} at byte {error.start} of a column name)")
    except (pa.ArrowException, OSError, ValueError, zlib.error) as error:
        _broken(file, reason=str(error).splitlines()[0] if str(error) else type(error).__name__)


def _readers(file: Path) -> tuple[_Names, _Read]:
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; check the path")
    return _READERS[(file_format(file) or ".csv").removesuffix(".gz")]


def table_batches(table: pa.Table) -> Iterator[pa.Table]:
    """The same of a table in memory."""
    for start in range(0, table.num_rows, BATCH_ROWS):
        yield checked_texts(table.slice(start, BATCH_ROWS), file="table")


def _in_batches(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in parts of BATCH_ROWS, but for the last and where the types change; none is empty."""
    held: list[pa.Table] = []
    n_rows = 0
    for part in parts:
        if held and held[0].schema != part.schema:
            if n_rows:
                yield pa.concat_tables(held)
            held, n_rows = [], 0
        held.append(part)
        n_rows += part.num_rows
        while n_rows >= BATCH_ROWS:
            whole = pa.concat_tables(held)
            yield whole.slice(0, BATCH_ROWS)
            held, n_rows = [whole.slice(BATCH_ROWS)], n_rows - BATCH_ROWS
    if n_rows:
        yield pa.concat_tables(held)


def checked_texts(table: pa.Table, *, file: Path | str) -> pa.Table:
    """The table, once its texts are known to be UTF-8: neither Parquet nor JSON readers look.

    A dictionary gives way to its values, for with every part all of it would be looked through.
    """
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        try:
            if pa.types.is_dictionary(column.type):
                column = decoded(column)
                table = table.set_column(place, name, column)
            column.validate(full=True)
        except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{file}: column '{name}' is damaged or not UTF-8 ({reason}); write its texts as UTF-8"
            ) from None
    return table


def _is_blank(file: Path) -> bool:
    """A text file without a byte (a gzip of nothing too); a Parquet file always has some."""
    if file_format(file) == ".parquet":
        return False
    with pa.input_stream(str(file), compression="gzip" if _is_gzip(file) else None) as stream:
        return len(stream.read(1)) == 0


def _broken(file: Path, *, reason: str) -> NoReturn:
    expected = {
        ".parquet": "a complete Parquet file",
        ".csv": "comma-separated UTF-8 text with a header line",
        ".csv.gz": "a complete gzip file of comma-separated UTF-8 text with a header line",
        ".jsonl": "one JSON object a line, in UTF-8",
        ".jsonl.gz": "a complete gzip file of JSON lines",
    }[file_format(file) or ".csv"]
    raise DataError(
        f"{file}: cannot be read: {reason.rstrip(' .:')}; expected {expected}; make it so and try again"
    )


def _parquet_names(file: Path, _: Sequence[str]) -> list[str]:
    with pq.ParquetFile(file) as parquet:
        names: list[str] = parquet.schema_arrow.names
    return names


def _read_parquet(file: Path, columns: Sequence[str], _: Collection[str]) -> Iterator[pa.Table]:
    # Neither pre-buffered nor mapped: a file may be one row group, which then would be in memory as a whole.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=list(columns), use_threads=False):
            yield pa.Table.from_batches([batch]).select(list(columns))


def _is_gzip(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def _csv_names(file: Path, _: Sequence[str]) -> list[str]:
    return csv_names(file, is_gzip=_is_gzip(file))


def _read_csv(file: Path, columns: Sequence[str], _: Collection[str]) -> Iterator[pa.Table]:
    return stream_csv(file, columns, is_gzip=_is_gzip(file))


def _jsonl_names(file: Path, columns: Sequence[str]) -> list[str]:
    # A file of blank lines has no fields to be missing.
    return field_names(file, columns, is_gzip=_is_gzip(file)) or list(columns)


def _read_jsonl(file: Path, columns: Sequence[str], numbers: Collection[str]) -> Iterator[pa.Table]:
    return stream_jsonl(file, columns, numbers=numbers, is_gzip=_is_gzip(file))


_Names = Callable[[Path, Sequence[str]], list[str]]
_Read = Callable[[Path, Sequence[str], Collection[str]], Iterator[pa.Table]]
_READERS: dict[str, tuple[_Names, _Read]] = {
    ".parquet": (_parquet_names, _read_parquet),
    ".csv": (_csv_names, _read_csv),
    ".jsonl": (_jsonl_names, _read_jsonl),
}


def check_names(file: Path | str, *, columns: Sequence[str], names: list[str]) -> None:
    """Raise DataError where a column is not among the names, or twice; `file` is a path, or `table`."""
    what, cure = ("table", "columns") if file == "table" else ("file", "the job file's columns")
    for column in columns:
        if column not in names:
            lower = {name.lower(): name for name in names}
            near = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.0)
            hint = f"; the nearest is '{lower[near[0]]}'" if near else ""
            raise DataError(
                f"{file}: there is no column '{column}'{hint}; the {what} has {', '.join(map(repr, names))}; "
                f"name the right one in {cure}"
            )
        if names.count(column) > 1:
            raise DataError(
                f"{file}: column '{column}' occurs {names.count(column)} times; rename all but one"
            )


def refuse_no_rows(files: Sequence[Path | str], *, what: str) -> NoReturn:
    """Raise DataError naming the files, none of which has a row."""
    names = ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")
    raise DataError(f"{what}: no rows in {len(files)} file(s): {names}; expected at least one row")


def check_one_kind(kinds: Sequence[tuple[Path | str, str]], *, name: str, what: str) -> None:
    """Raise DataError where the ids of column `name` are integers in one file and texts in another."""
    for file, found in kinds:
        first_file, expected = kinds[0]
        if found != expected:
            raise DataError(
                f"{what}: column '{name}' has {expected} ids in {first_file}, but {found} ids in {file}; "
                "all files must agree: write the ids the same way everywhere"
            )
