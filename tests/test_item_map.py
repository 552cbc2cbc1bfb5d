"""plot map: near vectors are near on the plane, the files hold every title and nothing that a title could run."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import made
from nightrank.cli.app import app
from nightrank.cli.map_legend import grouped
from nightrank.cli.map_page import page
from nightrank.cli.map_png import write_png
from nightrank.errors import DataError
from nightrank.ranking.layout import ITERATIONS, flat_layout
from nightrank.release import open_release
from nightrank.release.item_map import ItemMap, MappedItem, item_map
from nightrank.release.model_files import ModelFiles

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]> & \"quoted\" 'single' \\u003c \u2028 $x^{",
    "日本 😀",
    "%%DATA%%",
)


def two_groups(n: int, *, d: int = 16) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """n vectors of any length around two directions, and which of them each has."""
    rng = np.random.default_rng(5)
    side = rng.integers(2, size=n)
    vectors = rng.normal(size=(2, d))[side] + 0.3 * rng.normal(size=(n, d))
    return (vectors * rng.uniform(0.1, 10, size=(n, 1))).astype(np.float32), side


def a_map(titles: list[str], categories: list[tuple[str, ...]]) -> ItemMap:
    rng = np.random.default_rng(0)
    items = tuple(
        MappedItem(*rng.uniform(-1, 1, 2).tolist(), item_id=place, title=title, categories=of, users=9)
        for place, (title, of) in enumerate(zip(titles, categories, strict=True))
    )
    return ItemMap(release="<r&1>", family="als", items=items, n_items=len(items) + 3, n_without=2)


class Read(html.parser.HTMLParser):
    """The elements of a page with their attributes, and the text of each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._open.append(f"script {dict(attrs).get('type', '')}".strip())
        elif tag not in ("meta", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().split()[0] == tag

    def handle_data(self, text: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + text


@pytest.mark.parametrize("n", [40, 200])
def test_near_vectors_are_near_on_the_plane(n: int) -> None:
    """Every point's nearest neighbour on the plane is of its own group, whatever the lengths of the vectors."""
    vectors, side = two_groups(n)
    points = flat_layout(vectors, seed=0)
    far = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(far, np.inf)
    assert (side[far.argmin(axis=1)] == side).all()
    assert np.abs(points).max() == pytest.approx(1.0)


def test_a_seed_gives_the_same_bytes_and_progress_is_told() -> None:
    """A map can be made again, with a bar or without; the bar sees the last iterations."""
    vectors, _ = two_groups(50)
    told: list[int] = []
    first = flat_layout(vectors, seed=3, on_iteration=lambda done, of: told.append(done))
    assert flat_layout(vectors, seed=3).tobytes() == first.tobytes()
    assert told == sorted(told)
    assert 0 < told[-1] <= ITERATIONS


@pytest.mark.parametrize("n", [1, 3, 4, 12])
@pytest.mark.parametrize("d", [1, 8])
@pytest.mark.parametrize("kind", ["random", "equal"])
def test_few_points_few_columns_and_equal_ones_have_places(n: int, d: int, kind: str) -> None:
    """A catalogue of any size can be drawn: finite places, and no warning."""
    vectors = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    if kind == "equal":
        vectors[:] = vectors[0]
    points = flat_layout(vectors, seed=0)
    assert (points.shape, points.dtype) == ((n, 2), np.float32)
    assert np.isfinite(points).all()
    assert np.abs(points).max() <= 1.0


def test_the_page_holds_every_title_and_no_title_can_act() -> None:
    """Titles are data: the page's only script is its own, its policy allows that one alone, and nothing is loaded."""
    drawn = a_map(list(HOSTILE), [("</script>",), (), ("a&b", "c"), ("$",), ()])
    text = page(drawn, by_category=True).decode()
    read = Read(text)
    tags = [tag for tag, _ in read.tags]
    assert (tags.count("script"), tags.count("style"), tags.count("img")) == (2, 1, 0)
    data = json.loads(read.texts["script application/json"])
    assert [one[3] for one in data["items"]] == list(HOSTILE)
    assert [(one[0], one[1]) for one in data["items"]] == [
        (round(i.x, 4), round(i.y, 4)) for i in drawn.items
    ]
    assert [data["groups"][one[2]][0] for one in data["items"]] == ["</script>", "none", "a&b", "$", "none"]
    assert read.texts["title"] == "Items of release <r&1> (als)"
    assert "5 of 8 items, those with the most users; 2 have no vector" in text
    for _, attributes in read.tags:
        assert not {"src", "href", "style"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "innerHTML" not in text
    assert "http:" not in text
    assert "https:" not in text
    (policy,) = [one["content"] for _, one in read.tags if one.get("http-equiv") == "Content-Security-Policy"]
    for kind, content in (("script", read.texts["script"]), ("style", read.texts["style"])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_first_category_colours_and_the_rest_is_grey() -> None:
    """As many categories as there are colours, most items first; the others are told as `other`, none as `none`."""
    names = [f"c{place}" for place in range(9)]
    categories = [(name, "c0") for place, name in enumerate(names) for _ in range(10 - place)] + [()]
    groups, places = grouped(a_map([""] * len(categories), categories), by_category=True)
    assert [(one.name, one.n_items) for one in groups] == [
        *((name, 10 - place) for place, name in enumerate(names[:7])),
        ("other", 3 + 2),
        ("none", 1),
    ]
    assert len({one.colour for one in groups}) == 8
    assert [groups[place].name for place in places] == [
        one[0] if one and one[0] in names[:7] else "other" if one else "none" for one in categories
    ]
    plain, places = grouped(a_map(["a", "b"], [("x",), ()]), by_category=False)
    assert ([(one.name, one.n_items) for one in plain], places) == ([("items", 2)], [0, 0])


def test_the_picture_opens_whatever_the_titles_are(tmp_path: Path) -> None:
    """A PNG of some size with colour in it, the same bytes again, and no title is taken for a formula."""
    drawn = a_map(list(HOSTILE), [("$a$_",), (), ("a&b", "c"), ("日本",), ()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.png"):
            write_png(tmp_path / name, drawn, by_category=True)
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> made.Published:
    """A release whose first items have hostile titles; tests only read."""
    items = made.make_items()
    titles = [*HOSTILE, *items["title"].to_pylist()[len(HOSTILE) :]]
    items = items.set_column(1, "title", pa.array(titles, pa.string()))
    return made.published_release(tmp_path_factory.mktemp("map"), items=items)


def test_the_command_writes_both_files(published: made.Published, tmp_path: Path) -> None:
    """From a store: the paths on stdout, and in the page all items, coloured by category."""
    arguments = [
        "plot",
        "map",
        "--store",
        published.store.url,
        "--color",
        "categories",
        "--out",
        str(tmp_path / "m"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "m" / name) for name in ("map.png", "map.html")]
    assert f"all {made.N_ITEMS} items" in done.stderr
    assert matplotlib.image.imread(tmp_path / "m" / "map.png").ndim == 3
    data = json.loads(Read((tmp_path / "m" / "map.html").read_text("utf-8")).texts["script application/json"])
    names = published.release.model.item_ids
    assert sorted(one[3] for one in data["items"]) == sorted(
        published.release.title(row) or str(names[row]) for row in range(made.N_ITEMS)
    )
    assert set(HOSTILE) <= {one[3] for one in data["items"]}
    by_id = {one[4]: one[5] for one in data["items"]}
    assert by_id["-1"] == ["Drama", "Comedy"]
    assert by_id[str(2**63 - 1)] == ["Sci-Fi"]
    assert by_id["0"] == []


OWN = "{path: e.parquet, columns: {time: timestamp}}\nitems: {path: i.parquet, title: title, categories: genres}"


@pytest.mark.parametrize(
    ("events", "color", "said"),
    [
        (OWN, "genres", None),
        (OWN, "categories", None),
        (OWN, "genre", "expected genres or categories"),
        (OWN, "title", "expected genres"),
        ("{dataset: movielens-100k}", "genres", None),
        ("{path: e.parquet, columns: {time: timestamp}}", "genres", "expected categories:"),
    ],
)
def test_the_colour_is_the_jobs_column(
    published: made.Published, tmp_path: Path, events: str, color: str, said: str | None
) -> None:
    """With a job file its own name of the column does, too; any other is refused by what there is."""
    config = tmp_path / "job.yaml"
    config.write_text(f"store: {published.store.url}\nevents: {events}\n")
    words = ["--config", str(config), "--color", color, "--items", "5", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["plot", "map", *words])
    if said is None:
        assert done.exit_code == 0, done.output
        assert "5 of 40 items" in done.stderr
    else:
        assert isinstance(done.exception, DataError)
        assert said in str(done.exception)
        assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize("wrong", ["release", "no release", "file", "below a file", "folder of the name"])
def test_what_cannot_be_meant_is_refused_before_anything_is_drawn(
    published: made.Published, tmp_path: Path, wrong: str
) -> None:
    """A release or folder that cannot be is bad usage, said by its option, and no half-written map is left."""
    (tmp_path / "file").touch()
    (tmp_path / "maps" / "map.html").mkdir(parents=True)
    words, said = {
        "release": (["--release", "nope"], "found --release nope"),
        "no release": (["--release", "20261121T031500Z-0123456789ab"], "expected a release of store"),
        "file": (["--out", str(tmp_path / "file")], "File exists"),
        "below a file": (["--out", str(tmp_path / "file" / "maps")], "Not a directory"),
        "folder of the name": (["--out", str(tmp_path / "maps")], "a folder of the name map.html"),
    }[wrong]
    done = CliRunner().invoke(app, ["plot", "map", "--store", published.store.url, *words])
    assert isinstance(done.exception, DataError), done.output
    assert done.exception.exit_code == 2
    assert said in str(done.exception)
    assert "goes on where" not in str(done.exception)
    assert not list(tmp_path.rglob("map.png"))


def test_no_other_command_waits_for_what_draws() -> None:
    """The application, which every command imports, brings in neither scikit-learn nor matplotlib."""
    code = "import sys, nightrank.cli; assert not {'sklearn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_items_without_a_vector_are_left_out_and_counted(
    published: made.Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn where it has no place; a catalogue without any vector is refused."""
    whole = np.array(published.release.model.item_vectors)
    whole[[3, 7]] = 0
    monkeypatch.setattr(ModelFiles, "item_vectors", whole)
    release = open_release(published.store)
    drawn = item_map(release, n=100)
    ids = release.model.item_ids
    assert (drawn.n_items, drawn.n_without, len(drawn.items)) == (40, 2, 38)
    assert not {ids[3], ids[7]} & {one.item_id for one in drawn.items}
    users = [one.users for one in drawn.items]
    assert users == sorted(users, reverse=True)
    monkeypatch.setattr(ModelFiles, "item_vectors", np.zeros((40, 0), np.float32))
    with pytest.raises(DataError, match="no item with a vector"):
        item_map(release, n=100)


def test_a_release_without_items_has_ids_for_titles_and_no_colours(tmp_path: Path) -> None:
    """No item table: the ids stand in for titles, and a colour cannot be asked for."""
    published = made.published_release(tmp_path, items=pa.table({"item_id": pa.array([], pa.int64())}))
    drawn = item_map(published.release, n=3)
    assert [one.title for one in drawn.items] == [str(one.item_id) for one in drawn.items]
    done = CliRunner().invoke(app, ["plot", "map", "--store", published.store.url, "--color", "categories"])
    assert isinstance(done.exception, DataError)
    assert "has no categories" in str(done.exception)
