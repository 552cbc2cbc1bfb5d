"""JSON lines, tables in memory and units of time: the same events whatever they come in."""

from __future__ import annotations

import datetime
import gzip
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eventfiles import PLAIN, decoded
from nightrank.data import jsonlines
from nightrank.data.events import event_files, read_events, table_events
from nightrank.data.interactions import Interactions
from nightrank.data.items import read_items
from nightrank.errors import DataError, SettingsError

COLUMNS = {"user": "u", "item": "i", "weight": "w", "time": "t"}
TIMED = PLAIN | {"time": "t"}


def jsonl(path: Path, *rows: Any) -> Path:
    """Rows as JSON, texts and bytes as they are."""
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
        for row in rows
    ]
    raw = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


# JSON lines


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz"])
def test_json_lines_keep_their_types(tmp_path: Path, name: str) -> None:
    """Protects texts from their looks (a date, a number) and other fields from being read at all."""
    file = jsonl(
        tmp_path / name,
        {"u": "2020-01-01", "i": 7, "w": 1, "t": "2020-01-01T00:00:00Z", "x": [1, {"y": 2}]},
        "",
        {"u": "007", "i": -3, "w": 2.5, "t": "2020-01-02T00:00:00+01:00", "x": "text"},
    )
    table = decoded(read_events([file], **PLAIN | {"weight": "w", "time": "t"}))
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "int64"]
    assert table.to_pylist() == [
        {"user": "2020-01-01", "item": 7, "weight": 1.0, "time": 1577836800},
        {"user": "007", "item": -3, "weight": 2.5, "time": 1577919600},
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"u": 1, "i": 1}, '{"u": 1, "i"'], "line 2 is no complete JSON"),
        ([{"u": 1, "i": 1}, '{"u": 1, "i": 2} x'], "line 2 is no complete JSON"),
        ([{"u": 1, "i": 1}, [1, 2]], "line 2 is a list; expected one JSON object"),
        ([{"u": 1, "i": 1}, "null"], "'u' has no value in row 1"),
        ([{"u": "ok", "i": 1}, b'{"u": "\xe4", "i": 1}'], "line 2 is not UTF-8"),
        ([{"u": 1, "i": 1}, '{"u": 2, "u": 3, "i": 1}'], "line 2 has the field 'u' more than once"),
        ([b'{"u": "\xe4", "i": 1}'], "line 1 is not UTF-8"),
        ([{"u": 1, "i": 1}, "", {"u": "1", "i": 1}], "'u' holds a text in line 3 and a number in line 1"),
        ([{"u": {"id": 1}, "i": 1}], "'u' holds an object in line 1"),
        ([{"u": 1, "i": 1}, {"u": [2], "i": 1}], "'u' holds a list in line 2 whose parts"),
        ([{"u": [2], "i": 1}], "'u' holds a list in line 1 whose parts"),
        ([{"u": ["a"], "i": 1}], "'u' holds ids of type list"),
        ([{"u": True, "i": 1}], "'u' holds ids of type bool"),
        ([{"u": 1.5, "i": 1}], "'u' holds ids of type double"),
        (
            [{"u": 1, "i": 1}, {"u": 1.5, "i": 1}],
            "'u' holds the number 1.5 in line 2 and a whole number in line 1",
        ),
        ([{"u": 1, "i": 1}, {"u": 2**64, "i": 1}], f"'u' holds the number {2**64} in line 2, beyond int64"),
        ([{"u": -(2**63) - 1, "i": 1}], f"'u' holds the number -{2**63 + 1} in line 1, beyond int64"),
        ([{"u": 1, "i": 1}, {"u": None, "i": 1}, {"i": 1}], r"'u' has no value in row 1 \(2 such rows\)"),
        ([{"user": 1, "i": 1}], "no column 'u'; the nearest is 'user'"),
        (["[{}"], "line 1 is no complete JSON"),
    ],
)
def test_broken_json_lines_name_the_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    """Protects against half-read files and values that change their type on the way."""
    file = jsonl(tmp_path / "e.jsonl", *rows)
    with pytest.raises(DataError, match=message) as caught:
        read_events([file], **PLAIN)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("block", [120, 16 << 20])
