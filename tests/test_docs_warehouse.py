"""docs/warehouse.md: every block runs on two made releases and says what plain Python counts in their Parquet."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import made
import queried
from made import Published
from pages import WAREHOUSE, blocks, rows_of, section
from queried import QUERIES, Nights
from remote import Bucket

nights, duck = queried.nights, queried.duck
Connection = duckdb.DuckDBPyConnection


def table(published: Published, name: str) -> list[dict[str, Any]]:
    return pq.read_table(published.folder / name).to_pylist()


def titles(published: Published) -> dict[Any, str | None]:
    return {row["item_id"]: row["title"] for row in table(published, "items.parquet")}


def answer(duck: Connection, nights: Nights, title: str, place: int = 0) -> queried.Rows:
    return duck.execute(nights.statements(title)[place]).fetchall()


def test_every_block_of_the_page_is_run_by_a_test() -> None:
    """A new block cannot stand on the page untested: each section with code is one that the tests here name."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", WAREHOUSE, flags=re.M | re.S), re.M)
    with_code = {title for title in heads if "```" in section(WAREHOUSE, title)}
    others = {"Which release", "In DuckDB", "In Spark", "Reading only what is needed", "Loading into tables"}
    assert with_code == {*QUERIES, *others, "pandas", "pyarrow", "A store on S3"}
    assert set(re.findall(r"^```(\w+)$", WAREHOUSE, re.M)) == {"sql", "python"}


def test_the_release_in_service_is_found(nights: Nights) -> None:
    """CURRENT is followed to the later night, in SQL as in Python."""
    with duckdb.connect() as connection:
        setting, counting = nights.statements("Which release")
        connection.execute(setting)
        assert connection.execute("SELECT getvariable('release')").fetchall() == [(str(nights.now.folder),)]
        rows = table(nights.now, "recommendations")
        assert connection.execute(counting).fetchall() == [(len({row["user_id"] for row in rows}),)]
    assert nights.now.folder != nights.before.folder


def test_the_top_ten_of_one_user(duck: Connection, nights: Nights) -> None:
    """The list of the user as the service would give it, with titles, in order."""
    names = titles(nights.now)
    expected = [
        (row["rank"], row["item_id"], names[row["item_id"]], row["score"])
        for row in sorted(table(nights.now, "recommendations"), key=lambda row: row["rank"])
        if row["user_id"] == nights.known and row["rank"] <= 10
    ]
    assert answer(duck, nights, "The top ten of one user") == expected
    assert len(expected) == 10


def test_what_everybody_gets(duck: Connection, nights: Nights) -> None:
    """Users per item among the first ten, most first, ties by id."""
    users = Counter(row["item_id"] for row in table(nights.now, "recommendations") if row["rank"] <= 10)
    names = titles(nights.now)
    expected = sorted(
        ((item, names[item], n) for item, n in users.items()), key=lambda row: (-row[2], row[0])
    )
    assert answer(duck, nights, "What everybody gets") == expected[:20]


def test_coverage_by_category(duck: Connection, nights: Nights) -> None:
    """An item in two categories counts in both, one that names a category twice counts once, one without in none."""
    places = Counter(row["item_id"] for row in table(nights.now, "recommendations") if row["rank"] <= 10)
    expected = []
    for category in made.GENRES:
        items = [
            row["item_id"] for row in table(nights.now, "items.parquet") if category in row["categories"]
        ]
        covered = [item for item in items if places[item]]
        share = len(covered) / len(items)
        expected.append((category, len(items), len(covered), share, sum(places[item] for item in items)))
    assert answer(duck, nights, "Coverage by category") == expected
    assert any(0 < share < 1 for *_, share, _ in expected)


def test_similar_items(duck: Connection, nights: Nights) -> None:
    """The five nearest of an item, in order, with their titles."""
    names = titles(nights.now)
    expected = [
        (row["rank"], row["similar_item_id"], names[row["similar_item_id"]], row["score"])
        for row in table(nights.now, "similar_items")
        if row["item_id"] == nights.known and row["rank"] <= 5
    ]
    assert answer(duck, nights, "Similar items") == sorted(expected)
    assert len(expected) == 5


