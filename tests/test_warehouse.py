"""The Parquet of a release as a warehouse sees it: DuckDB reads the files, nothing of ours does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xxhash

import made
from made import Published

K, SIMILAR_K, BUCKETS = 20, 10, 4


@pytest.fixture(scope="module", params=["int64", "string"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One release for each type of id; its tests only read."""
    kind = request.param
    return made.published_release(
        tmp_path_factory.mktemp(kind),
        events=made.make_events(users=kind, items=kind),
        items=made.make_items(items=kind),
        score={"k": K, "buckets": BUCKETS, "similar_items_k": SIMILAR_K},
    )


@pytest.fixture
def warehouse(published: Published) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a view of each table of the release, and of the events that it was made from."""
    with duckdb.connect() as connection:
        for name, files in (
            ("recommendations", published.folder / "recommendations" / "*.parquet"),
            ("similar_items", published.folder / "similar_items" / "*.parquet"),
            ("popular", published.folder / "popular.parquet"),
            ("items", published.folder / "items.parquet"),
            ("events", published.run.inputs.events[0]),
        ):
            connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{files}')")
        yield connection


def rows(warehouse: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return warehouse.execute(query).fetchall()


def test_every_user_stands_exactly_once_at_each_rank(warehouse: duckdb.DuckDBPyConnection) -> None:
    """Nobody is scored twice or left out; only the user who has seen every item has no list."""
    twice = "SELECT user_id, rank FROM recommendations GROUP BY ALL HAVING count(*) > 1"
    assert rows(warehouse, twice) == []
    absent = "SELECT DISTINCT user_id FROM events ANTI JOIN recommendations USING (user_id)"
    catalogue = "SELECT count(DISTINCT item_id) FROM events"
    seen_all = f"SELECT user_id FROM events GROUP BY ALL HAVING count(*) = ({catalogue})"
    assert rows(warehouse, absent) == rows(warehouse, seen_all)
    assert len(rows(warehouse, seen_all)) == 1
    strangers = "FROM recommendations ANTI JOIN events USING (user_id)"
    assert rows(warehouse, strangers) == []


def test_ranks_run_from_1_without_gaps_as_far_as_there_are_unseen_items(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    """A list has min(k, unseen items) places, also for the user who has only three items left."""
    query = """
        WITH unseen AS (
            SELECT user_id, (SELECT count(DISTINCT item_id) FROM events) - count(*) AS n FROM events GROUP BY ALL
        )
        SELECT n, min(rank), max(rank), count(*), count(DISTINCT item_id)
        FROM recommendations JOIN unseen USING (user_id) GROUP BY user_id, n
    """
    lists = rows(warehouse, query)
    assert len(lists) == made.N_USERS - 1
    assert all(
        (first, last, count, distinct) == (1, min(K, n), min(K, n), min(K, n))
        for n, first, last, count, distinct in lists
    )
    assert min(n for n, *_ in lists) == 3


@pytest.mark.parametrize(
    ("table", "owner", "item"),
    [("recommendations", "user_id", "item_id"), ("similar_items", "item_id", "similar_item_id")],
)
def test_scores_descend_and_ties_go_by_item_id(
    warehouse: duckdb.DuckDBPyConnection, table: str, owner: str, item: str
) -> None:
    """The order of a list is a function of its scores: best first, equal ones by id (text by its bytes)."""
    wrong = f"""
        SELECT * FROM (
            SELECT score, {item} AS item, lag(score) OVER list AS above, lag({item}) OVER list AS item_above
            FROM {table} WINDOW list AS (PARTITION BY {owner} ORDER BY rank)
        ) WHERE score > above OR (score = above AND item < item_above) OR NOT isfinite(score)
    """
    assert rows(warehouse, wrong) == []
    assert rows(warehouse, f"SELECT count(*) > 100 FROM {table}") == [(True,)]


def test_ties_are_broken_by_item_id_where_there_are_many(tmp_path: Path) -> None:
    """With popularity most scores tie: within equal scores ids ascend, in every list."""
    published = made.published_release(tmp_path, train={"model": "popularity", "params": {}})
    files = published.folder / "recommendations" / "*.parquet"
    query = f"""
        SELECT count(*) FILTER (score = above), count(*) FILTER (score = above AND item_id < item_above) FROM (
            SELECT *, lag(score) OVER list AS above, lag(item_id) OVER list AS item_above
            FROM read_parquet('{files}') WINDOW list AS (PARTITION BY user_id ORDER BY rank)
        )
    """
    ties, wrong = duckdb.sql(query).fetchall()[0]
    assert ties > 100
    assert wrong == 0


def test_no_seen_item_is_recommended(warehouse: duckdb.DuckDBPyConnection) -> None:
    """What somebody has had is not offered again, and only items that exist are."""
    assert rows(warehouse, "FROM recommendations SEMI JOIN events USING (user_id, item_id)") == []
    assert rows(warehouse, "FROM recommendations ANTI JOIN events USING (item_id)") == []


def test_columns_have_the_documented_names_and_types(
    warehouse: duckdb.DuckDBPyConnection, published: Published
) -> None:
    """Ids keep the type of the events, ranks are int32, scores float32: others script against it."""
    kind = "BIGINT" if published.release.model.user_ids.is_int else "VARCHAR"
    expected = {
        "recommendations": [("user_id", kind), ("rank", "INTEGER"), ("item_id", kind), ("score", "FLOAT")],
        "similar_items": [
            ("item_id", kind),
            ("rank", "INTEGER"),
            ("similar_item_id", kind),
            ("score", "FLOAT"),
        ],
        "popular": [("category", "VARCHAR"), ("rank", "INTEGER"), ("item_id", kind), ("score", "FLOAT")],
        "items": [("item_id", kind), ("title", "VARCHAR"), ("categories", "VARCHAR[]")],
    }
    for table, columns in expected.items():
        assert [row[:2] for row in rows(warehouse, f"DESCRIBE {table}")] == columns


def test_popular_counts_users_over_all_and_by_category(warehouse: duckdb.DuckDBPyConnection) -> None:
    """The fallback's figures are what SQL counts: users per item, ties by item id, k for each category."""
    query = f"""
        WITH used AS (SELECT item_id, count(DISTINCT user_id)::FLOAT AS score FROM events GROUP BY ALL),
        grouped AS (
            SELECT NULL AS category, * FROM used
            UNION ALL
            SELECT DISTINCT category, used.* FROM used JOIN (
                SELECT item_id, unnest(categories) AS category FROM items
            ) USING (item_id)
        ),
        placed AS (
            SELECT category, row_number() OVER list AS rank, item_id, score FROM grouped
            WINDOW list AS (PARTITION BY category ORDER BY score DESC, item_id)
        )
        FROM placed WHERE rank <= {K} ORDER BY ALL
    """
    expected = rows(warehouse, query)
    assert rows(warehouse, "FROM popular ORDER BY ALL") == expected
    assert {row[0] for row in expected} == {None, *made.GENRES}
    first = rows(warehouse, "SELECT category FROM popular LIMIT 1")
    assert first == [(None,)]


