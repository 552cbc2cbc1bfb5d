"""Features as files hold them: the type of every column, the same from each format, and what is refused."""

from __future__ import annotations

import datetime
import decimal
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from eventfiles import csv, parquet
from nightrank.config.metadata import SideColumns
from nightrank.data import tables
from nightrank.data.attribute_types import MOST_WHOLE
from nightrank.data.attributes import MISSING_TEXTS, Attribute, Categories, Misfits, Numbers
from nightrank.data.metadata import MetadataTable, read_table
from nightrank.errors import DataError


def table(
    *files: Path, features: tuple[str, ...] = ("x",), kind: str = "int64", **named: str
) -> MetadataTable:
    return read_table(files, SideColumns("id", features, **named), what="users", kind=kind)


def column(*files: Path, **named: Any) -> Attribute:
    return table(*files, **named).attributes[0]


def rows_of(attribute: Attribute) -> list[Any]:
    """What each row has: a number or None, or the list of its categories."""
    if isinstance(attribute, Numbers):
        known = attribute.known.tolist()
        return [value if one else None for value, one in zip(attribute.values.tolist(), known, strict=True)]
    ends = attribute.ends.tolist()
    words = [attribute.values[code] for code in attribute.codes.tolist()]
    return [words[begin:end] for begin, end in pairwise(ends)]


def of(tmp_path: Path, values: Any, **named: Any) -> Attribute:
    """The column of a Parquet file with these values."""
    ids = list(range(len(values)))
    return column(parquet(tmp_path / "x.parquet", id=ids, x=values), **named)


TEXTS = ["b|a", "a", None, "", "  ", " c | |a|c ", "|"]
SPLIT = [["a", "b"], ["a"], [], [], [], ["a", "c"], []]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (TEXTS, SPLIT),
        (pa.array(TEXTS).dictionary_encode(), SPLIT),
        (pa.array(TEXTS, pa.large_string()), SPLIT),
        ([True, None, False], [["true"], [], ["false"]]),
        ([["b", "a", "b"], None, [], [" ", None], ["a|b"]], [["a", "b"], [], [], [], ["a|b"]]),
        (pa.array([["b"], ["a", None]], pa.large_list(pa.string())), [["b"], ["a"]]),
        (pa.array([["b", "a"], None], pa.list_(pa.string(), 2)), [["a", "b"], []]),
        (pa.array([["b"], ["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), [["b"], ["a"]]),
        ([[10, 9], [9, 9]], [["10", "9"], ["9"]]),
        ([None, None], [[], []]),
        (["007", "7"], [["007"], ["7"]]),
        (["é", "z", "\U0001f600", "\uffee"], [["é"], ["z"], ["\U0001f600"], ["\uffee"]]),
    ],
)
def test_texts_booleans_and_lists_are_categories(tmp_path: Path, values: Any, found: list[Any]) -> None:
    """Protects what a row is said to be: parts trimmed, empty ones gone, repeats once, lists never split."""
    attribute = of(tmp_path, values)
    assert isinstance(attribute, Categories)
    assert rows_of(attribute) == [sorted(row, key=str.encode) for row in found]
    assert list(attribute.values) == sorted({word for row in found for word in row}, key=str.encode)
    assert attribute.known.tolist() == [row != [] for row in found]


MANY = [*range(100), 2**53 + 1]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([*MANY, None], [*map(float, MANY), None]),
        ([*map(float, MANY), float("nan"), None], [*map(float, MANY), None, None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), [float(2**64), 0.0]),
        ([1.5, float("nan"), None, 2.0], [1.5, None, None, 2.0]),
        (pa.array([0.5, None], pa.float32()), [0.5, None]),
        ([decimal.Decimal("2.50"), None], [2.5, None]),
        ([float("nan"), None], [None, None]),
        (pa.nulls(2, pa.int64()), [None, None]),
        ([1e20, 1e30], [1e20, 1e30]),
        ([1] * 2000 + MANY, [1.0] * 2000 + [*map(float, MANY)]),
        ([1.0] * 2000 + [0.5], [1.0] * 2000 + [0.5]),
    ],
)
def test_numbers_that_measure(tmp_path: Path, values: Any, found: list[Any]) -> None:
    """Fractions, or whole numbers of which many are distinct; NaN is none, and beyond 53 bits nothing is whole."""
    attribute = of(tmp_path, values)
    assert isinstance(attribute, Numbers)
    assert attribute.values.dtype == np.float64
    assert rows_of(attribute) == found
    assert np.isfinite(attribute.values).all()


