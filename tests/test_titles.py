"""similar --title: an item by what a person types, never a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

import made
from made import Published
from nightrank.cli.app import app
from nightrank.errors import DataError
from nightrank.release.titles import LISTED

TITLES = {
    5: "Star Wars (1977)",
    6: "Star Trek: Generations (1994)",
    7: "Árbol, El",
    8: "Twice",
    9: "TWICE",
    10: "Twice more",
    11: "100% <b>odd</b> [x](.*)",
    12: "Straße",
    13: "Matrix, The (1999)",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A release with these titles; the third item has none, the others are `Títle 14` and so on. Tests only read."""
    items = made.make_items()
    titles = [TITLES.get(place, title) for place, title in enumerate(items["title"].to_pylist())]
    items = items.set_column(1, "title", pa.array(titles, pa.string()))
    return made.published_release(tmp_path_factory.mktemp("titles"), items=items)


def asked(published: Published, *words: str) -> Result:
    return CliRunner().invoke(app, ["similar", "--store", published.store.url, *words])


def id_of(place: int) -> int:
    return made.make_ids(made.N_ITEMS, kind="int64")[place]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Star Wars (1977)", 5),
        ("  star wars (1977) ", 5),
        ("wars", 5),
        ("generations", 6),
        ("ÁRBOL, EL", 7),
        ("twice more", 10),
        ("(.*)", 11),
        ("<B>ODD", 11),
        ("STRASSE", 12),
    ],
)
def test_a_title_or_a_part_of_one_is_the_item(published: Published, text: str, place: int) -> None:
    """Whatever the case; the answer is the one of the item's id, and a person reads which item it was."""
    by_id = asked(published, "--json", "--", str(id_of(place)))
    by_title = asked(published, "--title", text, "--json")
    assert by_title.exit_code == 0, by_title.output
    assert json.loads(by_title.stdout) == json.loads(by_id.stdout)
    assert json.loads(by_title.stdout)["item_id"] == id_of(place)
    assert (
        f"similar to {id_of(place)}  {TITLES[place]}" in asked(published, "--title", text, "-k", "3").stdout
    )


@pytest.mark.parametrize(
    ("text", "places"),
    [("star", [5, 6]), ("twice", [8, 9]), ("títle 2", [20, 21, 22, 23, 24, 25, 26, 27, 28, 29])],
)
def test_of_several_none_is_taken(published: Published, text: str, places: list[int]) -> None:
    """Each with its id, the one that most people know first; a whole title goes before those that contain it."""
    done = asked(published, "--title", text)
    assert isinstance(done.exception, DataError)
    assert done.exception.exit_code == 2
    said = str(done.exception)
    assert said.startswith(f"{len(places)} titles of release {published.release.id} fit {text!r}")
    listed = [int(line.split()[0]) for line in said.splitlines()[1:]]
    users = dict(
        zip(published.release.model.item_ids, published.release.model.popularity.tolist(), strict=True)
    )
    assert sorted(listed) == sorted(id_of(place) for place in places)
    assert [users[one] for one in listed] == sorted((users[one] for one in listed), reverse=True)


def test_a_long_list_of_candidates_is_cut(published: Published) -> None:
    """What nobody would read through is counted."""
    done = asked(published, "--title", "t")
    lines = str(done.exception).splitlines()
    assert len(lines) == 1 + LISTED + 1
    n_titles = int(lines[0].split()[0])
    assert lines[-1] == f"  and {n_titles - LISTED} more"
    assert n_titles > LISTED


@pytest.mark.parametrize(
    ("text", "near"),
    [("the matrix (1999)", "Matrix, The (1999)"), ("stra wars", "Star Wars (1977)"), ("q", "")],
)
def test_where_none_fits_the_nearest_are_named(published: Published, text: str, near: str) -> None:
    """With their ids, and the command ends as on any bad input."""
    done = asked(published, "--title", text)
    assert isinstance(done.exception, DataError)
    said = str(done.exception)
    assert "no title of release" in said
    assert len(said.splitlines()) == 4
    assert near in said


@pytest.mark.parametrize("words", [[], ["3", "--title", "star wars"], ["--title", " "]])
def test_one_item_is_asked_for(published: Published, words: list[str]) -> None:
    """Neither id nor title, both, or a title of nothing: bad usage."""
    done = asked(published, *words)
    assert done.exit_code == 2 or isinstance(done.exception, DataError)
    assert done.stdout == ""


def test_a_release_without_titles_says_so(tmp_path: Path) -> None:
    """There the id is the only name."""
    published = made.published_release(tmp_path, items=pa.table({"item_id": pa.array([], pa.int64())}))
    done = asked(published, "--title", "star wars")
    assert "has no titles; name the item by its id" in str(done.exception)
