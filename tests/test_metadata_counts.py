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
from nightrank.config.events import WeighingConfig
from nightrank.config.metadata import SideColumns
from nightrank.data.doubts import Doubt, doubts_of
from nightrank.data.events import table_events
from nightrank.data.features import MOST_WHOLE, with_features
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, MetadataTable, read_table
from nightrank.data.metadata_counts import MetadataCounts, metadata_counts


def interactions(users: list[int], items: list[int]) -> Interactions:
    return Interactions.from_arrow(pa.table({"user_id": users, "item_id": items}))


def table(tmp_path: Path, **columns: Any) -> MetadataTable:
    names = tuple(name for name in columns if name != "id")
    file = parquet(tmp_path / "t.parquet", **columns)
    return read_table([file], SideColumns("id", names), what="users", kind="int64")


def plain_side(rows: list[dict[str, Any]], learn: set[int]) -> dict[str, Any]:
    """The same, a row at a time."""
    here = [row for row in rows if row["id"] in learn]
    columns = []
    for name in (key for key in rows[0] if key != "id"):
        seen = {one for row in here for one in as_list(row[name])}
        every = {one for row in rows for one in as_list(row[name])}
        is_number = isinstance(next(iter(every)), float) or (
            isinstance(next(iter(every)), int) and len(seen) > MOST_WHOLE
        )
        missing = sum(not as_list(row[name]) for row in here)
        columns.append(
            {
                "name": name,
                "kind": "number" if is_number else "categories",
                "values": len(seen),
                "missing": missing,
                "unseen": 0 if is_number else len(every - seen),
                "unique": not is_number and 1 < len(seen) == sum(len(as_list(row[name])) for row in here),
            }
        )
    return {
        "rows": len(rows),
        "with_events": len(here),
        "without_events": len(rows) - len(here),
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
        n = end - first
        tags = [rng.choice(list("abcdefgh"), rng.integers(0, 3)).tolist() for _ in range(n)]
        return {
            "id": rng.permutation(np.arange(first, end)),
            "word": pa.array([f"w{one}" for one in rng.integers(0, 200, n)], mask=rng.random(n) < 0.2),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "wide": pa.array(rng.integers(0, 10_000, n), mask=rng.random(n) < 0.2),
            "code": pa.array(rng.integers(0, 60, n), mask=rng.random(n) < 0.2),
            "real": pa.array(rng.integers(0, 9, n) / 2, mask=rng.random(n) < 0.2),
        }

    user_rows, item_rows = rows(10, 200), rows(5, 150)
    metadata = Metadata(users=table(tmp_path, **user_rows), items=table(tmp_path, **item_rows))
    counts = metadata_counts(found, metadata)
    assert counts == metadata_counts(with_features(found, metadata), metadata)
    assert json.loads(json.dumps(counts.as_dict())) == {
        "users": plain_side(pa.table(user_rows).to_pylist(), set(users)),
        "items": plain_side(pa.table(item_rows).to_pylist(), set(items)),
    }
    assert metadata_counts(found, Metadata()) == MetadataCounts(None, None)


def doubts(found: Interactions, metadata: Metadata) -> list[Doubt]:
    """Of the metadata alone: the events here raise none."""
    counts = metadata_counts(found, metadata)
    events = table_events(
        pa.table({"u": [1], "i": [1]}), user="u", item="i", weight=None, time=None, type=None
    )
    return list(doubts_of(events, None, WeighingConfig(), types={}, n_duplicates=0, metadata=counts))


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
    ],
)
def test_what_a_practitioner_would_doubt(tmp_path: Path, columns: dict[str, Any], names: list[str]) -> None:
    """A table of others, a column that tells nobody apart, and one that is another id."""
    found = interactions([1, 2, 3, 4], [5, 5, 6, 6])
    said = doubts(found, Metadata(users=table(tmp_path, **columns)))
    assert [doubt.name for doubt in said] == names
    assert all("'x'" in doubt.text or "no row in the users' table" in doubt.text for doubt in said)


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
        "users      2 rows, 0 of them without events; 1 users with events have no row",
        "           age: 2 numbers, missing in 0 rows",
        "           city: 2 categories, missing in 0 rows",
        "items      4 rows, 1 of them without events; 0 items with events have no row",
        "           genres: 2 categories, missing in 1 rows, 1 categories without events",
        "warning    unique_user_feature: the column 'city' of the users' table gives every row a category of its own",
    ):
        assert f"\n{line}" in shown.stdout
    as_json = CliRunner().invoke(app, ["data", "check", "--config", str(job), "--json"])
    found = json.loads(as_json.stdout)["metadata"]
    genres = {"name": "genres", "kind": "categories", "values": 2, "missing": 1, "unseen": 1, "unique": False}
    assert found["items"] == {
        "rows": 4,
        "with_events": 3,
        "without_events": 1,
        "without_row": 0,
        "columns": [genres],
    }
    assert found["users"]["without_row"] == 1


def test_the_check_refuses_a_table_that_does_not_fit(job: Path, tmp_path: Path) -> None:
    """A value that is refused ends the check as it would end the night."""
    parquet(tmp_path / "u.parquet", user_id=[1, 2], age=[30.5, float("inf")], city=["x", "y"])
    refused = CliRunner().invoke(app, ["data", "check", "--config", str(job)])
    assert isinstance(refused.exception, BaseException)
    assert "column 'age' has the number inf in row 1" in str(refused.exception) + refused.output


def test_a_job_without_features_has_nothing_to_count(job: Path) -> None:
    """Tables of titles alone are not read for features."""
    overrides = ["--set", "users=null", "--set", "items={path: i.parquet, title: genres}"]
    shown = CliRunner().invoke(app, ["data", "check", "--config", str(job), "--json", *overrides])
    assert json.loads(shown.stdout)["metadata"] == {"users": None, "items": None}