@pytest.mark.parametrize(
    "values",
    [
        [24, 9, None, -1, 24, 10],
        [24.0, 9.0, None, -1.0, 24.0, 10.0],
        [24.0, 9.0, float("nan"), -1.0, 24.0, 10.0],
        pa.array([24, 9, None, -1, 24, 10], pa.int8()),
        [None if one is None else decimal.Decimal(one) for one in (24, 9, None, -1, 24, 10)],
    ],
)
def test_whole_numbers_name_whatever_their_type(tmp_path: Path, values: Any) -> None:
    """One missing age makes floats of all (pandas): it does not change what the column is."""
    attribute = of(tmp_path, values)
    assert isinstance(attribute, Categories)
    assert attribute.values == ("-1", "10", "24", "9")
    assert rows_of(attribute) == [["24"], ["9"], [], ["-1"], ["24"], ["10"]]


@pytest.mark.parametrize("n", [MOST_WHOLE, MOST_WHOLE + 1])
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_whole_numbers_are_categories_while_they_are_few(tmp_path: Path, n: int, kind: pa.DataType) -> None:
    """In the order of texts, as every category, on either side of the limit."""
    attribute = of(tmp_path, pa.array([*range(n), *range(n)], kind))
    if n > MOST_WHOLE:
        assert isinstance(attribute, Numbers)
    else:
        assert isinstance(attribute, Categories)
        assert attribute.values == tuple(sorted(map(str, range(n))))
        assert rows_of(attribute) == [[str(one)] for one in (*range(n), *range(n))]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["1", "", "-20"], [["1"], [], ["-20"]]),
        (["1", " 24 ", "24.0"], [["1"], ["24"], ["24"]]),
        (["1.5", " 24 ", "24.0"], [1.5, 24.0, 24.0]),
        (["1e-3", ".5", "5.", "nan", "NAN"], [0.001, 0.5, 5.0, None, None]),
        (["99999999999999999999", "1"], [1e20, 1.0]),
        (["0.5", *MISSING_TEXTS], [0.5, *[None] * len(MISSING_TEXTS)]),
        (["True", *MISSING_TEXTS], [["true"], *[[]] * len(MISSING_TEXTS)]),
        (["007", "12"], [["007"], ["12"]]),
        (["+1", "2"], [["+1"], ["2"]]),
        (["1", "x"], [["1"], ["x"]]),
        (["nan", "x"], [[], ["x"]]),
        (["1|2", "3"], [["1", "2"], ["3"]]),
        (["True", "", "FALSE"], [["true"], [], ["false"]]),
        (["True", "yes"], [["True"], ["yes"]]),
        (["", " "], [[], []]),
    ],
)
def test_in_csv_a_column_of_numbers_is_one_of_numbers(tmp_path: Path, texts: list[str], found: Any) -> None:
    """Protects codes such as 007 and mixtures from being read as numbers, and numbers from being words."""
    assert rows_of(csv_column(tmp_path, texts)) == found


def csv_column(tmp_path: Path, texts: list[str]) -> Attribute:
    text = "id,x\n" + "".join(f"{place},{text}\n" for place, text in enumerate(texts))
    return column(csv(tmp_path / "x.csv", text))


