"""Known data sets: both sources agree, digests hold, a broken folder never counts as complete. No network."""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.data import datasets, movielens
from nightrank.data.datasets import Dataset, digest, fetch
from nightrank.errors import DataError

CHILDREN = "Children's"
EVENTS = "2\t1412\t3\t878887116\n1\t3\t4\t881250949\n1\t267\t5\t881250950\n"
USERS = [["2", "53", "F", "other", "94043"], ["1", "24", "M", "technician", "85711"]]
COVERED = {
    "events": ("user_id", "item_id", "weight", "timestamp"),
    "items": ("item_id", "genres"),
    "users": ("user_id", "age", "gender", "occupation"),
}


def flags(*genres: str) -> str:
    return "|".join("1" if genre in genres else "0" for genre in movielens.GENRES)


def publisher_zip() -> bytes:
    items = (
        f"3|Misérables, Les (1995) |01-Jan-1995||http://x|{flags('Drama', 'Film-Noir', 'Sci-Fi')}\n"
        f"267|unknown||||{flags('unknown')}\n"
        f"1412|Land Before Time III (1995) (V)|||http://y|{flags('Animation', CHILDREN)}\n"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-100k/u.data", EVENTS)
        archive.writestr("ml-100k/u.item", items.encode("latin-1"))
        archive.writestr("ml-100k/u.user", "".join("|".join(user) + "\n" for user in USERS))
    return buffer.getvalue()


def wheel(path: Path) -> Path:
    items = (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "3\tMisérables, Les\t1995\tSci-Fi Drama Film-Noir\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
        "1412\tLand Before Time III (1995)\tV\tChildren's Animation\n"
    )
    base = "recbole/dataset_example/ml-100k/ml-100k"
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    users = [["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"], *USERS]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{base}.inter", header + EVENTS)
        archive.writestr(f"{base}.item", items)
        archive.writestr(f"{base}.user", "".join("\t".join(user) + "\n" for user in users))
    return path


def good(folder: Path) -> Mapping[str, pa.Table]:
    return movielens.read_zip(publisher_zip())


def digests() -> dict[str, str]:
    tables = movielens.read_zip(publisher_zip())
    return {key: digest(tables[key], columns) for key, columns in COVERED.items()}


class Counted:
    """A source that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> Mapping[str, pa.Table]:
        self.calls += 1
        return good(folder)


def known(*sources: tuple[str, datasets.Source]) -> dict[str, Dataset]:
    return {"tiny": Dataset(sources=sources, digests=digests(), by_hand="put tiny.zip into the folder")}


def test_both_formats_give_the_same_rows(tmp_path: Path) -> None:
    """Protects the promise that it does not matter which source answered, titles included."""
    ours, theirs = movielens.read_zip(publisher_zip()), movielens.read_wheel(wheel(tmp_path / "r.whl"))
    for key in COVERED:
        assert ours[key].equals(theirs[key]), key
    assert ours["items"].to_pylist() == [
        {"item_id": 3, "title": "Misérables, Les (1995)", "genres": "Drama|Film-Noir|Sci-Fi"},
        {"item_id": 267, "title": "unknown", "genres": "unknown"},
        {"item_id": 1412, "title": "Land Before Time III (1995) (V)", "genres": "Animation|Children's"},
    ]


def test_fetch_writes_the_default_columns_sorted_by_id(tmp_path: Path) -> None:
    """Protects the names and types that job files and other people's scripts rely on."""
    files = fetch("tiny", tmp_path / "new" / "folder", datasets=known(("zip", good)))
    events, users = pq.read_table(files.events), pq.read_table(files.users)
    assert {field.name: str(field.type) for field in events.schema} == {
        "user_id": "int64", "item_id": "int64", "weight": "float", "timestamp": "int64",
    }  # fmt: skip
    assert {field.name: str(field.type) for field in users.schema} == {
        "user_id": "int64", "age": "int32", "gender": "string", "occupation": "string",
    }  # fmt: skip
    assert events["user_id"].to_pylist() == [1, 1, 2]
    assert events["item_id"].to_pylist() == [3, 267, 1412]
    assert users["user_id"].to_pylist() == [1, 2]
    assert pq.read_schema(files.items).names == ["item_id", "title", "genres"]


def test_second_call_downloads_nothing(tmp_path: Path) -> None:
    """Protects the promise that a complete folder needs no network."""
    source = Counted()
    first = fetch("tiny", tmp_path, datasets=known(("counted", source)))
    assert fetch("tiny", tmp_path, datasets=known(("counted", source))) == first
    assert source.calls == 1


@pytest.mark.parametrize("table", ["events", "items", "users"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_broken_folder_is_fetched_again(tmp_path: Path, table: str, damage: str) -> None:
    """Protects against taking a damaged or half-removed folder as complete."""
    source = Counted()
    files = fetch("tiny", tmp_path, datasets=known(("counted", source)))
    path: Path = getattr(files, table)
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-9])
    else:
        path.unlink()
    fetch("tiny", tmp_path, datasets=known(("counted", source)))
    assert source.calls == 2
    assert path.read_bytes() == whole


def test_files_without_a_marker_are_not_complete(tmp_path: Path) -> None:
    """Protects against an interrupted fetch: without the marker everything is written again."""
    source = Counted()
    files = fetch("tiny", tmp_path, datasets=known(("counted", source)))
    (tmp_path / ".tiny.json").unlink()
    files.events.write_bytes(files.events.read_bytes()[:100])
    fetch("tiny", tmp_path, datasets=known(("counted", source)))
    assert source.calls == 2
    assert pq.read_table(files.events).num_rows == 3


def test_somebody_elses_events_are_left_alone(tmp_path: Path) -> None:
    """Protects a user's own events.parquet from being replaced by `data fetch --out .`."""
    mine = tmp_path / "events.parquet"
    pq.write_table(pa.table({"user": ["a"]}), mine)
    before = mine.read_bytes()
    with pytest.raises(DataError, match=r"events\.parquet is there already .* move the file away"):
        fetch("tiny", tmp_path, datasets=known(("zip", good)))
    assert mine.read_bytes() == before
    assert list(tmp_path.iterdir()) == [mine]


def test_wrong_rows_fall_through_to_the_next_source(tmp_path: Path) -> None:
    """Protects against a source whose rows were changed: the digest sends us to the next one."""

    def changed(folder: Path) -> Mapping[str, pa.Table]:
        tables = dict(good(folder))
        ages = pa.array([25, 53], pa.int32())
        tables["users"] = tables["users"].set_column(1, "age", ages)
        return tables

    source = Counted()
    fetch("tiny", tmp_path, datasets=known(("changed", changed), ("counted", source)))
    assert source.calls == 1
    assert pq.read_table(tmp_path / "users.parquet")["age"].to_pylist() == [24, 53]
    assert json.loads((tmp_path / ".tiny.json").read_text())["source"] == "counted"


def test_every_failed_source_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    """Protects the error a person sees offline: each source, its reason, what to do; no file half-written."""

    def offline(folder: Path) -> Mapping[str, pa.Table]:
        raise OSError("no route to host")

    def web_page(folder: Path) -> Mapping[str, pa.Table]:
        return movielens.read_zip(b"<html>log in first</html>")

    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        fetch("tiny", folder, datasets=known(("site", offline), ("portal", web_page)))
    message = str(caught.value)
    assert "site: no route to host" in message
    assert "portal: File is not a zip file" in message
    assert "put tiny.zip into the folder" in message
    assert not folder.exists()


def test_zip_put_into_the_folder_by_hand_is_the_first_source(tmp_path: Path) -> None:
    """Protects the way out for machines without a network."""
    label, source = datasets.MOVIELENS_100K.sources[0]
    (tmp_path / "ml-100k.zip").write_bytes(publisher_zip())
    files = fetch("tiny", tmp_path, datasets=known((label, source)))
    assert pq.read_table(files.events).num_rows == 3
    (tmp_path / "ml-100k.zip").unlink()
    with pytest.raises(DataError, match="is not there"):
        source(tmp_path)


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    """Protects the hint after a misspelt data set."""
    with pytest.raises(DataError, match="'movielens-100k'"):
        fetch("movielens", tmp_path)


def test_unwritable_folder_is_a_data_error(tmp_path: Path) -> None:
    """Protects the command line from a traceback where the folder is a file."""
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fetch("tiny", taken, datasets=known(("zip", good)))


def test_pip_reason_names_no_host() -> None:
    """Protects private index addresses and passwords from logs and messages."""
    stderr = (
        "WARNING: Retrying after HTTPSConnectionPool(host='secret.example.org', port=443)\n"
        "ERROR: Could not fetch https://user:word@secret.example.org/simple/recbole/: refused\n"
        "ERROR: HTTPSConnectionPool(host='secret.example.org', port=443): Max retries\n"
    )
    reason = movielens.pip_reason(stderr)
    assert "Could not fetch" in reason
    assert not re.search("secret|example|word", reason)
    assert movielens.pip_reason("python: No module named pip") == "python: No module named pip"


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Protects the message that says what a slow first run is waiting for."""
    with caplog.at_level(logging.INFO, logger="nightrank.data"):
        fetch("tiny", tmp_path, datasets=known(("the zip", good)))
    assert "tiny: trying the zip" in caplog.text
    assert "3 events written" in caplog.text


def test_pinned_digests_are_complete() -> None:
    """Protects against shipping a data set whose rows nothing checks."""
    pinned = datasets.MOVIELENS_100K.digests
    assert set(pinned) == set(COVERED)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in pinned.values())
    assert re.search("--hash=sha256:[0-9a-f]{64}$", movielens.WHEEL)