def test_similar_items_join_the_items_and_hold_no_item_itself(warehouse: duckdb.DuckDBPyConnection) -> None:
    """Every item of the model has k others with cosines in [-1, 1], all of them with a row in items."""
    assert (
        rows(warehouse, "FROM similar_items WHERE item_id = similar_item_id OR abs(score) > 1.000001") == []
    )
    lengths = rows(
        warehouse, "SELECT max(rank), count(DISTINCT similar_item_id) FROM similar_items GROUP BY item_id"
    )
    assert lengths == [(SIMILAR_K, SIMILAR_K)] * made.N_ITEMS
    assert rows(warehouse, "FROM similar_items ANTI JOIN items ON similar_item_id = items.item_id") == []


def test_similar_items_equal_the_cosines_of_the_vectors(published: Published) -> None:
    """A plain float64 computation from the published vectors gives the same neighbours and cosines."""
    model = published.release.model
    units = model.item_vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    for row in range(made.N_ITEMS):
        items, scores = published.release.similar(row)
        np.testing.assert_allclose(scores, np.sort(cosines[row])[::-1][:SIMILAR_K], atol=1e-6)
        np.testing.assert_allclose(cosines[row][items], scores, atol=1e-6)


def test_items_join_recommendations(warehouse: duckdb.DuckDBPyConnection) -> None:
    """Titles come by a plain join; items without events are kept, and a missing title is null, not empty."""
    joined = "SELECT count(*) FROM recommendations JOIN items USING (item_id)"
    assert rows(warehouse, joined) == rows(warehouse, "SELECT count(*) FROM recommendations")
    assert rows(warehouse, "SELECT count(*), count(title), count(DISTINCT item_id) FROM items") == [
        (made.N_ITEMS + 1, made.N_ITEMS, made.N_ITEMS + 1)
    ]
    assert rows(warehouse, "SELECT DISTINCT len(categories) FROM items ORDER BY ALL") == [(0,), (1,), (2,)]


def test_recommendations_equal_a_plain_ranking_of_the_vectors(published: Published) -> None:
    """The lists are the exact top k: float64 products of the published vectors, sorted in full, say the same."""
    model = published.release.model
    scores = model.user_vectors.astype(np.float64) @ model.item_vectors.T.astype(np.float64)
    scores += model.item_bias
    for row in range(made.N_USERS):
        open_items = np.setdiff1d(np.arange(made.N_ITEMS), published.release.history(row)[0])
        exact = scores[row, open_items].astype(np.float32)
        order = np.lexsort((open_items, -exact))[:K]
        items, listed = published.release.recommendations(row)
        np.testing.assert_allclose(listed, exact[order], rtol=1e-6, atol=1e-7)
        assert items.tolist() == open_items[order].tolist()


