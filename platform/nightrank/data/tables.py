"""Files of rows: which ones a path means, and the named columns of each, as Arrow tables.

Read: Parquet; comma-separated UTF-8 CSV with a header; JSON lines (`jsonlines`); the last two gzipped too.
Refused by name: other formats, two formats side by side, subfolders, missing or ambiguous columns, files that
are broken. Each CSV column arrives as text (pyarrow's guess would turn the id 007 into 7); `columns` types and
checks what is in it.
"""

from __future__ import annotations

import difflib
import glob
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from nightrank.data.jsonlines import field_names, read_jsonl
from nightrank.errors import DataError

SUPPORTED = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
_FORMATS = "nightrank reads " + ", ".join(SUPPORTED)


def find_files(path: str | Path, *, what: str) -> list[Path]:
    """The files behind a file, folder or glob, sorted; `what` names them in messages ("events").

    Files whose name starts with `.` or `_` are skipped, in folders and globs. Raises DataError where nothing
    is found, a file has another format, two formats stand side by side, or a subfolder would be left out.
    """
    base = Path(path)
    if base.is_file():
        _one_format([base], what=what)
        return [base]
    found = (
        list(base.iterdir())
        if base.is_dir()
        else [Path(name) for name in glob.glob(str(path), recursive=True)]
    )
    found = sorted(entry for entry in found if not entry.name.startswith((".", "_")))
    if not found:
        kind = (
            "the folder holds no files" if base.is_dir() else "no file, folder or glob of that name has files"
        )
        raise DataError(f"{what}: found nothing at '{path}': {kind}; {_FORMATS}")
    for entry in found:
        if entry.is_dir():
            raise DataError(
                f"{what}: '{path}' holds the folder '{entry.name}', and subfolders are not read; "
                f"name the files with a glob, such as '{base if base.is_dir() else entry}/*.parquet'"
            )
    _one_format(found, what=what)
    return found


def _one_format(files: Sequence[Path], *, what: str) -> None:
    first: dict[str, Path] = {}
    for file in files:
        suffix = file_format(file)
        if suffix is None:
            raise DataError(f"{what}: '{file}' has a format that is not supported; {_FORMATS}")
        first.setdefault(suffix, file)
    if len(first) > 1:
        names = " and ".join(f"'{file}'" for file in first.values())
        raise DataError(
            f"{what}: {names} have different formats; keep one format, or name the files with a glob"
        )


def is_csv(file: Path | str) -> bool:
    """Do the columns arrive as text, their types to be found? Not for a table in memory (the word `table`)."""
    return isinstance(file, Path) and file_format(file) in (".csv", ".csv.gz")


def file_format(file: Path) -> str | None:
    """The entry of SUPPORTED that the file's name ends with, in any case; None for none."""
    return next((suffix for suffix in SUPPORTED if file.name.lower().endswith(suffix)), None)


def read_columns(file: Path, columns: Sequence[str]) -> pa.Table:
    """The named columns of one file, in that order; nothing else of the file is decoded.

    CSV columns come as strings, an empty field as "". A text file without a byte has no rows and no types.
    Raises DataError naming the file where it cannot be read or a column is missing or occurs twice.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; check the path")
    names_of, read = _READERS[(file_format(file) or ".csv").removesuffix(".gz")]
    try:
        if _is_blank(file):
            return pa.table({column: pa.array([], pa.string()) for column in columns})
        check_names(file, columns=columns, names=names_of(file, columns))
        table = read(file, columns)
    except UnicodeDecodeError as error:
        _broken(file, reason=f"it is not UTF-8 ({error.reason} at byte {error.start} of a column name)")
    except (pa.ArrowException, OSError, ValueError, zlib.error) as error:
        _broken(file, reason=str(error).splitlines()[0] if str(error) else type(error).__name__)
    return checked_texts(table, file=file)


def checked_texts(table: pa.Table, *, file: Path | str) -> pa.Table:
    """The same table, once its texts are known to be UTF-8: neither Parquet nor JSON readers look."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{file}: column '{name}' is damaged or not UTF-8 ({reason}); write its texts as UTF-8"
            ) from None
    return table


def _is_blank(file: Path) -> bool:
    """A text file without a byte (a gzip of nothing too); a Parquet file always has some."""
    if file_format(file) == ".parquet":
        return False
    with _open_text(file) as stream:
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


def _read_parquet(file: Path, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(file) as parquet:  # pq.read_table would add columns from a path such as day=1/
        return parquet.read(columns=list(columns)).select(list(columns))


# A quoted field may hold a line break, in a column that is not even read.
_PARSE = pacsv.ParseOptions(newlines_in_values=True)


def _is_gzip(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def _open_text(file: Path) -> pa.NativeFile:
    return pa.input_stream(str(file), compression="gzip" if _is_gzip(file) else None)


def _csv_names(file: Path, _: Sequence[str]) -> list[str]:
    with _open_text(file) as stream, pacsv.open_csv(stream, parse_options=_PARSE) as reader:
        names: list[str] = reader.schema.names
    return names


def _read_csv(file: Path, columns: Sequence[str]) -> pa.Table:
    options = pacsv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string())
    )
    with _open_text(file) as stream:
        return pacsv.read_csv(stream, parse_options=_PARSE, convert_options=options)


def _jsonl_names(file: Path, columns: Sequence[str]) -> list[str]:
    # A file of blank lines has no fields to be missing.
    return field_names(file, columns, is_gzip=_is_gzip(file)) or list(columns)


def _read_jsonl(file: Path, columns: Sequence[str]) -> pa.Table:
    return read_jsonl(file, columns, is_gzip=_is_gzip(file))


_Names = Callable[[Path, Sequence[str]], list[str]]
_Read = Callable[[Path, Sequence[str]], pa.Table]
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


def concat(
    parts: Sequence[tuple[Path | str, pa.Table]],
    *,
    files: Sequence[Path | str],
    id_names: Mapping[str, str],
    what: str,
) -> pa.Table:
    """All files' rows in order. id_names: our column to the caller's, for those whose types must agree.

    Raises DataError where there is no row at all, or ids are integers in one file and texts in another.
    """
    if not parts:
        names = ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")
        raise DataError(f"{what}: no rows in {len(files)} file(s): {names}; expected at least one row")
    first_file, first = parts[0]
    for file, table in parts[1:]:
        for column, name in id_names.items():
            expected, found = first.schema.field(column).type, table.schema.field(column).type
            if found != expected:
                raise DataError(
                    f"{what}: column '{name}' has {expected} ids in {first_file}, but {found} ids in {file}; "
                    "all files must agree: write the ids the same way everywhere"
                )
    return pa.concat_tables([table for _, table in parts])
