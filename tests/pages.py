"""What the tests of docs/ share: the pages, their tables, sections and examples, and releases to compare."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import made
from made import Published

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMES = (
    "index",
    "job-file",
    "data",
    "night",
    "sweep",
    "evaluation",
    "published-systems",
    "release",
    "warehouse",
    "engine",
    "http",
    "operations",
    "commands",
)
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
TEXTS = {**PAGES, **{name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md")}}
JOB, DATA, NIGHT, RELEASE = (PAGES[f"{name}.md"] for name in ("job-file", "data", "night", "release"))
WAREHOUSE = PAGES["warehouse.md"]
SWEEP = PAGES["sweep.md"]
HTTP, OPERATIONS, COMMANDS = (PAGES[f"{name}.md"] for name in ("http", "operations", "commands"))
Row = dict[str, str]


def tables(page: str) -> Iterator[list[Row]]:
    """Every table of a page, a row as header -> cell; cells without their code ticks where they are one code."""
    lines = page.splitlines()
    for start, line in enumerate(lines):
        if not re.fullmatch(r"\|(-+\|)+", line.replace(" ", "")) or start == 0:
            continue
        header = cells(lines[start - 1])
        rows = []
        for row in lines[start + 1 :]:
            if not row.startswith("|"):
                break
            assert len(cells(row)) == len(header), f"a row with other columns than its table: {row}"
            rows.append(dict(zip(header, cells(row), strict=True)))
        yield rows


def cells(line: str) -> list[str]:
    parts = [part.strip().replace(r"\|", "|") for part in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
    return [re.sub(r"^`([^`]*)`$", r"\1", part) for part in parts]


def rows_of(page: str, *header: str) -> list[Row]:
    """All rows of the tables of a page whose header begins with these cells; there must be some."""
    found = [row for table in tables(page) if tuple(table[0])[: len(header)] == header for row in table]
    assert found, f"no table {header}"
    return found


def column(page: str, *header: str) -> list[str]:
    """The first column of those rows, in which nothing may stand twice."""
    found = [row[header[0]] for row in rows_of(page, *header)]
    assert len(set(found)) == len(found)
    return found


def section(page: str, title: str) -> str:
    """A page from a heading to the next of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,9}} |\Z)", page, re.M | re.S)
    assert match is not None, f"no section {title}"
    return match[2]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page with exactly this word, or words, behind the fence."""
    return [
        body for info, body in re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.M | re.S) if info == language
    ]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["int64", "string"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One release for each type of id; its tests only read."""
    kind = request.param
    return made.published_release(
        tmp_path_factory.mktemp(kind),
        events=made.make_events(users=kind, items=kind),
        items=made.make_items(items=kind),
    )