def test_what_exports_write_for_a_missing_value_is_missing(tmp_path: Path) -> None:
    """In a text, in a part of one, in a list, and where the separator would split it; other spellings are words."""
    texts = [*MISSING_TEXTS, f" {MISSING_TEXTS[0]} ", "a|None", "none", "NA", "Nan", "-", "unknown"]
    found = [*[[]] * (len(MISSING_TEXTS) + 1), ["a"], *([text] for text in texts[-5:])]
    assert rows_of(of(tmp_path, texts)) == found
    assert rows_of(csv_column(tmp_path, texts)) == found
    lines = "\n".join(json.dumps({"id": place, "x": text}) for place, text in enumerate(texts))
    assert rows_of(column(csv(tmp_path / "x.jsonl", lines))) == found
    assert rows_of(of(tmp_path, [["a", "null"], ["NaN"]])) == [["a"], []]
    assert rows_of(of(tmp_path, ["N/A", "a/N"], separator="/")) == [[], ["N", "a"]]


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_texts_that_are_nearly_numbers_are_told(tmp_path: Path, end: str) -> None:
    """One slip makes hundreds of categories of a column of numbers: where it is, beside what is only missing."""
    texts = [f"{one}.5" for one in range(60)]
    texts[7], texts[30], texts[35] = "n/a", "12-345", "x"

    def misfits(texts: list[str]) -> Misfits | None:
        tables_ = [pa.table({"id": [100, 101], "x": ["1.5", ""]}), pa.table({"id": range(60), "x": texts})]
        files = [tmp_path / f"{place}.{end}" for place in range(2)]
        for file, plain in zip(files, tables_, strict=True):
            if end == "jsonl":
                csv(file, "\n".join(json.dumps(row) for row in plain.to_pylist()))
            else:
                (pq.write_table if end == "parquet" else pacsv.write_csv)(plain, file)
        attribute = column(*files)
        assert isinstance(attribute, Categories)
        return attribute.misfits

    assert misfits(texts) == Misfits(rows=2, known=60, first="12-345", file=tmp_path / f"1.{end}", row=30)
    texts[36] = "y"
    assert misfits(texts) == Misfits(rows=3, known=60, first="12-345", file=tmp_path / f"1.{end}", row=30)
    texts[37] = "z"
    assert misfits(texts) is None
    if end == "parquet":  # texts that are meant as such
        assert misfits(["1"] * 60) is None


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    """Protects a job from meaning something else when its tables are exported in another way."""
    rng = np.random.default_rng(0)
    n = 500
    words = np.array(["a", "b|a", "c | b", "", None, "d,e", 'say "f"'], dtype=object)
    whole = pa.array(rng.integers(-5, 90, n), mask=rng.random(n) < 0.2)
    plain = pa.table(
        {
            "id": rng.permutation(n),
            "words": pa.array(rng.choice(words, n), pa.string()),
            "whole": whole,
            "real": pa.array(np.round(rng.normal(size=n), 6), mask=rng.random(n) < 0.2),
            "flag": pa.array(rng.random(n) < 0.5, mask=rng.random(n) < 0.2),
            "none": pa.nulls(n),
        }
    )
    pq.write_table(plain, tmp_path / "t.parquet", row_group_size=100)
    pacsv.write_csv(plain, tmp_path / "t.csv")
    lines = [json.dumps(row) for row in plain.to_pylist()]
    csv(tmp_path / "t.jsonl.gz", "\n".join(lines))
    named = tuple(plain.column_names[1:])
    first, *others = (table(tmp_path / f"t.{end}", features=named) for end in ("parquet", "csv", "jsonl.gz"))
    assert first.ids.to_pylist() == plain["id"].to_pylist()
    for other in others:
        assert other.ids.to_pylist() == first.ids.to_pylist()
        assert [rows_of(one) for one in other.attributes] == [rows_of(one) for one in first.attributes]


