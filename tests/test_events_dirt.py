"""Events and items that are refused: the message names the file, the column and the row, and what to do."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from eventfiles import csv, events, parquet, read
from nightrank.data.events import event_files
from nightrank.data.interactions import from_events
from nightrank.data.items import read_items
from nightrank.data.weighing import weighted
from nightrank.errors import DataError

# Files


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        ([], "", "the folder holds no files"),
        (["_SUCCESS"], "", r"\.parquet, \.csv, \.csv\.gz"),
        ([], "none-*.csv", r"found nothing at .*none-\*\.csv"),
        (["e.json"], "e.json", r"e\.json' has a format that is not supported"),
        (["e.csv", "README.txt"], "", r"README\.txt' has a format"),
        (["e.csv", "e.parquet"], "", r"e\.csv' and .*e\.parquet' have different formats"),
        (["e.csv", "e.csv.gz"], "*", "have different formats"),
        (["e.csv", "2026/more.csv"], "", r"holds the folder '2026'.*glob"),
        (["part.parquet/0.parquet"], "*.parquet", r"subfolders are not read.*part\.parquet/\*\.parquet"),
    ],
)
def test_event_files_refuses_by_name(tmp_path: Path, names: list[str], path: str, message: str) -> None:
    """Protects against reading nothing, half of a folder, or the same events twice, in silence."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        event_files(f"{tmp_path}/{path}" if path else tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.parquet", b"no parquet at all", r"e\.parquet: cannot be read: .*complete Parquet"),
        ("e.csv.gz", gzip.compress(b"u,i\n" + os.urandom(64).hex().encode() + b",1\n")[:-12], "Truncated"),
        ("e.csv.gz", b"u,i\n1,2\n", r"e\.csv\.gz: cannot be read.*gzip"),
        ("e.csv", b"u,i\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("e.csv", b"", "no rows in 1 file"),
        ("e.csv", "u,i\nä,1\n".encode("latin-1"), "invalid UTF8"),
        ("e.csv", "u,i,ä\n1,1,1\n".encode("latin-1"), "not UTF-8"),
        ("e.csv", "u,i\n1,1\n".encode("utf-16"), r"e\.csv: "),
        ("e.csv", b"u;i\n1;1\n", "no column 'u'.*the file has 'u;i'"),
        ("e.csv", b"u,i,u\n1,1,1\n", "column 'u' occurs 2 times"),
        ("e.csv", b"U,item\n1,1\n", "no column 'u'; the nearest is 'U'; the file has 'U', 'item'"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Protects against tracebacks from a library, or wrong rows, where a file is not what it claims."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(file)
    assert name in str(caught.value)


def test_missing_file_is_a_data_error(tmp_path: Path) -> None:
    """Protects the message where a file goes away between listing and reading."""
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "gone.csv")


def test_no_rows_at_all_is_refused_but_one_empty_file_is_not(tmp_path: Path) -> None:
    """Protects against training on nothing; an empty part among others is ordinary and has no id type."""
    empty, full = csv(tmp_path / "0.csv", "u,i\n"), csv(tmp_path / "1.csv", "u,i\n1,a\n")
    assert read(empty, full).num_rows == 1
    with pytest.raises(DataError, match=r"no rows in 1 file\(s\): .*0\.csv"):
        read(empty)


# Ids


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1.0, 2.0]), "'u' holds ids of type double; first in row 0; .*pandas"),
        (pa.array([True, False]), "ids of type bool"),
        (pa.array([0, 1], pa.timestamp("s")), "ids of type timestamp"),
        (pa.array([b"a", b"b"]), "ids of type binary"),
        (pa.array([1, 2**63], pa.uint64()), "'u' has the id 9223372036854775808 in row 1, beyond int64"),
        (pa.array(["a", None]), r"'u' has no value in row 1 \(1 such rows\)"),
        (pa.array([None, None]), "'u' has no value in row 0"),
        (pa.array(["a", None]).dictionary_encode(), "'u' has no value in row 1"),
        (pa.array(["a", ""]), "'u' has an empty id in row 1"),
    ],
)
def test_other_ids_are_refused(tmp_path: Path, array: pa.Array, message: str) -> None:
    """Protects against float, missing and empty ids becoming users of their own."""
    file = parquet(tmp_path / "e.parquet", u=array, i=[1, 2])
    with pytest.raises(DataError, match=message) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_empty_csv_id_names_its_row(tmp_path: Path) -> None:
    """Protects the row number: data rows count from 0, the header does not."""
    with pytest.raises(DataError, match="'i' has an empty id in row 1"):
        read(csv(tmp_path / "e.csv", "u,i\n1,2\n2,\n"))


def test_files_must_agree_on_the_id_type(tmp_path: Path) -> None:
    """Protects against 7 and "7" becoming two users: both files and both types are named."""
    first, second = csv(tmp_path / "1.csv", "u,i\n1,1\n"), csv(tmp_path / "2.csv", "u,i\nx1,1\n")
    with pytest.raises(DataError, match=r"'u' has int64 ids in .*1\.csv, but string ids in .*2\.csv"):
        read(first, second)


# Weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nan", r"the weight nan in row 1 \(1 such rows\)"),
        ("inf", "the weight inf in row 1"),
        ("-0.5", "the weight -0.5 in row 1"),
        ("", "'w' has '' in row 1, which is no number"),
        ("four", "'w' has 'four' in row 1"),
    ],
)
def test_unusable_csv_weights(tmp_path: Path, text: str, message: str) -> None:
    """Protects sums of weights from NaN, infinity, negatives and gaps."""
    file = csv(tmp_path / "e.csv", f"u,i,w\n1,1,0\n1,2,{text}\n1,3,2\n")
    with pytest.raises(DataError, match=message) as caught:
        read(file, weight="w")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1.0, None]), "'w' has no value in row 1"),
        (pa.array([1.0, float("nan")]), "the weight nan in row 1"),
        (pa.array([-1, 1]), r"the weight -1 in row 0 \(1 such rows\)"),
        (pa.array(["1", "2"]), "weights of type string"),
        (pa.array([True, False]), "weights of type bool"),
    ],
)
def test_unusable_parquet_weights(tmp_path: Path, array: pa.Array, message: str) -> None:
    """Protects the same in typed files."""
    with pytest.raises(DataError, match=message):
        read(parquet(tmp_path / "e.parquet", u=[1, 1], i=[1, 2], w=array), weight="w")


def test_the_row_is_found_behind_many_good_ones(tmp_path: Path) -> None:
    """Protects the search for the first bad row across blocks."""
    rows = ["1,1,1\n"] * 300_000
    rows[250_001] = rows[299_999] = "1,1,x\n"
    with pytest.raises(DataError, match="in row 250001,"):
        read(csv(tmp_path / "e.csv", "u,i,w\n" + "".join(rows)), weight="w")


# Times


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1743206407000", "the time 1743206407000 in row 1 .*milliseconds, and 5 in row 0.*seconds"),
        ("1743206407000000", "the time 1743206407000000 in row 1 .*nanoseconds.*1,000"),
        ("nan", "the time nan in row 1"),
        ("", "'t' has '' in row 1, which is no time"),
        ("soon", "'t' has 'soon' in row 1"),
        ("2026-01-31 10:00:00", "'2026-01-31 10:00:00' in row 1, .*the same form"),
    ],
)
def test_unusable_csv_times(tmp_path: Path, text: str, message: str) -> None:
    """Protects decay and temporal splits from milliseconds, gaps and mixed forms."""
    with pytest.raises(DataError, match=message):
        read(csv(tmp_path / "e.csv", f"u,i,t\n1,1,5\n1,2,{text}\n1,3,9\n"), time="t")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([5, None]), "'t' has no value in row 1"),
        (pa.array([5, 10**12]), "the time 1000000000000 in row 1"),
        (pa.array([float("nan"), 1.0]), "the time nan in row 0"),
        (pa.array([5, 10**15]), "the time 1000000000000000 in row 1"),
        (pa.array(["5", "6"]), "'t' has '5' in row 0, which is no time"),
        (pa.array([True, False]), "times of type bool"),
    ],
)
def test_unusable_parquet_times(tmp_path: Path, array: pa.Array, message: str) -> None:
    """Protects the same in typed files."""
    with pytest.raises(DataError, match=message):
        read(parquet(tmp_path / "e.parquet", u=[1, 1], i=[1, 2], t=array), time="t")


# Types and weighting


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array(["View", None]), "'e' has no value in row 1"),
        (pa.array(["View", ""]), "'e' has an empty event type in row 1"),
        (pa.array([1.0, 2.0]), "'e' has type double"),
    ],
)
def test_unusable_types(tmp_path: Path, array: pa.Array, message: str) -> None:
    """Protects type weights from rows without a type."""
    with pytest.raises(DataError, match=message):
        read(parquet(tmp_path / "e.parquet", u=[1, 1], i=[1, 2], e=array), type="e")


def test_unknown_type_names_type_count_and_known_ones() -> None:
    """Protects against events that silently count nothing."""
    with pytest.raises(DataError, match=r"'Vew' \(2 events\); it knows 'View', 'Buy'; did you mean 'View'\?"):
        weighted(events(type=["Vew", "Buy", "Vew"]), type_weights={"View": 1, "Buy": 2})


def test_settings_without_their_column_are_refused() -> None:
    """Protects against a setting that does nothing."""
    with pytest.raises(DataError, match=r"events\.columns\.type"):
        weighted(events(), type_weights={"a": 1.0})
    with pytest.raises(DataError, match=r"events\.columns\.time"):
        from_events(events(), combine="sum", half_life_days=7.0)


# Items


def test_item_twice_is_refused(tmp_path: Path) -> None:
    """Protects the one row per item, also across files."""
    for name in ("1.csv", "2.csv"):
        csv(tmp_path / name, f"id\nx\ny{name[0]}\n")
    with pytest.raises(DataError, match=r"the id 'x' occurs 2 times in column 'id'"):
        read_items(tmp_path, item="id", title=None, categories=None, separator="|")


def test_items_without_rows_are_refused(tmp_path: Path) -> None:
    """Protects against an empty catalogue."""
    with pytest.raises(DataError, match="items: no rows"):
        read_items(csv(tmp_path / "i.csv", "id\n"), item="id", title=None, categories=None, separator="|")
