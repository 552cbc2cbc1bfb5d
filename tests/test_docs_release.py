"""docs/night.md and docs/release.md against a real run and release: keys, columns, arrays, files, queries."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import made
import pages
from made import Published
from nightrank import errors
from nightrank.batch.leaderboard import leaderboard
from nightrank.batch.nightly import summary
from nightrank.data.ids import bucket_of, hash_id
from nightrank.errors import NightrankError
from nightrank.quality.gates import QualityDecision, StructureDecision
from nightrank.release.manifest import Manifest
from nightrank.release.records import FileRecord
from pages import NIGHT, RELEASE, ROOT, SWEEP, Row, blocks, column, rows_of, section

published = pages.published


def test_the_last_line_of_a_night_has_the_documented_keys(published: Published) -> None:
    """Scripts that read the JSON object of a job find each key of the table, in the example too."""
    real = list(summary(published.run))
    assert column(NIGHT, "key", "meaning") == real
    example = json.loads(blocks(NIGHT, "json")[0])
    assert list(example) == real
    assert list(example["counts"]) == list(summary(published.run)["counts"])


def test_the_columns_of_the_leaderboard_are_documented() -> None:
    """Names and types are those of leaderboard.parquet."""
    schema = leaderboard([], metric="ndcg@10").schema
    real = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    assert {row["column"]: row["type"] for row in rows_of(SWEEP, "column", "type")} == real
    assert column(SWEEP, "column", "type") == list(real)


def test_the_folder_of_a_run_is_documented(published: Published) -> None:
    """Whatever a run leaves at its top is explained."""
    found = {path.name for path in made.place(published.run.store, published.run.name("x")).parent.iterdir()}
    said = {name.rstrip("/") for name in column(NIGHT, "name", "what it is")}
    assert {"run.json", "model", "buckets", "stages"} <= found <= said


def test_exit_codes_are_those_of_the_errors() -> None:
    """Every code that a command can end with is in the table, and no other."""
    kinds = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, NightrankError)
    ]
    real = {str(kind.exit_code) for kind in kinds} | {"0", "130"}
    assert set(column(NIGHT, "code", "meaning")) == real
    assert "INTERRUPTED = 130" in (ROOT / "platform/nightrank/cli/app.py").read_text()


@pytest.mark.parametrize("table", ["recommendations/", "similar_items/", "popular.parquet", "items.parquet"])
def test_parquet_columns_are_documented(published: Published, table: str) -> None:
    """Names, order, types and null of each table are those of the files, also its sort order and metadata."""
    name = table if table.endswith(".parquet") else f"{table}*.parquet"
    for path in published.folder.glob(name):
        schema = pq.read_schema(path)
        said = rows_of(section(RELEASE, table), "column", "type", "null")
        assert [row["column"] for row in said] == schema.names
        for row, field in zip(said, schema, strict=True):
            kind = "list of string" if str(field.type).startswith("list") else str(field.type)
            assert kind in row["type"].split(" or ")
            assert row["null"] == ("yes" if field.nullable else "no")
        keys = {row["key"] for row in rows_of(RELEASE, "key", "value") if is_in(table, row["in"])}
        assert {key.decode() for key in schema.metadata} == keys


def is_in(table: str, said: str) -> bool:
    return said == "all four" or table.rstrip("/") in said.split(", ")


def test_the_manifest_is_documented_key_by_key(published: Published) -> None:
    """Every key of manifest.json and of its gates, counts, versions and file records is on the page."""
    manifest = published.release.manifest
    page = section(RELEASE, "manifest.json")
    assert column(page, "key", "meaning") == list(Manifest.model_fields)
    rows = {
        row["key"]: set(re.findall(r"`(\w+)`", row["meaning"])) for row in rows_of(page, "key", "meaning")
    }
    assert rows["counts"] == set(manifest.counts)
    assert rows["versions"] == set(manifest.versions)
    assert rows["files"] == set(FileRecord.model_fields)
    assert rows["gates"] == set(manifest.gates)
    quality = {field.name for field in fields(QualityDecision)} | {"unknown_users", "stands_in_for"}
    assert set(column(page, "key of quality")) == quality
    assert set(column(page, "key of structure")) == {field.name for field in fields(StructureDecision)}
    assert set(manifest.gates["structure"]) == set(column(page, "key of structure"))


def test_arrays_are_documented_file_by_file(published: Published) -> None:
    """Each file in arrays/ is in the table with its dtype and shape, and each row of the table is a file."""
    card, job = published.release.model.card, published.run.job.score
    sizes: dict[str, Any] = {"n_users": card.n_users, "n_items": card.n_items, "pairs": card.n_pairs}
    sizes |= {"n_buckets": card.n_buckets, "d": card.params["factors"]}
    sizes |= {"k": job.k, "similar_items_k": job.similar_items_k}
    said = {row["file"]: row for row in rows_of(section(RELEASE, "arrays/"), "file", "dtype", "shape")}
    folder = published.folder / "arrays"
    seen = set()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        row = re.sub(r"-[0-9]{5}-of-[0-9]{5}", "-*", path.relative_to(folder).as_posix())
        assert row in said
        seen.add(row)
        if path.suffix != ".npy":
            continue
        array = np.load(path, allow_pickle=False)
        assert str(array.dtype) in said[row]["dtype"].split(" or ")
        shape = said[row]["shape"].strip("()").split(", ")
        assert len(shape) == array.ndim
        for words, length in zip(shape, array.shape, strict=True):
            name, _, more = words.partition(" + ")
            assert name not in sizes or length == sizes[name] + int(more or 0)
    stems = ("user_ids", "item_ids")
    other = {f"{stem}.npy" for stem in stems}
    if card.user_id_type == "int64":
        other = {f"{stem}.{part}.npy" for stem in stems for part in ("offsets", "bytes")}
    assert set(said) - seen == other | {"user_feature_vectors.npy"}  # of a model with features


def test_the_layout_lists_what_is_in_a_release(published: Published) -> None:
    """The picture of the folder names everything at the top of a release."""
    found = {path.name + "/" * path.is_dir() for path in published.folder.iterdir()}
    drawn = re.findall(r"^    ([\w.-]+/?)", blocks(RELEASE, "text")[0], re.M)
    assert {name if "/" not in name else name.split("/")[0] + "/" for name in drawn} == found


@pytest.mark.parametrize("row", rows_of(RELEASE, "id", "type", "xxh64"), ids=str)
def test_the_worked_buckets_are_recomputed(row: Row) -> None:
    """Whoever looks a user's file up by the page's rule finds the file that nightrank writes."""
    value = int(row["id"]) if row["type"] == "int64" else row["id"]
    assert hash_id(value) == int(row["xxh64"])
    assert [bucket_of(value, n) for n in (4, 64)] == [int(row["bucket of 4"]), int(row["bucket of 64"])]


def test_the_python_example_of_buckets_runs(tmp_path: Path) -> None:
    """The lines that a reader copies hold their own assertion, and it is true."""
    (code,) = blocks(RELEASE, "python")
    assert "assert" in code
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))


SQL = blocks(RELEASE, "sql")


@pytest.mark.parametrize("query", SQL, ids=range(len(SQL)))
def test_the_sql_of_the_page_answers(published: Published, query: str) -> None:
    """Each query runs on a release as it stands and finds rows."""
    assert "'RELEASE/" in query
    if published.release.model.card.user_id_type == "string":
        query = query.replace("user_id = 45", "user_id = 'id-0010'")
    assert duckdb.sql(query.replace("'RELEASE/", f"'{published.folder}/").rstrip("\n;")).fetchall()
