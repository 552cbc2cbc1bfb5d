"""Batches: what a file holds, and what is said of a fault in it, never depends on where a batch ends.

Of several faults in different columns of one file, any may be the one that is named.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eventfiles import decoded
from nightrank.data import csvlines, jsonlines, tables
from nightrank.data.events import Events, read_events, table_events
from nightrank.errors import DataError

ROLES: dict[str, Any] = {"user": "u", "item": "i", "weight": "w", "time": "t", "type": "e"}
N_ROWS = 40
FORMATS = [".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz"]
Rows = dict[str, list[Any]]


def rows(**replaced: dict[int, Any]) -> Rows:
    """Plain columns of N_ROWS rows; replaced: column to row to value."""
    rng = np.random.default_rng(0)
    columns: Rows = {
        "u": rng.integers(-5, 12, N_ROWS).tolist(),
        "i": [f"é{item}" for item in rng.integers(0, 9, N_ROWS)],
        "w": rng.integers(0, 5, N_ROWS).tolist(),
        "t": rng.integers(0, 10**9, N_ROWS).tolist(),
        "e": rng.choice(["view", "buy"], N_ROWS).tolist(),
    }
    for name, values in replaced.items():
        for row, value in values.items():
            columns[name][row] = value
    return columns


def written(folder: Path, suffix: str, columns: Rows) -> Path:
    path = folder / f"events{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=11)
        return path
    lines = list(zip(*columns.values(), strict=True))
    if suffix.startswith(".csv"):
        texts = [",".join("" if cell is None else str(cell) for cell in line) for line in (columns, *lines)]
    else:
        texts = [json.dumps(dict(zip(columns, line, strict=True))) for line in lines]
    raw = "\n".join([*texts, ""]).encode()
    path.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes batches of so many rows, and blocks of text of a line or a few."""

    def make(n_rows: int) -> None:
        monkeypatch.setattr(tables, "BATCH_ROWS", n_rows)
        monkeypatch.setattr(csvlines, "BLOCK_BYTES", 64)
        monkeypatch.setattr(jsonlines, "_BLOCK_BYTES", 100)

    return make


def refusal(file: Path, **names: Any) -> str:
    with pytest.raises(DataError) as refused:
        read_events([file], **ROLES | names)
    return str(refused.value)


def assert_same(found: Events, expected: Events) -> None:
    assert decoded(found).equals(decoded(expected))
    for name in ("users", "items", "weights", "times", "types"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
    assert (found.counts, found.parts, found.type_names) == (
        expected.counts,
        expected.parts,
        expected.type_names,
    )


@pytest.mark.parametrize("n_rows", [1, 7, 11])
@pytest.mark.parametrize("suffix", FORMATS)
def test_batches_make_no_difference(
    tmp_path: Path, tiny: Callable[[int], None], suffix: str, n_rows: int
) -> None:
    """Protects every value and count from where a batch ends, in each format."""
    columns = rows()
    file = written(tmp_path, suffix, columns)
    whole = read_events([file], **ROLES)
    assert list(decoded(whole).to_pydict().values()) == list(columns.values())
    tiny(n_rows)
    assert_same(read_events([file], **ROLES), whole)


def test_batches_of_a_table_in_memory_make_no_difference(tiny: Callable[[int], None]) -> None:
    """Protects tables, which are read in parts too."""
    table = pa.table(rows())
    whole = table_events(table, **ROLES)
    tiny(7)
    assert_same(table_events(table, **ROLES), whole)


# What is refused: the first row of the file, and the number in all of it


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w", -1, r"'w' has the weight -1 in row 17 \(3 such rows\)"),
        ("t", 10**15, r"'t' has the time 1000000000000000 in row 17 \(3 such rows\)"),
        ("t", 10**12, r"the time 1000000000000 in row 17 \(3 such rows\).*milliseconds, and \d+ in row 0,"),
        ("e", "", r"'e' has an empty event type in row 17 \(3 such rows\)"),
        ("i", "", r"'i' has an empty id in row 17 \(3 such rows\)"),
    ],
)
def test_the_row_and_the_number_are_those_of_the_file(
    tmp_path: Path, tiny: Callable[[int], None], suffix: str, name: str, value: Any, message: str
) -> None:
    """Protects the search for a bad row: the same message whether it is in the first batch or the third."""
    file = written(tmp_path, suffix, rows(**{name: dict.fromkeys((17, 22, 39), value)}))
    whole = refusal(file)
    tiny(7)
    assert refusal(file) == whole
    with pytest.raises(DataError, match=message):
        raise DataError(whole)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", ["u", "i", "w", "t", "e"])
def test_missing_values_are_counted_over_the_file(
    tmp_path: Path, tiny: Callable[[int], None], suffix: str, name: str
) -> None:
    """Protects the same for values that are not there."""
    file = written(tmp_path, suffix, rows(**{name: dict.fromkeys((8, 9, 30), None)}))
    whole = refusal(file)
    tiny(7)
    assert f"'{name}' has no value in row 8 (3 such rows)" in whole
    assert refusal(file) == whole