def test_files_are_one_table(tmp_path: Path) -> None:
    """Protects tables in parts: one vocabulary, whole numbers that meet floats, a part without any value."""
    parts = [
        parquet(tmp_path / "1.parquet", id=[1, 2], x=["b", "a"], y=[1, 2]),
        parquet(tmp_path / "2.parquet", id=[3], x=pa.nulls(1), y=pa.nulls(1)),
        parquet(tmp_path / "3.parquet", id=[4], x=["c|b"], y=[0.5]),
    ]
    words, numbers = table(*parts, features=("x", "y")).attributes
    assert rows_of(words) == [["b"], ["a"], [], ["b", "c"]]
    assert rows_of(numbers) == [1.0, 2.0, None, 0.5]
    assert rows_of(column(*parts[1:2], features=("x",))) == [[]]
    lists = parquet(tmp_path / "4.parquet", id=[9], x=[["c"]])
    assert rows_of(column(parts[1], lists)) == [[], ["c"]]


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_parts_of_a_file_are_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Protects files of more rows than are read at a time: codes agree, and a refusal names the row of the file."""
    rng = np.random.default_rng(1)
    n = 100
    plain = pa.table(
        {
            "id": np.arange(n),
            "words": [f"w{one}|v" for one in rng.integers(0, 30, n)],
            "late": [0.0] * 90 + [np.inf, 1.0, np.inf] + [2.0] * 7,
        }
    )
    write = pq.write_table if end == "parquet" else pacsv.write_csv
    file = tmp_path / f"t.{end}"
    write(plain, file)
    whole = column(file, features=("words",))
    monkeypatch.setattr(tables, "BATCH_ROWS", 7)
    assert rows_of(column(file, features=("words",))) == rows_of(whole)
    before = tmp_path / f"0.{end}"
    write(pa.table({"id": [n, n + 1], "late": [1.5, 2.5]}), before)
    with pytest.raises(
        DataError, match=rf"t\.{end}: column 'late' has the number inf in row 90 \(2 such rows\)"
    ):
        table(before, file, features=("late",))


def test_in_json_lines_fractions_may_begin_late(tmp_path: Path) -> None:
    """A price of 3 in the first line is no promise that all are whole."""
    file = csv(tmp_path / "x.jsonl", '{"id": 1, "x": 3}\n{"id": 2, "x": 2.5}\n{"id": 3}\n')
    assert rows_of(column(file)) == [3.0, 2.5, None]


def test_another_separator(tmp_path: Path) -> None:
    """What splits is what the job says, as it stands."""
    assert rows_of(of(tmp_path, ["a.b", "a|b"], separator=".")) == [["a", "b"], ["a|b"]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([datetime.date(2020, 1, 1)], "has type date32[day], which is no feature; first in row 0; features are"),
        ([{"a": 1}], "write each field as a column of its own"),
        ([[0.5, 1.5]], "write each number as a column of its own"),
        ([[["a"]]], "which is no feature; first in row 0; features are texts, booleans, numbers, or lists"),
        ([[True]], "write a list of texts"),
        ([datetime.time(3)], "such as the year or the hour"),
        ([b"a"], "write it as text"),
        ([1.0, float("inf")], "has the number inf in row 1 (1 such rows); features are finite"),
        ([1e39, 1.0, -1e300], "has the number 1e+39 in row 0 (2 such rows); features are finite"),
    ],
)  # fmt: skip
def test_what_is_no_feature_is_refused_by_name(tmp_path: Path, values: Any, said: str) -> None:
    """Protects a night from a column that cannot be meant: file, column, row and cure are named."""
    with pytest.raises(DataError) as refused:
        of(tmp_path, values)
    assert str(refused.value).startswith(f"{tmp_path / 'x.parquet'}: column 'x' ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,1\n2,-inf\n3,Infinity\n", "has the number -inf in row 1 (2 such rows)"),
        ('1,a\n2,"b\nc"\n', "has a line break in row 1 (1 such rows)"),
    ],
)
def test_what_csv_cannot_hold_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """An infinite number is no word, and a quote that swallowed a row no category; rows count in their own file."""
    before = csv(tmp_path / "0.csv", "id,x\n7,1\n8,\n")
    broken = csv(tmp_path / "1.csv", "id,x\n" + text)
    with pytest.raises(DataError) as refused:
        table(before, broken)
    assert str(refused.value).startswith(f"{broken}: column 'x' {said}; ")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1, 2, 1], "users: the id 1 occurs 2 times in column 'id' of"),
        ([1.0, 2.0], "holds ids of type double"),
        ([1, None], "has no value in row 1"),
        (["a", "b"], "has string ids, the events have int64; write both the same way"),
        ([], "users: no rows in 1 file(s)"),
    ],
)
def test_ids_are_those_of_the_events_and_each_once(tmp_path: Path, ids: list[Any], said: str) -> None:
    """Two rows of one user would be two truths; ids of another type would meet nobody."""
    file = parquet(tmp_path / "u.parquet", id=ids, x=pa.array(["w"] * len(ids), pa.string()))
    with pytest.raises(DataError) as refused:
        table(file)
    assert said in str(refused.value)


def test_an_id_may_not_stand_in_two_files(tmp_path: Path) -> None:
    """Also across the parts of a table."""
    files = [parquet(tmp_path / f"{n}.parquet", id=["a", str(n)], x=[1, 2]) for n in range(2)]
    with pytest.raises(DataError, match=r"the id 'a' occurs 2 times .* each user stands in one row"):
        table(*files, kind="string")


def test_a_column_has_one_type_in_all_files(tmp_path: Path) -> None:
    """Words here and numbers there would be two columns of one name."""
    one = parquet(tmp_path / "1.parquet", id=[1], x=["a"])
    other = parquet(tmp_path / "2.parquet", id=[2], x=[1])
    with pytest.raises(
        DataError, match=r"2\.parquet: column 'x' holds whole numbers, but texts in .*1\.parquet"
    ):
        table(one, other)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A slip in the job file is told with the nearest name."""
    file = parquet(tmp_path / "u.parquet", id=[1], xx=["a"])
    with pytest.raises(DataError, match=r"there is no column 'x'; the nearest is 'xx'"):
        table(file)
