"""What of the metadata counts: against a plain loop, in `nightrank data check`, and what is doubted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from eventfiles import parquet
from nightrank.cli.app import app
from nightrank.config.metadata import SideColumns
from nightrank.data.attribute_types import MOST_WHOLE
from nightrank.data.doubts import Doubt
from nightrank.data.features import MOST_DEVIATIONS, with_features
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, MetadataTable, read_table
from nightrank.data.metadata_counts import MetadataCounts, metadata_counts
from nightrank.data.metadata_doubts import metadata_doubts


def interactions(users: list[int], items: list[int]) -> Interactions:
    return Interactions.from_arrow(pa.table({"user_id": users, "item_id": items}))


def table(tmp_path: Path, **columns: Any) -> MetadataTable:
    names = tuple(name for name in columns if name != "id")
    file = parquet(tmp_path / "t.parquet", **columns)
    return read_table([file], SideColumns("id", names), what="users", kind="int64")


def plain_side(rows: list[dict[str, Any]], learn: set[int], *, ids: set[int]) -> dict[str, Any]:
    """The same, a row at a time. ids: those that features are made of."""
    here = [row for row in rows if row["id"] in learn]
    columns = []
    dark = {row["id"] for row in rows} - learn
    for name in (key for key in rows[0] if key != "id"):
        seen = {one for row in here for one in as_list(row[name])}
        every = {one for row in rows for one in as_list(row[name])}
        is_number = any(isinstance(one, float) for one in every) or (
            all(isinstance(one, int) for one in every) and len(every) > MOST_WHOLE
        )
        given = np.array([row[name] for row in here if row[name] is not None]) if is_number else np.zeros(0)
        far = [
            abs(row[name] - given.mean()) > MOST_DEVIATIONS * given.std()
            for row in rows
            if is_number and row["id"] in ids and row[name] is not None
        ]
        dark -= {
            row["id"] for row in rows if (as_list(row[name]) if is_number else seen & {*as_list(row[name])})
        }
        columns.append(
            {
                "name": name,
                "kind": "number" if is_number else "categories",
                "values": len(seen),
                "missing": sum(not as_list(row[name]) for row in here),
                "unseen": 0 if is_number else len(every - seen),
                "cut": sum(far),
                "unique": not is_number and 1 < len(seen) == sum(len(as_list(row[name])) for row in here),
            }
        )
    return {
        "rows": len(rows),
        "with_events": len(here),
        "without_events": len(rows) - len(here),
        "nothing_known": len(dark),
        "without_row": len(learn - {row["id"] for row in rows}),
        "columns": columns,
    }


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


@pytest.mark.parametrize("seed", range(4))
def test_the_counts_equal_a_plain_loop(tmp_path: Path, seed: int) -> None:
    """Protects the account of a night: the same with features attached before, and on both sides."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 120, 500).tolist(), rng.integers(0, 90, 500).tolist()
    found = interactions(users, items)

    def rows(first: int, end: int) -> dict[str, Any]:
        n, gaps = end - first, 0.2 if seed % 2 else 0.8  # so that of some rows nothing is known
        tags = [rng.choice(list("abcdefgh"), rng.integers(0, 2)).tolist() for _ in range(n)]
        return {
            "id": rng.permutation(np.arange(first, end)),
            "word": pa.array([f"w{one}" for one in rng.integers(0, 200, n)], mask=rng.random(n) < gaps),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "wide": pa.array(rng.integers(0, 10_000, n), mask=rng.random(n) < gaps),
            "code": pa.array(rng.integers(0, 60, n), mask=rng.random(n) < gaps),
            "real": pa.array(rng.standard_cauchy(n), mask=rng.random(n) < gaps),
        }

    user_rows, item_rows = rows(10, 200), rows(5, 150)
    metadata = Metadata(users=table(tmp_path, **user_rows), items=table(tmp_path, **item_rows))
    counts = metadata_counts(found, metadata)
    assert counts == metadata_counts(with_features(found, metadata), metadata)
    assert json.loads(json.dumps(counts.as_dict())) == {
        "users": plain_side(pa.table(user_rows).to_pylist(), set(users), ids=set(users)),
        "items": plain_side(pa.table(item_rows).to_pylist(), set(items), ids={*items, *range(5, 150)}),
    }
    assert counts.items is not None
    assert counts.items.columns[-1].cut > 0
    assert (counts.items.nothing_known > 0) == (seed % 2 == 0)
    assert metadata_counts(found, Metadata()) == MetadataCounts(None, None)