@pytest.mark.parametrize(
    ("late", "message"),
    [
        ({"u": "x"}, "'u' holds a text in line 35 and a number in line 1"),
        ({"u": 2**64}, f"'u' holds the number {2**64} in line 35, beyond int64"),
        (
            {"i": 7.5},
            "'i' holds the number 7.5 in line 35 and a whole number in line 1; only weights, times",
        ),
        (
            {"e": 7.0},
            "'e' holds the number 7.0 in line 35 and a whole number in line 1; only weights, times",
        ),
        ({"w": "x"}, "'w' holds a text in line 35 and a number in line 1"),
        ({"w": "x", "t": 0.5}, "'w' holds a text in line 35 and a number in line 1"),
        ({"x": "y" * 400}, "row 34 has more than 120 bytes"),
    ],
)
@pytest.mark.parametrize("fraction", [1, 1.5])
def test_a_fault_far_behind_is_named_for_what_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: dict[str, Any],
    message: str,
    block: int,
    fraction: float,
) -> None:
    """Protects the message: ids never turn to floats, and no part of the file is read as what it is not."""
    monkeypatch.setattr(jsonlines, "_BLOCK_BYTES", block)
    rows: list[dict[str, Any]] = [{"u": n, "i": n, "w": 1, "t": n, "e": 5} for n in range(40)]
    rows[30]["w"] = fraction
    rows[34] |= late
    file = jsonl(tmp_path / "e.jsonl", *rows)
    if "x" in late and block > 120:
        assert len(read_events([file], **TIMED | {"weight": "w", "type": "e"})) == 40
        return
    with pytest.raises(DataError, match=message):
        read_events([file], **TIMED | {"weight": "w", "type": "e"})


def test_a_truncated_gzip_of_json_lines_is_refused(tmp_path: Path) -> None:
    """Protects against the events of half a download, also where the first lines are whole."""
    rng = np.random.default_rng(0)
    rows = [{"u": int(u), "i": int(i)} for u, i in rng.integers(0, 10**9, (5_000, 2))]
    file = jsonl(tmp_path / "e.jsonl.gz", *rows)
    whole = file.read_bytes()
    for end in (12, len(whole) // 2, len(whole) - 6):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"e\.jsonl\.gz: .*([Tt]runcated|complete gzip)"):
            read_events([file], **PLAIN)


def test_a_folder_of_json_lines_with_an_empty_part(tmp_path: Path) -> None:
    """Protects parts: read in order, those without a row skipped and counted."""
    (tmp_path / "0.jsonl").touch()
    jsonl(tmp_path / "1.jsonl", "")
    jsonl(tmp_path / "2.jsonl", {"u": 1, "i": "a"})
    events = read_events(event_files(tmp_path), **PLAIN)
    assert len(events) == 1
    assert (events.counts.files, events.counts.empty_files, events.counts.rows) == (3, 2, 1)


def test_items_from_json_lines(tmp_path: Path) -> None:
    """Protects titles and categories, as lists or as text, from a catalogue in JSON lines."""
    listed = jsonl(tmp_path / "a.jsonl", {"id": 1, "t": "A", "c": ["x", "y"]}, {"id": 2, "t": None, "c": []})
    joined = jsonl(tmp_path / "b.jsonl", {"id": 1, "t": "A", "c": "x|y"}, {"id": 2})
    for file in (listed, joined):
        items = read_items(file, item="id", title="t", categories="c", separator="|")
        assert items["title"].to_pylist() == ["A", None]
        assert items["categories"].to_pylist() == [["x", "y"], []]


# Tables in memory


def arrow() -> pa.Table:
    return pa.table(
        {"u": [2, 1, 2], "i": ["a", "a", "a"], "w": [1, 2, 3], "t": [0, 86_400, 172_800], "x": [{}] * 3}
    )


def test_tables_and_frames_go_through_the_same_rules() -> None:
    """Protects library users: weights, decay and combining as from files, the columns by role."""
    rules: dict[str, Any] = {"columns": COLUMNS, "combine": "max", "half_life_days": 1}
    for found in (
        Interactions.from_arrow(arrow(), **rules),
        Interactions.from_pandas(arrow().to_pandas().set_index(np.array([9, 9, 9])), **rules),
    ):
        assert found.user_ids.array.to_pylist() == [1, 2]
        assert found.user_items.toarray().tolist() == [[1.0], [3.0]]
        assert found.counts.rows == 3


def test_tables_take_type_weights() -> None:
    """Protects the type column of a table in memory."""
    table = pa.table({"user_id": [1, 1], "item_id": [1, 2], "kind": ["view", "buy"]})
    found = Interactions.from_arrow(table, columns={"type": "kind"}, type_weights={"view": 1, "buy": 5})
    assert found.user_items.toarray().tolist() == [[1.0, 5.0]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"u": [1, "x"], "i": [1, 2]}, "table: column 'u' mixes types"),
        ({"u": [1.0, float("nan")], "i": [1, 2]}, "table: column 'u' has no value in row 1"),
        ({"u": [1.0, 2.0], "i": [1, 2]}, "table: column 'u' holds ids of type double.*pandas"),
        ({"u": [1, 2]}, "table: there is no column 'i'; .*the table has 'u'"),
        ({"u": [], "i": []}, "no rows"),
    ],
)
def test_frames_are_refused_by_column_and_row(frame: dict[str, Any], message: str) -> None:
    """Protects the messages of tables in memory: `table` stands where a file would."""
    with pytest.raises(DataError, match=message):
        Interactions.from_pandas(pd.DataFrame(frame), columns={"user": "u", "item": "i"})


