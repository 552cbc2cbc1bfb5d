"""Events and items that are read from files: formats, ids, weights, times, types, decay, categories."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import csv, decoded, events, parquet, read
from nightrank.data.events import event_files, read_events
from nightrank.data.interactions import from_events
from nightrank.data.items import read_items
from nightrank.data.weighing import decay, weighted

NAMES: dict[str, Any] = {"user": "u", "item": "i", "weight": "w", "time": "t", "type": "e"}


# Files


def test_event_files_of_file_folder_and_glob(tmp_path: Path) -> None:
    """Protects the three ways to name events, their order, and that hidden and _ files are no data."""
    b, a = csv(tmp_path / "b.csv", "u,i\n"), csv(tmp_path / "a.CSV", "u,i\n")
    for name in ("_SUCCESS", ".a.csv.crc"):
        (tmp_path / name).touch()
    assert event_files(str(b)) == [b]
    assert event_files(tmp_path) == [a, b]
    assert event_files(str(tmp_path / "*")) == [a, b]
    assert event_files(f"{tmp_path}/[b]*.csv") == [b]


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
def test_csv_under_canonical_names(tmp_path: Path, name: str) -> None:
    """Protects the meaning of mapped columns, and that a line break in an unread column costs no row."""
    text = 'x,e,t,w,i,u\n"a\nb",View,100,1.5,p1,7\n,Buy, 200 ,2,p2,-3\n'
    table = decoded(read_events([csv(tmp_path / name, "\ufeff" + text)], **NAMES))
    assert {field.name: str(field.type) for field in table.schema} == {
        "user": "int64", "item": "string", "weight": "double", "time": "int64", "type": "string",
    }  # fmt: skip
    assert table.to_pylist() == [
        {"user": 7, "item": "p1", "weight": 1.5, "time": 100, "type": "View"},
        {"user": -3, "item": "p2", "weight": 2.0, "time": 200, "type": "Buy"},
    ]


def test_parquet_reads_only_mapped_columns(tmp_path: Path) -> None:
    """Protects column projection, the weight of 1 without a column, and no columns made from the path."""
    folder = tmp_path / "u=5"
    folder.mkdir()
    file = parquet(folder / "e.parquet", u=pa.array([2, 1], pa.int32()), i=["a", "b"], other=[None, None])
    table = read(file)
    assert table.to_pydict() == {"user": [2, 1], "item": ["a", "b"], "weight": [1.0, 1.0]}


def test_one_column_may_serve_twice(tmp_path: Path) -> None:
    """Protects a mapping that names one column for two roles, such as a session that is user and type."""
    file = csv(tmp_path / "e.csv", "u,i\n1,2\n")
    assert read(file, type="u").to_pylist() == [{"user": 1, "item": 2, "weight": 1.0, "type": "1"}]


# Ids


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "0", "-5", str(2**63 - 1)], [1, 0, -5, 2**63 - 1]),
        (["007", "8"], ["007", "8"]),
        (["-0", "1"], ["-0", "1"]),
        (["+1", "2"], ["+1", "2"]),
        (["1.0", "2"], ["1.0", "2"]),
        ([str(2**63), "1"], [str(2**63), "1"]),
        (["NA", "null"], ["NA", "null"]),
        (["ü", "x y"], ["ü", "x y"]),
    ],
)
def test_csv_ids_are_kept_as_written(tmp_path: Path, ids: list[str], expected: list[object]) -> None:
    """Protects ids such as 007: a column is int64 only where nothing would be lost in it."""
    file = csv(tmp_path / "e.csv", "u,i\n" + "".join(f"{value},1\n" for value in ids))
    assert read(file)["user"].to_pylist() == expected


def test_leading_zero_far_behind_the_first_block_keeps_the_column_text(tmp_path: Path) -> None:
    """Protects against type guessing from the first rows: 200,000 plain numbers, then one 007."""
    file = csv(tmp_path / "e.csv", "u,i\n" + "".join(f"{n},1\n" for n in range(200_000)) + "007,1\n")
    users = read(file)["user"]
    assert users.type == pa.string()
    assert users[200_000].as_py() == "007"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, 255], pa.uint8()), pa.int64()),
        (pa.array([1, 2**63 - 1], pa.uint64()), pa.int64()),
        (pa.array(["a", "007"], pa.large_string()), pa.string()),
        (pa.array(["7", "8"]).dictionary_encode(), pa.string()),
        (pa.array([7, 8], pa.int16()).dictionary_encode(), pa.int64()),
    ],
)
def test_parquet_ids_widen_to_int64_or_string(tmp_path: Path, array: pa.Array, expected: pa.DataType) -> None:
    """Protects the two id types that everything behind the reader knows, and their values."""
    users = read(parquet(tmp_path / "e.parquet", u=array, i=[1, 2]))["user"]
    assert users.type == expected
    assert users.to_pylist() == array.to_pylist()


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    """Protects rows of all parts, each once."""
    files = [parquet(tmp_path / f"{n}.parquet", u=[n, n], i=["a", "b"]) for n in (3, 1, 2)]
    assert read(*files)["user"].to_pylist() == [3, 3, 1, 1, 2, 2]


# Weights


@pytest.mark.parametrize("kind", [pa.int8(), pa.float32(), pa.decimal128(21, 1)])
def test_weights_become_float64(tmp_path: Path, kind: pa.DataType) -> None:
    """Protects numbers of any width, and zero as a weight."""
    weights = pa.array([0, 5]).cast(kind, safe=False)
    table = read(parquet(tmp_path / "e.parquet", u=[1, 1], i=[1, 2], w=weights), weight="w")
    assert table["weight"].type == pa.float64()
    assert table["weight"].to_pylist() == [0.0, 5.0]


# Times


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([0, 1_700_000_000], pa.int32()), [0, 1_700_000_000]),
        (pa.array([0.9, -0.1]), [0, -1]),
        (pa.array([1_500, -1], pa.timestamp("ms")), [1, -1]),
        (pa.array([2_000_000_000, 0], pa.timestamp("ns", "Europe/Berlin")), [2, 0]),
        (pa.array([datetime.date(1970, 1, 2)] * 2), [86_400, 86_400]),
    ],
)
def test_parquet_times_are_seconds_utc(tmp_path: Path, array: pa.Array, expected: list[int]) -> None:
    """Protects the one unit of time behind the reader; fractions go down, also before 1970."""
    table = read(parquet(tmp_path / "e.parquet", u=[1, 1], i=[1, 2], t=array), time="t")
    assert table["time"].type == pa.int64()
    assert table["time"].to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1743206407", 1_743_206_407),
        ("1743206407.75", 1_743_206_407),
        ("1.743206407e9", 1_743_206_407),
        ("1970-01-02 00:00:01", 86_401),
        ("1970-01-02T02:00:00+02:00", 86_400),
        ("1970-01-02T00:00:00.5Z", 86_400),
    ],
)
def test_csv_times_are_seconds_utc(tmp_path: Path, text: str, expected: int) -> None:
    """Protects numbers and ISO 8601 with and without a zone in CSV."""
    table = read(csv(tmp_path / "e.csv", f"u,i,t\n1,1,{text}\n"), time="t")
    assert table["time"].to_pylist() == [expected]


# Types and weighting


def test_events_count_weight_times_type_weight_times_decay() -> None:
    """Protects the rule of the contract, by hand: ages 2, 1 and 0 half-lives of one day."""
    table = events(time=[0, 86_400, 172_800], type=["a", "b", "a"])
    typed = weighted(table, type_weights={"a": 3, "b": 0.5})
    found = from_events(typed, combine="sum", half_life_days=1)
    assert found.user_items.data.tolist() == [1 * 3 / 4, 2 * 0.5 / 2, 4 * 3.0]
    result = decoded(typed)
    assert result["weight"].to_pylist() == [1 * 3.0, 2 * 0.5, 4 * 3.0]
    assert result.drop_columns("weight").equals(decoded(table).drop_columns("weight"))


def test_weighted_without_settings_changes_nothing() -> None:
    """Protects plain ratings: no types, the same table."""
    result = decoded(weighted(events(), type_weights=None))
    assert result.equals(decoded(events()))


def test_type_weight_of_zero_keeps_the_row() -> None:
    """Protects counts: a type that says nothing has weight 0, it does not go away."""
    result = weighted(events(type=["a", "b", "a"]), type_weights={"a": 0, "b": 1})
    assert decoded(result)["weight"].to_pylist() == [0.0, 2.0, 0.0]


def test_decay_counts_back_from_latest_and_never_raises_a_weight() -> None:
    """Protects the events of a dropped pair, newer than the latest that is left, from growing beyond their weight."""
    times = np.array([0, 86_400, 864_000])
    assert decay(times, latest=86_400, half_life_days=1).tolist() == [0.5, 1.0, 1.0]


# Items


def test_items_with_titles_and_categories(tmp_path: Path) -> None:
    """Protects splitting: spaces and empty parts go, an item without categories has an empty list."""
    file = csv(tmp_path / "i.csv", 'id,name,cats\n1,"A, B","x|y z"\n2,,\n3,C, w || v |\n')
    items = read_items(file, item="id", title="name", categories="cats", separator="|")
    assert items["categories"].type == pa.list_(pa.string())
    assert items.to_pylist() == [
        {"item": 1, "title": "A, B", "categories": ["x", "y z"]},
        {"item": 2, "title": "", "categories": []},
        {"item": 3, "title": "C", "categories": ["w", "v"]},
    ]


def test_items_of_a_folder_with_nulls_and_lists(tmp_path: Path) -> None:
    """Protects Parquet items in parts, null titles, and categories that already are lists."""
    kind = pa.list_(pa.string())
    parquet(tmp_path / "1.parquet", id=["a", "b"], name=["A", None], cats=pa.array([["x", None], None], kind))
    parquet(
        tmp_path / "2.parquet", id=["c"], name=pa.array([None], pa.string()), cats=pa.array([["y|z"]], kind)
    )
    items = read_items(tmp_path, item="id", title="name", categories="cats", separator="|")
    assert items["categories"].to_pylist() == [["x"], [], ["y|z"]]
    assert items["title"].to_pylist() == ["A", None, None]
    bare = read_items(tmp_path, item="id", title=None, categories=None, separator="|")
    assert bare.column_names == ["item"]


def test_categories_may_all_be_null(tmp_path: Path) -> None:
    """Protects items whose category column was never filled."""
    file = parquet(tmp_path / "i.parquet", id=[1, 2], cats=pa.array([None, None]))
    items = read_items(file, item="id", title=None, categories="cats", separator="|")
    assert items["categories"].to_pylist() == [[], []]


def test_random_table_survives_both_formats(tmp_path: Path) -> None:
    """Protects every value on its way through Parquet and CSV: both give the table that was written."""
    rng = np.random.default_rng(0)
    n = 5_000
    columns = {
        "u": rng.integers(-(2**62), 2**62, n),
        "i": [f"item {value}" for value in rng.integers(0, 99, n)],
        "w": rng.random(n),
        "t": rng.integers(0, 2 * 10**9, n),
        "e": rng.choice(["View", "Buy"], n),
    }
    written = pa.table(columns)
    lines = (
        ",".join(map(repr, row)).replace("'", '"') for row in zip(*written.to_pydict().values(), strict=True)
    )
    text = csv(tmp_path / "e.csv.gz", "u,i,w,t,e\n" + "\n".join(lines) + "\n")
    binary = parquet(tmp_path / "e.parquet", **columns)
    expected = written.rename_columns(["user", "item", "weight", "time", "type"])
    assert decoded(read_events([text], **NAMES)).equals(expected)
    assert decoded(read_events([binary], **NAMES)).equals(expected)
