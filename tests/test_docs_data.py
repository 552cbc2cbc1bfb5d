"""docs/data.md: its worked example recomputed, the formats, the counts, the report of the data check."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from eventfiles import decoded
from nightrank import errors
from nightrank.batch.inputs import find_inputs, load_interactions, table_paths
from nightrank.config.job import load_job
from nightrank.data import csvlines, jsonlines
from nightrank.data.attribute_reading import NEARLY
from nightrank.data.attribute_types import MOST_WHOLE
from nightrank.data.attributes import MISSING_TEXTS
from nightrank.data.counts import Counts
from nightrank.data.events import read_events
from nightrank.data.features import MOST_DEVIATIONS, with_features
from nightrank.data.formats import SUPPORTED
from nightrank.data.grouping import CHUNK_EVENTS
from nightrank.data.metadata import read_metadata
from nightrank.data.metadata_counts import ColumnCounts, SideCounts
from nightrank.data.movielens import URL
from nightrank.data.report import Report
from nightrank.data.tables import BATCH_ROWS
from nightrank.data.weighing import decay, weighted
from pages import DATA, ROOT, Row, blocks, column, rows_of, section, written


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The worked example of data.md on disk; the job file beside its events."""
    (tmp_path / "events.csv").write_text(blocks(DATA, "csv")[0], encoding="utf-8")
    return written(tmp_path, blocks(DATA, "yaml")[0])


def test_what_each_event_counts_is_recomputed(example: Path) -> None:
    """weight x type weight x decay, as the product computes it, is the last column of the table."""
    job = load_job(example)
    roles = job.events.columns.model_dump()
    events = read_events([Path(str(job.events.path))], **roles)
    events = weighted(events, type_weights=job.events.type_weights)
    assert events.times is not None
    assert job.events.half_life_days is not None
    left = decay(events.times, latest=int(events.times.max()), half_life_days=job.events.half_life_days)
    said = rows_of(DATA, "user", "item", "weight")
    assert [(row["user"], int(row["item"]), float(row["counts"])) for row in said] == [
        (row["user"], row["item"], row["weight"] * share)
        for row, share in zip(decoded(events).to_pylist(), left.tolist(), strict=True)
    ]
    for row in said:
        product = float(row["weight"]) * float(row["type weight"]) * float(row["decay"])
        assert product == float(row["counts"])


@pytest.mark.parametrize("how", ["sum", "max", "last"])
def test_what_each_pair_weighs_is_recomputed(example: Path, how: str) -> None:
    """Combining the example's events gives the numbers of the table, and drops one pair of weight zero."""
    job = load_job(example, overrides=[f"events.combine={how}"])
    found = load_interactions(job, find_inputs(job), family="als")
    matrix = found.user_items.tocoo()
    pairs = {
        (found.user_ids[int(user)], found.item_ids[int(item)]): float(weight)
        for user, item, weight in zip(matrix.row, matrix.col, matrix.data, strict=True)
    }
    said = {(row["user"], int(row["item"])): float(row[how]) for row in rows_of(DATA, "user", "item", "sum")}
    assert pairs == said
    assert found.n_zero_pairs == 1