def doubts(found: Interactions, metadata: Metadata) -> list[Doubt]:
    return list(metadata_doubts(metadata, metadata_counts(found, metadata)))


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"id": [1, 2, 3, 4], "x": ["a", "b", "a", "b"]}, []),
        ({"id": [1, 2], "x": ["a", "a"]}, ["constant_user_feature"]),
        ({"id": [1, 2, 3, 4], "x": [None, None, None, None]}, ["constant_user_feature"]),
        ({"id": [1, 2, 3, 4], "x": [2.5, 2.5, None, 2.5]}, ["constant_user_feature"]),
        ({"id": [1, 2, 3, 4], "x": ["a", "b", "c", None]}, ["unique_user_feature"]),
        ({"id": [1, 2, 3, 4], "x": [0.1, 0.2, 0.3, 0.4]}, []),
        ({"id": [1, 2, 3, 4], "x": ["a|b", "b", None, None]}, []),
        ({"id": [1, 2, 3, 4], "x": [11, 12, 13, 14]}, ["unique_user_feature"]),
        ({"id": [1, 7, 8, 9], "x": ["a", "a", "b", "b"]}, ["users_without_row", "constant_user_feature"]),
        ({"id": [5, 7, 8, 9], "x": ["a", "a", "b", "b"]}, []),
        ({"id": list(range(1, 31)), "x": [0.5, 1.5, 999999.0, *[1.5] * 27]}, ["cut_user_feature"]),
        ({"id": list(range(1, 41)), "x": [*["1", "2"] * 19, "x", "3"]}, ["nearly_numbers_user_feature"]),
    ],
)
def test_what_a_practitioner_would_doubt(tmp_path: Path, columns: dict[str, Any], names: list[str]) -> None:
    """A table of others, a column that tells nobody apart, one that is another id, a number far off, a slip."""
    users = [1, 2, 3, 4] if len(columns["id"]) < 30 else list(range(1, 31))
    found = interactions(users, [5, 6] * (len(users) // 2))
    said = doubts(found, Metadata(users=table(tmp_path, **columns)))
    assert [doubt.name for doubt in said] == names
    assert all("'x'" in doubt.text or "no row in the users' table" in doubt.text for doubt in said)
    if names == ["nearly_numbers_user_feature"]:
        assert "all but 1 of its 40 values" in said[0].text
        assert "'x' in row 38 of t.parquet" in said[0].text
    if names == ["cut_user_feature"]:
        assert " 1 number(s) more than 5 standard deviations" in said[0].text


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job with both tables: one user without a row, one item without events."""
    parquet(tmp_path / "e.parquet", user_id=[1, 1, 2, 2, 3, 3], item_id=[5, 6, 5, 7, 6, 7])
    parquet(tmp_path / "u.parquet", user_id=[1, 2], age=[30.5, 41.5], city=["x", "y"])
    parquet(tmp_path / "i.parquet", item_id=[5, 6, 7, 8], genres=["a|b", "b", None, "new"])
    path = tmp_path / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "store": str(tmp_path / "store"),
                "events": {"path": "e.parquet"},
                "users": {"path": "u.parquet", "features": ["age", "city"]},
                "items": {"path": "i.parquet", "features": ["genres"]},
                "split": {"kind": "per_user"},
                "train": {"model": "als"},
            }
        )
    )
    return path


def test_the_check_counts_the_tables_of_a_job(job: Path) -> None:
    """Protects what a user sees before a night, as text and for scripts."""
    shown = CliRunner().invoke(app, ["data", "check", "--config", str(job)])
    assert shown.exit_code == 0, shown.output
    for line in (
        "users      2 rows, 0 of them without events, of which 0 without a known feature; 1 users with events have "
        "no row",
        "           age: 2 numbers, missing in 0 rows",
        "           city: 2 categories, missing in 0 rows",
        "items      4 rows, 1 of them without events, of which 1 without a known feature; 0 items with events have "
        "no row",
        "           genres: 2 categories, missing in 1 rows, 1 categories without events",
        "warning    unique_user_feature: the column 'city' of the users' table gives every row a category of its own",
    ):
        assert f"\n{line}" in shown.stdout
    as_json = CliRunner().invoke(app, ["data", "check", "--config", str(job), "--json"])
    found = json.loads(as_json.stdout)["metadata"]
    genres = {"name": "genres", "kind": "categories", "values": 2, "missing": 1, "unseen": 1, "cut": 0}
    assert found["items"] == {
        "rows": 4,
        "with_events": 3,
        "without_events": 1,
        "nothing_known": 1,
        "without_row": 0,
        "columns": [genres | {"unique": False}],
    }
    assert found["users"]["without_row"] == 1


def test_the_check_refuses_a_table_that_does_not_fit(job: Path, tmp_path: Path) -> None:
    """A value that is refused ends the check as it would end the night."""
    parquet(tmp_path / "u.parquet", user_id=[1, 2], age=[30.5, float("inf")], city=["x", "y"])
    refused = CliRunner().invoke(app, ["data", "check", "--config", str(job)])
    assert isinstance(refused.exception, BaseException)
    assert "column 'age' has the number inf in row 1" in str(refused.exception) + refused.output


def test_a_table_of_others_is_a_problem(job: Path, tmp_path: Path) -> None:
    """The wrong table, or ids written in another way: one sentence with both, and no doubt of what nobody reads."""
    parquet(tmp_path / "u.parquet", user_id=[71, 72], age=[30.5, 30.5], city=["x", "x"])
    refused = CliRunner().invoke(app, ["data", "check", "--config", str(job), "--json"])
    found = json.loads(refused.stdout)
    (problem,) = found["problems"]
    assert problem.startswith(
        "no id of the users' table is that of one of the users with events: they have ids such"
    )
    assert "such as 1, the table has ids such as 71" in problem
    assert refused.exit_code != 0
    assert problem in str(refused.exception) + refused.output
    assert [doubt["name"] for doubt in found["warnings"] if "user" in doubt["name"]] == []
    assert [column["kind"] for column in found["metadata"]["users"]["columns"]] == ["number", "categories"]


def test_a_job_without_features_has_nothing_to_count(job: Path) -> None:
    """Tables of titles alone are not read for features."""
    overrides = ["--set", "users=null", "--set", "items={path: i.parquet, title: genres}"]
    shown = CliRunner().invoke(app, ["data", "check", "--config", str(job), "--json", *overrides])
    assert json.loads(shown.stdout)["metadata"] == {"users": None, "items": None}
