"""docs/engine.md: its example runs, its figures are the benchmark's, its promises about files hold."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from nightrank.ranking import index, packing
from pages import PAGES, RELEASE, ROOT, tables

ENGINE = PAGES["engine.md"]


def constants(file: str) -> dict[str, str]:
    """The texts that a script names at its top, read without running it."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    found = [
        node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    return {node.targets[0].id: node.value.value for node in found if isinstance(node.targets[0], ast.Name)}


@pytest.mark.parametrize("source", re.findall(r"```python\n(.*?)```", ENGINE, re.S))
def test_the_example_runs(source: str) -> None:
    """Protects the first thing that a reader copies."""
    exec(compile(source, "engine.md", "exec"), {})  # noqa: S102  our own page


def test_the_tables_are_the_benchmarks() -> None:
    """Protects the figures: each table has the columns that `make bench` prints."""
    bench = constants("benchmarks/top_k.py")
    for name in ("HEADER", "ALONE", "SIZED"):
        assert bench[name] in ENGINE
    assert {row["vectors"] for row in next(iter(tables(ENGINE)))} == set(bench["VECTORS"].split(","))


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    """Protects what the page says of sizes: short lists, the plot, the arrays of a release."""
    assert f"1/{index.FEW} of the catalogue" in ENGINE
    assert (Path(ROOT) / "docs/engine.svg").is_file()
    for name, dtype in packing.SAVED.items():
        assert re.search(rf"^\| `index_{name}.npy` \| {dtype} \|", RELEASE, re.M)