def test_the_formats_the_data_source_and_a_refusal_are_the_real_ones(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The list of formats, the publisher's address and the message of a negative weight are the product's."""
    assert tuple(column(DATA, "name ends with")) == SUPPORTED
    assert URL in DATA
    monkeypatch.chdir(tmp_path)
    Path("events.csv").write_text("user_id,item_id,weight\n1,3,1\n2,3,-1\n")
    with pytest.raises(errors.DataError) as refused:
        read_events(
            [Path("events.csv")], user="user_id", item="item_id", weight="weight", time=None, type=None
        )
    assert f"{refused.value}\n" in blocks(DATA, "text")


@pytest.mark.parametrize("row", rows_of(DATA, "min_events_per_item"), ids=str)
def test_what_a_minimum_of_events_leaves_is_recomputed(example: Path, row: Row) -> None:
    """The pairs left and the counts of the page are those of the product."""
    names = ("min_events_per_item", "min_events_per_user")
    job = load_job(example, overrides=[f"events.{name}={row[name]}" for name in names])
    found = load_interactions(job, find_inputs(job), family="als")
    users, items = found.user_items.nonzero()
    pairs = [f"{found.user_ids[int(u)]} {found.item_ids[int(i)]}" for u, i in zip(users, items, strict=True)]
    assert row["pairs left"] == ", ".join(pairs)
    for name in ("rare_items", "rare_item_events", "rare_users", "rare_user_events"):
        assert getattr(found.counts, name) == int(row[name])


def test_the_example_of_a_frame_runs(tmp_path: Path) -> None:
    """The lines on tables in memory hold their own assertions, and they are true."""
    (code,) = blocks(DATA, "python")
    assert "assert" in code
    (tmp_path / "frame.py").write_text(code)
    runpy.run_path(str(tmp_path / "frame.py"))


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_worked_example_of_features_is_recomputed(tmp_path: Path, side: str) -> None:
    """Every number of the two tables, and every name above it, is what the product makes of the page's files."""
    for name, text in zip(("events", "users", "items"), blocks(DATA, "csv"), strict=True):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    job = load_job(written(tmp_path, blocks(DATA, "yaml")[1]))
    found = load_interactions(job, find_inputs(job), family="als")
    paths = table_paths(job)
    metadata = read_metadata(
        job,
        user_files=paths["users"],
        item_files=paths["items"],
        user_kind=found.user_ids.kind,
        item_kind=found.item_ids.kind,
    )
    attached = with_features(found, metadata)
    assert attached.features is not None
    features = getattr(attached.features, f"{side}s")
    names = [
        name
        for column in features.columns
        for name in (
            [column.name] if column.values is None else [f"{column.name}={v}" for v in column.values]
        )
    ]
    said = rows_of(DATA, side, names[0])
    ids = getattr(attached, f"{side}_ids").array.to_pylist()
    assert [list(row.items()) for row in said] == [
        [(side, str(one)), *((name, f"{value:g}") for name, value in zip(names, row, strict=True))]
        for one, row in zip(ids, features.matrix.toarray().tolist(), strict=True)
    ]


def test_when_whole_numbers_are_categories_is_documented() -> None:
    """The page says the number that the product goes by."""
    assert f"the table has at most {MOST_WHOLE} distinct ones" in DATA


def test_what_is_missing_and_where_numbers_are_cut_is_documented() -> None:
    """The page lists every text that is missing, and says the limit in each of its places, as do the other pages."""
    (row,) = (cell for cell in column(DATA, "the column holds", "what it is") if cell.startswith("the texts"))
    assert tuple(re.findall(r"`([^`]+)`", row)) == MISSING_TEXTS
    far = f"{MOST_DEVIATIONS:g}"
    assert f"cut to at most {far} either way" in DATA
    assert f"more than {far} standard deviations from the mean" in DATA
    assert f"at least {NEARLY:.0%} of the values" in DATA
    assert f"counts as {far} standard deviations" in (ROOT / "docs/http.md").read_text()
    assert f"cut to\n{far} either way" in (ROOT / "docs/release.md").read_text()


def test_every_count_of_the_metadata_is_documented() -> None:
    """Scripts find every key of a table and of a column, in their order."""
    cells = column(section(DATA, "Checking a job's events"), "of a table", "what it is")
    names = [name for cell in cells for name in re.findall(r"\w+", cell)]
    assert names == [one.name for kind in (SideCounts, ColumnCounts) for one in fields(kind)]


def test_every_count_of_the_events_is_documented() -> None:
    """Whatever is counted is explained, and nothing that is not."""
    said = {name for cell in column(DATA, "count", "what it is") for name in re.findall(r"\w+", cell)}
    assert said == {one.name for one in fields(Counts)}


def test_the_report_of_the_data_check_is_documented_key_by_key() -> None:
    """Scripts find every key and every warning of the check explained, and no other."""
    page = section(DATA, "Checking a job's events")
    names = [name for cell in column(page, "key", "what it is") for name in re.findall(r"\w+", cell)]
    assert names == [one.name for one in fields(Report)]
    files = [ROOT / f"platform/nightrank/data/{name}.py" for name in ("doubts", "metadata_doubts")]
    code = "".join(file.read_text() for file in files)
    found = set(re.findall(r'Doubt\(\s*f?"([\w{}]+)"', code))
    real = {
        name.replace("{name}", kind).replace("{column}", kind) for name in found for kind in ("user", "item")
    }
    said = {name for cell in column(page, "warning", "when") for name in re.findall(r"\w+", cell)}
    assert said == real


def test_the_limits_on_a_line_are_those_of_the_readers() -> None:
    """Whoever has long lines finds how long they may be."""
    page = section(DATA, "Files")
    assert f"A row has at most {csvlines.BLOCK_BYTES >> 20} MiB." in page
    assert f"A line has at most {jsonlines._BLOCK_BYTES >> 20} MiB." in page


def test_the_section_on_size_says_what_the_benchmark_measures() -> None:
    """Protects the stated multiple: the tables are the benchmark's, and their rows hold what the page promises."""
    bench = runpy.run_path(str(ROOT / "benchmarks/load.py"))
    page = section(DATA, "Size")
    plain, others = rows_of(page, "events", "pairs"), rows_of(page, "files", "events")
    assert [" | ".join(rows[0]) for rows in (plain, others)] == [
        bench["HEADER"],
        f"files | {bench['HEADER']}",
    ]
    assert [int(row["events"].replace(",", "")) for row in plain] == list(bench["EVENTS"])
    assert {int(row["events"].replace(",", "")) for row in others} == {bench["OTHERS_EVENTS"]}
    assert f"{bench['USERS']:,} users, {bench['ITEMS']:,} items" in page
    multiple = re.search(r"less than (\d+) times the CSR matrix", page)
    assert multiple is not None
    assert float(plain[-1]["peak / CSR"]) < int(multiple[1])
    assert [row["files"] for row in others] == [name for name, _, _ in bench["OTHERS"]]
    shop = re.search(r"a shop's job .* less than (\d+) times", page)
    assert shop is not None
    assert all(float(row["peak / CSR"]) < int(shop[1]) for row in others if "shop" in row["files"])
    assert f"half-life of {bench['SHOP']['half_life_days']} days" in page
    assert f"in parts of {BATCH_ROWS:,} rows" in page
    assert f"more than {CHUNK_EVENTS:,} events" in page