def test_popular_items(duck: Connection, nights: Nights) -> None:
    """Over all first, then each category by name, three each, with the number of users who had them."""
    users: dict[Any, set[Any]] = {}
    for row in pq.read_table(nights.now.run.inputs.events[0]).to_pylist():
        users.setdefault(row["item_id"], set()).add(row["user_id"])
    items = table(nights.now, "items.parquet")
    expected = []
    for category in (None, *made.GENRES):
        members = [row for row in items if row["item_id"] in users and category in (None, *row["categories"])]
        ranked = sorted(members, key=lambda row: (-len(users[row["item_id"]]), row["item_id"]))
        expected += [
            (category, rank, row["item_id"], row["title"], len(users[row["item_id"]]))
            for rank, row in enumerate(ranked[:3], start=1)
        ]
    assert answer(duck, nights, "Popular items") == expected
    assert len(expected) == 12


def test_everybody_exactly_once(duck: Connection, nights: Nights) -> None:
    """The check is silent on a release, and names who stands twice, whose list has a gap or repeats an item."""
    title = "Everybody exactly once"
    assert answer(duck, nights, title) == []
    users = [
        user
        for (user,) in duck.execute("SELECT DISTINCT user_id FROM recommendations ORDER BY ALL").fetchall()
    ]
    twice, gap, headless, repeated = users[:4]
    duck.execute("CREATE TABLE damaged AS FROM recommendations")
    duck.execute("INSERT INTO damaged FROM recommendations WHERE user_id = ?", [twice])
    duck.execute("DELETE FROM damaged WHERE user_id = ? AND rank = 4", [gap])
    duck.execute("DELETE FROM damaged WHERE user_id = ? AND rank = 1", [headless])
    duck.execute(
        "UPDATE damaged SET item_id = (SELECT item_id FROM damaged WHERE user_id = $1 AND rank = 1) "
        "WHERE user_id = $1 AND rank = 2",
        [repeated],
    )
    duck.execute("CREATE OR REPLACE VIEW recommendations AS FROM damaged")
    assert [row[0] for row in answer(duck, nights, title)] == [twice, gap, headless, repeated]


def test_what_changed_since_another_release(duck: Connection, nights: Nights) -> None:
    """Users who came, went and stayed, the overlap of those, and the items that nobody was offered before."""
    title = "What changed since another release"
    lists: list[dict[Any, list[Any]]] = [{}, {}]
    for of, published in zip(lists, (nights.before, nights.now), strict=True):
        for row in table(published, "recommendations"):
            of.setdefault(row["user_id"], []).append(row["item_id"])
    before, now = lists
    tops = [(before[user][:10], now[user][:10]) for user in before.keys() & now.keys()]
    overlaps = [len(set(one) & set(other)) / max(len(one), len(other)) for one, other in tops]
    ((n_both, n_gone, n_new, overlap),) = answer(duck, nights, title)
    assert (n_both, n_gone, n_new) == (len(tops), len(before.keys() - now), len(now.keys() - before))
    assert overlap == pytest.approx(sum(overlaps) / len(overlaps))
    assert 0 < overlap < 1
    known = {item for one in before.values() for item in one}
    users = Counter(item for one in now.values() for item in one if item not in known)
    names = titles(nights.now)
    expected = sorted(
        ((item, names[item], n) for item, n in users.items()), key=lambda row: (-row[2], row[0])
    )
    assert answer(duck, nights, title, 1) == expected
    assert expected


def test_a_load_can_be_repeated(duck: Connection, nights: Nights) -> None:
    """Two nights in one table, one of them loaded twice: each stands once, and the manifest says it is complete."""
    *loading, complete = nights.statements("Loading into tables")
    assert loading[1] == "BEGIN"
    for _ in range(2):
        for statement in loading:
            duck.execute(statement)
    for statement in loading:
        duck.execute(statement.replace(str(nights.now.folder), str(nights.before.folder)))
    counts = {
        published.release.id: published.release.manifest.counts["recommendations"] for published in nights[1:]
    }
    loaded = dict(duck.execute("SELECT release, count(*) FROM nights GROUP BY ALL").fetchall())
    assert loaded.keys() == counts.keys()
    assert loaded[nights.now.release.id] == counts[nights.now.release.id]
    assert duck.execute(complete).fetchall() == [(True,)]
    duck.execute("DELETE FROM nights WHERE rank = 1")
    assert duck.execute(complete).fetchall() == [(False,)]


