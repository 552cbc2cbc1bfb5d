"""What the tests of docs/warehouse.md share: its blocks with the placeholders filled in, two nights of one store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

import made
from made import Published
from pages import WAREHOUSE, blocks, section

QUERIES = (
    "The top ten of one user",
    "What everybody gets",
    "Coverage by category",
    "Similar items",
    "Popular items",
    "Everybody exactly once",
    "What changed since another release",
)
Rows = list[tuple[Any, ...]]


class Nights(NamedTuple):
    """Two nights of one store, the second in service; both are only read."""

    kind: str
    before: Published
    now: Published

    def filled(self, code: str) -> str:
        """Code of the page with these releases for STORE, RELEASE, BEFORE, and an id of their type for 45."""
        places = {"STORE": self.now.store.url, "RELEASE": self.now.folder, "BEFORE": self.before.folder}
        for name, path in places.items():
            code = re.sub(rf"(?<=['\"]){name}(?=['\"/])", str(path), code)
        if self.kind == "string":
            code = re.sub(r"\b45\b", "'id-0010'", code).replace("::BIGINT", "::VARCHAR")
        return code

    def statements(self, title: str) -> list[str]:
        """The SQL of a section of the page, one statement each."""
        code = self.filled("\n".join(blocks(section(WAREHOUSE, title), "sql")))
        return [one.strip() for one in code.split(";") if one.strip()]

    @property
    def known(self) -> Any:
        """The user and item that the page asks for."""
        return 45 if self.kind == "int64" else "id-0010"


def both_nights(folder: Path, kind: str) -> Nights:
    def published(events: Any, buckets: int) -> Published:
        score = {"k": 20, "buckets": buckets, "similar_items_k": 10}
        items = made.make_items(n_items=46, items=kind)
        return made.published_release(folder, events=events, items=items, score=score)

    before = published(made.make_events(users=kind, items=kind), 4)
    return Nights(kind, before, published(made.make_later_events(kind=kind), 2))


@pytest.fixture(scope="module", params=["int64", "string"])
def nights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two nights for each type of id."""
    return both_nights(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def duck(nights: Nights) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the views of the page."""
    with duckdb.connect() as connection:
        for statement in nights.statements("In DuckDB"):
            connection.execute(statement)
        yield connection


def answers(run: Callable[[str], Rows], nights: Nights) -> dict[str, Rows]:
    """What each query of the page gives; `run` takes one statement."""
    return {
        f"{title} {place}": run(statement)
        for title in QUERIES
        for place, statement in enumerate(nights.statements(title))
    }
