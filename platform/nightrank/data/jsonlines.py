"""JSON lines: one object a line, the named fields of each as an Arrow table.

JSON has types and they are kept: a text stays a text (never a date or a number by its looks), a whole number is
int64, other numbers are float64. A field's type is that of its first value, and only where the caller says so may
whole numbers turn to fractions; a line that is broken, is no object or holds another type is refused with its line
number, counted from 1. Fields that nobody named may hold anything.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pajson

from nightrank.data.ids import INT64
from nightrank.errors import DataError

_BLOCK_BYTES = 16 << 20  # a line may be as long as a block; pyarrow's own default is 1 MiB


class _Row(dict[str, Any]):
    """An object of JSON, and the fields that it has more than once."""

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        super().__init__(fields)
        names = [name for name, _ in fields]
        self.repeated = {name for name in names if names.count(name) > 1} if len(self) < len(names) else set()


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    _Row: "an object",
}


def stream_jsonl(
    file: Path, columns: Sequence[str], *, numbers: Collection[str], is_gzip: bool
) -> Iterator[pa.Table]:
    """The named fields in parts, null where a line lacks one; none where there are only blank lines.

    numbers: fields that may mix whole numbers and fractions; int64 becomes float64 with the first fraction. Raises
    DataError with the line, or what pyarrow raises.
    """
    found = _kinds(file, columns, is_gzip=is_gzip)
    types = {column: _type(found.get(column)) for column in columns}
    n_rows = 0
    try:
        for table in _read(file, types, is_gzip=is_gzip):
            n_rows += table.num_rows
            yield table
        return
    except pa.ArrowInvalid as error:
        if str(error).startswith("Empty JSON"):
            return
        refusal = error
    try:
        wider = _widened(file, types, numbers=numbers, is_gzip=is_gzip)
        if wider == types:
            raise refusal
        yield from _behind(n_rows, _read(file, wider, is_gzip=is_gzip))
    except pa.ArrowInvalid:
        _check_lines(file, columns, numbers=numbers, is_gzip=is_gzip)
        raise


def _behind(n_rows: int, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """What comes after the first n_rows."""
    for table in tables:
        if table.num_rows > n_rows:
            yield table.slice(n_rows)
        n_rows = max(n_rows - table.num_rows, 0)


def _widened(
    file: Path, types: dict[str, pa.DataType], *, numbers: Collection[str], is_gzip: bool
) -> dict[str, pa.DataType]:
    """float64 for the numbers that are not all whole, found by reading each by itself.

    Raises ArrowInvalid where one is no float64 either.
    """
    wider = dict(types)
    for name in (name for name, kind in types.items() if name in numbers and kind == pa.int64()):
        try:
            _read_through(file, name, pa.int64(), is_gzip=is_gzip)
        except pa.ArrowInvalid:
            _read_through(file, name, pa.float64(), is_gzip=is_gzip)
            wider[name] = pa.float64()
    return wider


def _read_through(file: Path, name: str, kind: pa.DataType, *, is_gzip: bool) -> None:
    for _ in _read(file, {name: kind}, is_gzip=is_gzip):
        pass


def field_names(file: Path, columns: Sequence[str], *, is_gzip: bool) -> list[str]:
    """The fields of the lines up to the one where each of `columns` has had a value; none in an empty file."""
    names: dict[str, None] = {}
    for _, row in _objects(file, is_gzip=is_gzip):
        names.update(dict.fromkeys(row))
        if all(column in names for column in columns):
            break
    return list(names)


def _read(file: Path, types: dict[str, pa.DataType], *, is_gzip: bool) -> Iterator[pa.Table]:
    parse = pajson.ParseOptions(
        explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
    )
    blocks = pajson.ReadOptions(block_size=_BLOCK_BYTES)
    n_rows = 0
    try:
        with (
            pa.input_stream(str(file), compression="gzip" if is_gzip else None) as stream,
            pajson.open_json(stream, parse_options=parse, read_options=blocks) as reader,
        ):
            for batch in reader:
                table = pa.Table.from_batches([batch]).select(list(types))
                table.validate(full=True)  # the reader takes any bytes for a text
                n_rows += len(table)
                yield table
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        raise DataError(
            f"{file}: row {n_rows} has more than {_BLOCK_BYTES:,} bytes; "
            "expected one JSON object a line: shorten that line, or take it out"
        ) from None


def _type(value: Any) -> pa.DataType:
    """The type to read a field as, by its first value."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, list):
        return pa.list_(pa.string())
    return pa.null() if value is None else pa.string()


