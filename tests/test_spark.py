"""Spark reads a release as DuckDB does: docs/warehouse.md's queries on a real Spark, run by `make soak`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

import java
import made
import queried
from made import Published
from pages import WAREHOUSE, rows_of
from queried import Nights

nights, duck = queried.nights, queried.duck
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.sql.shuffle.partitions": "2",
}


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Spark of one thread in this machine's loopback; it fails, and never skips, without Java or pyspark."""
    missing = java.problem(os.environ)
    if missing is not None:
        pytest.fail(missing)
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        pytest.fail("pyspark is not installed: `make soak` does that, or pip install --editable '.[spark]'")
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.chdir(folder)  # a metastore or a warehouse folder would land here
        builder = SparkSession.builder.master("local[1]").appName("nightrank")
        for name, value in SETTINGS.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        yield session
        session.stop()


@pytest.fixture
def views(spark: Any, nights: Nights) -> Any:
    """Spark with the views of the page."""
    for statement in nights.statements("In Spark"):
        spark.sql(statement)
    return spark


def rows(spark: Any, query: str) -> queried.Rows:
    return [tuple(row) for row in spark.sql(query).collect()]


@pytest.mark.soak
def test_spark_counts_the_rows_of_the_manifest(views: Any, nights: Nights) -> None:
    """Every row of every file, of both releases: nothing is lost between the writer and another reader."""
    for view, published in (("recommendations", nights.now), ("recommendations_before", nights.before)):
        counted = published.release.manifest.counts["recommendations"]
        assert rows(views, f"SELECT count(*) FROM {view}") == [(counted,)]
    for view, name in (("similar_items", "similar_items/"), ("popular", "popular"), ("items", "items")):
        files = nights.now.release.manifest.files.items()
        written = sum(
            record.rows for file, record in files if file.startswith(name) and record.rows is not None
        )
        assert rows(views, f"SELECT count(*) FROM {view}") == [(written,)]


@pytest.mark.soak
def test_spark_sees_the_types_of_the_page(views: Any, nights: Nights) -> None:
    """Ids are bigint or string as they came, ranks int, scores float."""
    said = {row["column"]: row["Spark"] for row in rows_of(WAREHOUSE, "column", "Parquet")}
    kind = said["ids, from integers" if nights.kind == "int64" else "ids, from texts"]
    text, rank, score = said["`category`, `title`"], said["rank"], said["score"]
    expected = {
        "recommendations": [("user_id", kind), ("rank", rank), ("item_id", kind), ("score", score)],
        "similar_items": [("item_id", kind), ("rank", rank), ("similar_item_id", kind), ("score", score)],
        "popular": [("category", text), ("rank", rank), ("item_id", kind), ("score", score)],
        "items": [("item_id", kind), ("title", text), ("categories", said["categories"])],
    }
    assert {view: views.table(view).dtypes for view in expected} == expected


@pytest.mark.soak
def test_spark_answers_every_query_as_duckdb_does(
    views: Any, duck: duckdb.DuckDBPyConnection, nights: Nights
) -> None:
    """The same statements, the same rows in the same order; test_docs_warehouse.py holds DuckDB to plain Python."""
    by_spark = queried.answers(lambda query: rows(views, query), nights)
    by_duckdb = queried.answers(lambda query: duck.execute(query).fetchall(), nights)
    assert by_spark.keys() == by_duckdb.keys()
    assert len(by_spark) == len(queried.QUERIES) + 1
    for title, expected in by_duckdb.items():
        about = [  # a mean is a sum in some order
            tuple(pytest.approx(cell) if isinstance(cell, float) else cell for cell in row)
            for row in expected
        ]
        assert by_spark[title] == about, title


@pytest.mark.soak
def test_a_condition_on_the_user_is_pushed_down(views: Any, nights: Nights) -> None:
    """Spark hands the condition to its Parquet reader, which skips by it."""
    (statement,) = nights.statements("The top ten of one user")
    plan = rows(views, f"EXPLAIN FORMATTED {statement}")[0][0]
    pushed = [line for line in plan.splitlines() if "PushedFilters" in line]
    assert any(f"EqualTo(user_id,{nights.known})" in line for line in pushed)


@pytest.mark.soak
def test_spark_reads_one_row_group_of_a_file_for_one_user(spark: Any, tmp_path: Path) -> None:
    """The scan of one user gives the rows of a row group or two, not the file's."""
    large: Published = made.published_release(
        tmp_path,
        events=made.make_events(n_users=1_500, n_items=300),
        items=[],
        score={"k": 200, "buckets": 1, "similar_items_k": 1},
    )
    (path,) = (large.folder / "recommendations").iterdir()
    whole = large.release.manifest.counts["recommendations"]
    assert scanned(spark, path, "rank >= 1") == whole > 4 * 64_000
    assert 0 < scanned(spark, path, "user_id = 45") <= 2 * 64_000


def scanned(spark: Any, path: Path, condition: str) -> int:
    """How many rows the scan of a file gave to the filter behind it."""
    query = spark.read.parquet(str(path)).where(condition)
    query.collect()
    plan = query._jdf.queryExecution().executedPlan()
    return int(plan.collectLeaves().head().metrics().get("numOutputRows").get().value())


# Without Spark


def test_this_machine_without_java_is_told_so(tmp_path: Path) -> None:
    """Found, expected, cure: no Java, none in JAVA_HOME, an old one, something else of that name."""
    cure = "install openjdk-17-jre-headless"
    for environment, found in (
        ({"PATH": str(tmp_path)}, "no java is on the path"),
        (
            {"PATH": os.environ["PATH"], "JAVA_HOME": str(tmp_path)},
            f"JAVA_HOME is {tmp_path}, where no bin/java is",
        ),
    ):
        assert java.problem(environment) == f"Spark needs Java 17 or newer: {found}; {cure}"


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "21" 2023-09-19', True),
        ('java version "1.8.0_401"', False),
        ('openjdk version "11.0.2" 2019-01-15', False),
        ("no such thing", False),
        ("", False),
    ],
)
def test_the_version_of_java_decides(tmp_path: Path, line: str, fits: bool) -> None:
    """17 and newer will do; an old or an odd one is named with what it said."""
    script = tmp_path / "java"
    script.write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    script.chmod(0o755)
    said = java.problem({"PATH": f"{tmp_path}:/bin"})
    assert (said is None) == fits
    assert fits or f"{script} says {line or 'nothing'}; install" in str(said)