@pytest.mark.parametrize("n_rows", [7, 1_000])
def test_milliseconds_that_turn_to_seconds_are_counted_from_the_start(
    tmp_path: Path, tiny: Callable[[int], None], n_rows: int
) -> None:
    """Protects the count where the first batches were all milliseconds."""
    file = written(tmp_path, ".csv", rows(t={row: 10**12 + row for row in range(N_ROWS) if row != 30}))
    tiny(n_rows)
    message = refusal(file)
    assert "the time 1000000000000 in row 0 (39 such rows)" in message
    assert "in row 30, which looks like seconds" in message


@pytest.mark.parametrize("n_rows", [7, 1_000])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("w", "four", "'w' has 'four' in row 17, which is no number"),
        ("t", "2026-01-31", "'t' has '2026-01-31' in row 17, which is no time"),
    ],
)
def test_csv_texts_that_do_not_fit_name_their_row(
    tmp_path: Path, tiny: Callable[[int], None], n_rows: int, name: str, value: str, message: str
) -> None:
    """Protects one form for the whole column: what the first batch held is what all must hold."""
    file = written(tmp_path, ".csv", rows(**{name: {17: value}}))
    tiny(n_rows)
    assert message in refusal(file)


@pytest.mark.parametrize("n_rows", [7, 1_000])
def test_what_stops_the_count_names_its_own_row(
    tmp_path: Path, tiny: Callable[[int], None], n_rows: int
) -> None:
    """Protects the row of a text that is no number, met far behind a negative weight while those are counted."""
    file = written(tmp_path, ".csv", rows(w={3: -1, 33: "four"}))
    tiny(n_rows)
    assert "'w' has 'four' in row 33, which is no number" in refusal(file)


# What is decided for a whole file


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_ids_are_integers_only_where_the_whole_file_is(
    tmp_path: Path, tiny: Callable[[int], None], suffix: str
) -> None:
    """Protects 007 in a late batch: then 7 in the first batch is a text too, and another user."""
    file = written(tmp_path, suffix, rows(u={0: 7, 33: "007"}))
    tiny(7)
    users = decoded(read_events([file], **ROLES))["user"]
    assert users.type == pa.string()
    assert (users[0].as_py(), users[33].as_py()) == ("7", "007")


ISO = {row: f"2026-01-01 00:00:{row:02}" for row in range(N_ROWS)}


@pytest.mark.parametrize("n_rows", [7, 1_000])
@pytest.mark.parametrize(
    ("stamps", "row"),
    [
        ({30: "2026-01-01 00:00:30.123456789"}, None),
        ({3: "2026-01-01 00:00:30.123456789"}, None),
        ({30: "3026-01-01 00:00:30"}, None),
        ({3: "3026-01-01 00:00:30", 30: "2026-01-01 00:00:30.123456789"}, 30),
        ({3: "2026-01-01 00:00:30.123456789", 30: "3026-01-01 00:00:30"}, 30),
        ({30: "2026-01-01 00:00:30Z"}, 30),
        ({30: "17"}, 30),
    ],
)
def test_one_form_of_time_fits_the_whole_file(
    tmp_path: Path, tiny: Callable[[int], None], stamps: dict[int, str], row: int | None, n_rows: int
) -> None:
    """Protects ISO texts: nanoseconds or far years in a late batch are read as in the first, or refused alike."""
    file = written(tmp_path, ".csv", rows(t=ISO | stamps))
    tiny(n_rows)
    if row is not None:
        assert f"'t' has '{stamps[row]}' in row {row}, which is no time" in refusal(file)
        return
    expected = [int(np.datetime64(text[:19], "s").astype(np.int64)) for text in (ISO | stamps).values()]
    assert decoded(read_events([file], **ROLES))["time"].to_pylist() == expected


@pytest.mark.parametrize("n_rows", [7, 1_000])
def test_a_fraction_far_behind_whole_numbers_costs_no_row(
    tmp_path: Path, tiny: Callable[[int], None], n_rows: int
) -> None:
    """Protects JSON weights: the file is read again from where a fraction came, each row once."""
    columns = rows(w={35: 2.5})
    file = written(tmp_path, ".jsonl", columns)
    tiny(n_rows)
    assert decoded(read_events([file], **ROLES))["weight"].to_pylist() == columns["w"]


def test_a_gzip_that_ends_behind_the_first_batches_is_refused(
    tmp_path: Path, tiny: Callable[[int], None]
) -> None:
    """Protects against the events of half a download: batches that were whole do not count."""
    rng = np.random.default_rng(0)
    columns: Rows = {"u": rng.integers(0, 10**9, 5_000).tolist(), "i": rng.integers(0, 10**9, 5_000).tolist()}
    file = written(tmp_path, ".csv.gz", columns)
    whole = file.read_bytes()
    tiny(7)
    for end in (len(whole) // 2, len(whole) - 6):
        file.write_bytes(whole[:end])
        assert "cannot be read" in refusal(file, weight=None, time=None, type=None)