def test_a_user_is_in_the_file_that_the_hash_of_the_id_names(published: Published) -> None:
    """Anybody can find a user's file: xxh64 of the id (int64 little-endian or UTF-8) mod the number of files."""
    files = sorted((published.folder / "recommendations").glob("*.parquet"))
    assert [path.name for path in files] == [f"part-{part:05d}-of-00004.parquet" for part in range(BUCKETS)]
    users = 0
    for part, path in enumerate(files):
        for user_id in set(pq.read_table(path)["user_id"].to_pylist()):
            raw = user_id.encode() if isinstance(user_id, str) else user_id.to_bytes(8, "little", signed=True)
            assert xxhash.xxh64_intdigest(raw) % BUCKETS == part
            users += 1
    assert users == made.N_USERS - 1


def test_files_are_sorted_by_user_then_rank(published: Published) -> None:
    """A reader of one user skips all but one row group, since every file is in order."""
    for path in (published.folder / "recommendations").glob("*.parquet"):
        table = pq.read_table(path)
        assert table.equals(table.sort_by([("user_id", "ascending"), ("rank", "ascending")]))


def test_row_groups_hold_at_most_64k_rows_with_statistics(tmp_path: Path) -> None:
    """A big file is many small row groups, each with the range of its users, so that readers can skip."""
    published = made.published_release(
        tmp_path,
        events=made.make_events(n_users=800, n_items=200),
        items=[],
        score={"k": 100, "buckets": 1, "similar_items_k": 1},
    )
    file = pq.ParquetFile(published.folder / "recommendations" / "part-00000-of-00001.parquet")
    groups = [file.metadata.row_group(place) for place in range(file.num_row_groups)]
    assert file.metadata.num_rows > 64_000
    assert max(group.num_rows for group in groups) <= 64_000
    assert sum(group.num_rows for group in groups) == file.metadata.num_rows
    bounds = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    assert bounds == sorted(bounds)
    assert all(before[1] <= after[0] for before, after in pairwise(bounds))


KEYS = {
    "recommendations/*.parquet": ["user_id", "rank"],
    "similar_items/*.parquet": ["item_id", "rank"],
    "popular.parquet": ["category", "rank"],
    "items.parquet": ["item_id"],
}


@pytest.mark.parametrize("table", KEYS)
def test_chunks_are_zstd_with_statistics_and_the_footer_names_the_order(
    published: Published, table: str
) -> None:
    """Readers can skip by any column, and need not sort what says that it is sorted, and is."""
    for path in published.folder.glob(table):
        file = pq.ParquetFile(path)
        read = file.read()
        order = [(name, "ascending", "at_start") for name in KEYS[table]]
        assert read.equals(read.take(pc.sort_indices(read, sort_keys=order)))
        assert file.num_row_groups > 0
        for group in (file.metadata.row_group(place) for place in range(file.num_row_groups)):
            named = [group.column(one.column_index).path_in_schema for one in group.sorting_columns]
            assert named == KEYS[table]
            assert all(not one.descending and one.nulls_first for one in group.sorting_columns)
            for place in range(group.num_columns):
                chunk = group.column(place)
                assert chunk.compression == "ZSTD"
                assert chunk.is_stats_set
                assert chunk.statistics.has_null_count
                assert chunk.statistics.has_min_max or chunk.statistics.null_count == chunk.num_values


def test_only_columns_that_repeat_have_a_dictionary(published: Published) -> None:
    """Protects size and time: a dictionary of scores made files 1.4 times as large and took twice the time."""
    for table, listed in (("recommendations", "item_id"), ("similar_items", "similar_item_id")):
        for file in sorted((published.folder / table).iterdir()):
            metadata = pq.read_metadata(file)
            columns = [metadata.row_group(0).column(place) for place in range(metadata.num_columns)]
            with_dictionary = {column.path_in_schema for column in columns if column.has_dictionary_page}
            texts = {column.path_in_schema for column in columns if column.physical_type == "BYTE_ARRAY"}
            assert with_dictionary == {columns[0].path_in_schema, "rank"} | (texts & {listed})


def test_lists_longer_than_the_catalogue_stop_at_its_end(tmp_path: Path) -> None:
    """k beyond what there is gives what there is: no padding, no invented ids, in either table."""
    published = made.published_release(tmp_path, score={"k": 500, "buckets": 2, "similar_items_k": 500})
    with duckdb.connect() as connection:
        recommendations = connection.read_parquet(f"{published.folder}/recommendations/*.parquet")
        similar = connection.read_parquet(f"{published.folder}/similar_items/*.parquet")
        pairs = published.release.manifest.counts["pairs"]
        assert len(recommendations) == made.N_USERS * made.N_ITEMS - pairs
        assert len(similar) == made.N_ITEMS * (made.N_ITEMS - 1)
        assert recommendations.filter("item_id IS NULL OR score IS NULL OR isnan(score)").fetchall() == []