def test_pandas_and_pyarrow_give_what_sql_gives(duck: Connection, nights: Nights, tmp_path: Path) -> None:
    """The Python blocks, run in their order, find the release in service and the same list as the SQL."""
    (tmp_path / "page.py").write_text(nights.filled("\n".join(blocks(WAREHOUSE, "python"))))
    found = runpy.run_path(str(tmp_path / "page.py"))
    expected = answer(duck, nights, "The top ten of one user")
    assert found["release"] == nights.now.folder
    listed = found["titled"].itertuples(index=False, name=None)
    assert [tuple(None if pd.isna(cell) else cell for cell in row) for row in listed] == expected
    assert found["top"]["item_id"].to_pylist() == [row[1] for row in expected]
    counted = duck.execute("SELECT count(*) FROM recommendations WHERE rank <= 3").fetchall()
    assert [(found["rows"],)] == counted


IDS = {"int64": "ids, from integers", "string": "ids, from texts"}
COLUMNS = {
    "rank": [("recommendations", "rank")],
    "score": [("recommendations", "score")],
    "`category`, `title`": [("popular.parquet", "category"), ("items.parquet", "title")],
    "categories": [("items.parquet", "categories")],
}


def test_types_are_those_of_the_table(nights: Nights) -> None:
    """What the page promises of Parquet, DuckDB and pandas, column by column, for both types of id."""
    said = {row["column"]: row for row in rows_of(WAREHOUSE, "column", "Parquet")}
    assert set(said) == {*IDS.values(), *COLUMNS}
    ids = {IDS[nights.kind]: [("recommendations", "user_id"), ("items.parquet", "item_id")]}
    for name, columns in (COLUMNS | ids).items():
        for file, column in columns:
            path = nights.now.folder / file
            assert str(pq.read_table(path).schema.field(column).type).split("<")[0] == said[name]["Parquet"]
            files = path if path.is_file() else path / "*.parquet"
            described = duckdb.sql(f"DESCRIBE SELECT {column} FROM '{files}'").fetchall()
            assert described[0][1] == said[name]["DuckDB"]
            assert str(pd.read_parquet(path, columns=[column]).dtypes[column]) == said[name]["pandas"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One bucket of five row groups."""
    return made.published_release(
        tmp_path_factory.mktemp("large"),
        events=made.make_events(n_users=1_500, n_items=300),
        items=[],
        score={"k": 200, "buckets": 1, "similar_items_k": 1},
    )


def test_a_condition_on_the_user_skips_row_groups(large: Published) -> None:
    """One user is read from one row group of five, or two, by DuckDB and by pyarrow; a rank is in all of them."""
    (statement,) = Nights("int64", large, large).statements("Reading only what is needed")
    named = duckdb.sql(statement).fetchall()
    files = large.folder / "recommendations"
    (fragment,) = ds.dataset(files, format="parquet").get_fragments()
    groups = fragment.subset(ds.field("user_id") == 45).row_groups
    assert [row[1] for row in named] == [group.id for group in groups]
    assert 1 <= len(named) <= 2 < len(fragment.row_groups) == 5
    assert len(fragment.subset(ds.field("rank") <= 10).row_groups) == 5

    def scanned(condition: str) -> list[int]:
        query = f"EXPLAIN (ANALYZE, FORMAT json) FROM '{files}/*.parquet' WHERE {condition}"
        profile = duckdb.sql(query).fetchall()[0][1]
        return [int(n) for n in re.findall(r'"row_groups_scanned": (\d+)', profile)]

    assert scanned("user_id = 45") == [len(named)]
    assert scanned("rank <= 10") == [5]


def test_a_release_on_s3_is_read_without_a_listing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's block finds the release in service and a user's list, by the manifest alone."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path / "home"))
    published = made.published_release(tmp_path / "job", store=bucket.url())
    (block,) = blocks(WAREHOUSE, "python s3")
    place = published.store.url.removeprefix("s3://")
    server = f'S3FileSystem(endpoint_override="{bucket.endpoint}")'
    code = block.replace("BUCKET/PREFIX", place).replace("S3FileSystem()", server)
    (tmp_path / "page.py").write_text(code)
    bucket.server.requests.clear()
    found = runpy.run_path(str(tmp_path / "page.py"))
    row = published.release.model.user_ids.find(45)
    assert row is not None
    items, _ = published.release.recommendations(row)
    assert found["top"]["item_id"].to_pylist() == published.release.model.item_ids.take(items).to_pylist()
    assert found["current"] == published.release.id
    assert not [path for method, path in bucket.server.requests if path.rstrip("/").count("/") < 2]