def _kinds(file: Path, columns: Sequence[str], *, is_gzip: bool) -> dict[str, Any]:
    """The first value of each field that is not null."""
    found: dict[str, Any] = {}
    for _, row in _objects(file, is_gzip=is_gzip):
        found |= {name: row[name] for name in columns if name not in found and row.get(name) is not None}
        if len(found) == len(set(columns)):
            break
    return found


def _check_lines(file: Path, columns: Sequence[str], *, numbers: Collection[str], is_gzip: bool) -> None:
    """Find the line that the reader refused: a walk in Python, on the way to an error only."""
    first: dict[str, tuple[int, Any]] = {}
    for number, row in _objects(file, is_gzip=is_gzip):
        for name in columns:
            if name in row.repeated:
                raise DataError(
                    f"{file}: line {number} has the field '{name}' more than once; expected it once: take one out"
                )
            if row.get(name) is None:
                continue
            start = first.setdefault(name, (number, row[name]))
            problem = _wrong(row[name], number, start=start, may_mix=name in numbers)
            if problem is not None:
                raise DataError(f"{file}: column '{name}' holds {problem}")


def _wrong(value: Any, number: int, *, start: tuple[int, Any], may_mix: bool) -> str | None:
    """What is wrong with a field's value in line `number`, or None. start: line and value of the field's first.

    may_mix: whole numbers and fractions may stand side by side.
    """
    kind = _KINDS[type(value)]
    line, begin = start
    if kind == "a list" and not all(one is None or isinstance(one, str) for one in value):
        return (
            f"a list in line {number} whose parts are not all texts; "
            "expected a text, a number, or (categories) a list of texts"
        )
    if kind == "an object" or kind != _KINDS[type(begin)]:
        before = "" if kind == "an object" else f" and {_KINDS[type(begin)]} in line {line}"
        return (
            f"{kind} in line {number}{before}; a column has one type, "
            "texts or numbers: write it the same way in every line"
        )
    if may_mix or type(begin) is not int:
        return None
    if type(value) is float:
        return (
            f"the number {value} in line {number} and a whole number in line {line}; only weights, times and "
            "features may be fractions: write whole numbers without a point, or all values as texts"
        )
    if type(value) is int and value not in INT64:
        return (
            f"the number {value} in line {number}, beyond int64 (up to {2**63 - 1}); write values of that size as "
            "texts, in every line"
        )
    return None


def _objects(file: Path, *, is_gzip: bool) -> Iterator[tuple[int, _Row]]:
    """(line from 1, object) of every line that is not blank. Raises DataError on a broken one."""
    number = 0
    try:
        with gzip.open(file) if is_gzip else file.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield number, _object(raw.removeprefix(b"\xef\xbb\xbf"), file=file, number=number)
    except EOFError:
        raise DataError(
            f"{file}: cannot be read: the gzip file is truncated after line {number}; expected a complete "
            "gzip file of JSON lines: copy or export it again"
        ) from None


def _object(raw: bytes, *, file: Path, number: int) -> _Row:
    try:
        row = json.loads(raw.decode(), object_pairs_hook=_Row)
    except UnicodeDecodeError:
        reason = "is not UTF-8"
    except ValueError as error:
        reason = f"is no complete JSON ({str(error).split(':')[0]})"
    else:
        if isinstance(row, _Row):
            return row
        reason = f"is {_KINDS.get(type(row), 'null')}"
    raise DataError(
        f"{file}: line {number} {reason}; expected one JSON object a line, in UTF-8: correct the line, or take it out"
    )