def test_settings_of_a_table_are_checked_like_a_job_file() -> None:
    """Protects against a setting that does nothing, or that does not exist."""
    with pytest.raises(SettingsError, match='combine: found "median"'):
        Interactions.from_arrow(arrow(), columns=COLUMNS, combine="median")
    with pytest.raises(SettingsError, match=r"half_life_days: found 3.* without a time column"):
        Interactions.from_arrow(arrow(), columns={"user": "u", "item": "i"}, half_life_days=3)


def test_texts_of_a_table_are_utf8() -> None:
    """Protects ids in memory from bytes that no text has."""
    ends = pa.py_buffer(np.array([0, 1, 2], np.int32))
    broken = pa.StringArray.from_buffers(2, ends, pa.py_buffer(b"a\xe4"))
    with pytest.raises(DataError, match="table: column 'u' is damaged or not UTF-8"):
        table_events(pa.table({"u": broken, "i": [1, 2]}), **PLAIN)


def beyond_2_gib(texts: list[str]) -> pa.Array:
    """large_string whose offsets begin above 2 ** 31; of the 2 GiB before them no page is ever touched."""
    start = 2**31 + 5
    raw = "".join(texts).encode()
    memory = mmap.mmap(-1, start + len(raw))
    memory[start:] = raw
    ends = start + np.cumsum([0, *(len(text.encode()) for text in texts)])
    return pa.Array.from_buffers(
        pa.large_string(), len(texts), [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(memory)]
    )


@pytest.mark.parametrize("is_category", [False, True])
def test_texts_far_into_a_large_column_are_read(is_category: bool) -> None:
    """Protects tables of more than 2 GiB of texts: 32-bit offsets cannot hold where theirs begin."""
    columns = {
        "u": beyond_2_gib(["ä1", "b", "ä1"]),
        "i": beyond_2_gib(["x", "y", "z"]),
        "t": beyond_2_gib(["1970-01-01", "1970-01-02", "1970-01-03"]),
        "e": beyond_2_gib(["view", "buy", "view"]),
    }
    if is_category:
        columns["u"] = columns["u"].dictionary_encode()
    found = decoded(table_events(pa.table(columns), **TIMED | {"type": "e"}))
    assert found.to_pydict() == {
        "user": ["ä1", "b", "ä1"],
        "item": ["x", "y", "z"],
        "weight": [1.0] * 3,
        "time": [0, 86_400, 172_800],
        "type": ["view", "buy", "view"],
    }


# Units of time


@pytest.mark.parametrize(
    ("array", "form"),
    [
        (pa.array([86_400, 1_700_000_000]), "seconds"),
        (pa.array([86_400.75, 1_700_000_000.0]), "seconds"),
        (pa.array([1_600_000_000_999, 1_700_000_000_999]), "milliseconds"),
        (pa.array([datetime.datetime(1970, 1, 2), datetime.datetime(2023, 11, 14, 22, 13, 20)]), "datetimes"),
        (pa.array(["1970-01-02", "2023-11-14T22:13:20"]), "datetimes"),
        (pa.array(["1970-01-02T01:00+01:00", "2023-11-14T22:13:20.9Z"]), "datetimes"),
        (pa.array(["1970-01-02T00:00:00.123456789Z", "2023-11-14T22:13:20Z"]), "datetimes"),
    ],
)
def test_every_form_of_time(array: pa.Array, form: str) -> None:
    """Protects the unit behind the reader, and that the counts say what was found."""
    events = table_events(pa.table({"u": [1, 1], "i": [1, 2], "t": array}), **TIMED)
    first = 1_600_000_000 if form == "milliseconds" else 86_400
    assert decoded(events)["time"].to_pylist() == [first, 1_700_000_000]
    assert events.counts.time_forms == (form,)


def test_seconds_in_one_file_and_milliseconds_in_another_are_refused(tmp_path: Path) -> None:
    """Protects decay and splits from an export that changed its unit half-way."""
    for name, time in (("1.parquet", 1_700_000_000), ("2.parquet", 1_700_000_000_000)):
        pq.write_table(pa.table({"u": [1], "i": [1], "t": [time]}), tmp_path / name)
    with pytest.raises(DataError, match=r"seconds in .*1\.parquet, but milliseconds in .*2\.parquet"):
        read_events(event_files(tmp_path), **TIMED)


def test_future_times_and_zero_weights_are_kept_and_counted() -> None:
    """Protects the promise that nothing odd passes without a number; both rows stay."""
    table = pa.table({"u": [1, 1], "i": [1, 2], "w": [0, 1], "t": [0, 90_000_000_000]})
    events = table_events(table, **PLAIN | {"weight": "w", "time": "t"})
    assert len(events) == 2
    assert (events.counts.future_times, events.counts.zero_weights) == (1, 1)
