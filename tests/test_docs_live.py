"""docs/http.md on live partitions: settings, figures and messages are those of the code."""

from __future__ import annotations

import ast
from typing import get_args

from nightrank.config.service import LiveSettings
from nightrank.service import live_index
from pages import HTTP, ROOT, rows_of, section

PAGE = section(HTTP, "Live partitions")


def test_every_placement_is_explained() -> None:
    """A reader finds each value of `live.placement`, and none that would be refused."""
    said = {row["placement"] for row in rows_of(PAGE, "partitions", "placement")}
    assert said == set(get_args(LiveSettings.model_fields["placement"].annotation))


def test_the_table_is_the_benchmarks() -> None:
    """The figures have the columns and rows that `make bench` prints."""
    tree = ast.parse((ROOT / "benchmarks/partitions.py").read_text("utf-8"))
    found = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    header = ast.literal_eval(found["HEADER"])
    assert header in PAGE
    rows = rows_of(PAGE, "items", "sigma of norms")
    sizes = ast.literal_eval(found["SIZES"]).split(",")
    assert [row["ranked by"] for row in rows] == len(sizes) * [
        "one index, one thread",
        "2 shares in the process",
        "4 shares in the process",
        "2 actors",
    ]
    assert {f"{row['items'].replace(',', '')}:{row['sigma of norms']}" for row in rows} == set(sizes)
    assert "benchmarks/partitions.py" in (ROOT / "Makefile").read_text("utf-8")


def test_waits_are_those_of_the_code() -> None:
    """How long a caller, a swap and a start wait for a partition."""
    assert (live_index.RANK_S, live_index.OPEN_S, live_index.FIRST_S) == (2.0, 60.0, 15.0)
    for text in ("after two seconds", "within a minute", "15 seconds at most"):
        assert text in " ".join(section(HTTP, "Partitions as deployments").split())


def test_the_error_has_its_place() -> None:
    """The code that a caller meets is in the table of errors."""
    assert "partition_unavailable" in [row["code"] for row in rows_of(HTTP, "status", "code")]
