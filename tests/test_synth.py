"""Synthetic events of either kind: the same bytes for a seed, taste to learn, folders of others, the commands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from eventfiles import coded
from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.cli.app import app
from nightrank.config.job import load_job
from nightrank.config.split import SplitConfig
from nightrank.data import synth_folder
from nightrank.data.interactions import Interactions, from_events
from nightrank.data.pools import Pool
from nightrank.data.splits import hold_out
from nightrank.data.synth_retail import RetailRecipe, make_retail
from nightrank.data.synth_scale import ScaleRecipe, make_scale
from nightrank.errors import DataError, SettingsError
from nightrank.models import fit
from nightrank.quality.evaluation import per_user
from synthetic import RETAIL, ROOT, SCALE, contents, make, scale

ALS = {"factors": 16, "reg": 0.1, "alpha": 1.0, "epochs": 8}


# The same bytes


@pytest.mark.parametrize("recipe", [RETAIL, SCALE], ids=["retail", "scale"])
def test_one_seed_gives_the_same_bytes_and_another_does_not(
    tmp_path: Path, recipe: RetailRecipe | ScaleRecipe
) -> None:
    """Protects whoever compares two machines, or two releases, on made events."""
    make(tmp_path / "a", recipe)
    make(tmp_path / "b", recipe)
    make(tmp_path / "c", type(recipe)(**{**vars(recipe), "seed": 4}))
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


# A model learns from them


def ndcg(interactions: Interactions, family: str, params: Mapping[str, float]) -> float:
    pool = Pool({"sum": interactions}, how=SplitConfig(kind="leave_last", n=1), seed=0)
    held_out = hold_out(pool).splits["sum"]
    model = fit(family, held_out.train, params=params, seed=0, threads=2)
    values = per_user(model, held_out, metric="ndcg", k=10, truth=held_out.truth, threads=2)
    return float(np.nanmean(values))


def shop_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interactions:
    """A small shop through jobs/shop.yaml, the way a night reads it."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path))
    make_retail(tmp_path / "data" / "shop", RetailRecipe(users=1_000, items=500, events=40_000))
    job = load_job(ROOT / "jobs" / "shop.yaml", inside_job=True)
    return load_interactions(job, find_inputs(job), family="als")


def scale_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interactions:
    events = scale(users=1_000, items=500, events=40_000)
    events = events.rename_columns({"user_id": "user", "item_id": "item", "timestamp": "time"})
    return from_events(coded(events), combine="sum")


@pytest.mark.parametrize("made", [shop_interactions, scale_interactions])
def test_als_clearly_beats_popularity(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Path, pytest.MonkeyPatch], Interactions],
) -> None:
    """Protects the point of the data: there is taste to learn. Five seeds gave 2 to 4 times popularity; 1.5 do."""
    interactions = made(tmp_path, monkeypatch)
    learned, popular = ndcg(interactions, "als", ALS), ndcg(interactions, "popularity", {})
    assert learned > 1.5 * popular
    assert learned > popular + 0.05


# Files of others, impossible numbers


@pytest.mark.parametrize("recipe", [RETAIL, SCALE], ids=["retail", "scale"])
def test_files_of_others_are_left_alone(tmp_path: Path, recipe: RetailRecipe | ScaleRecipe) -> None:
    """Protects a folder with anything else in it, beside our files or instead of them."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "events.parquet").write_text("mine")
    with pytest.raises(DataError, match=r"'events\.parquet', which was not written here"):
        make(tmp_path / "mine", recipe)
    assert contents(tmp_path / "mine") == {"events.parquet": b"mine"}
    make(tmp_path / "ours", recipe)
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "ours")
    with pytest.raises(DataError, match=r"'notes\.txt', which was not written here \(1 such files\)"):
        make(tmp_path / "ours", recipe)
    assert contents(tmp_path / "ours") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "ours"]


@pytest.mark.parametrize("kind", ["empty folder", "link to a folder", "dangling link", "changed file"])
def test_whatever_is_not_ours_is_refused(tmp_path: Path, kind: str) -> None:
    """Protects what a check of file names alone would miss and the replacing of our folder would take with it."""
    out = tmp_path / "out"
    make_retail(out, RETAIL)
    if kind == "empty folder":
        (out / "mine").mkdir()
    elif kind == "changed file":
        (out / "users.parquet").write_text("mine")
    else:
        (out / "mine").symlink_to(tmp_path if kind == "link to a folder" else tmp_path / "nowhere")
    with pytest.raises(DataError, match="which was not written here"):
        make_retail(out, RETAIL)
    assert (out / "events.parquet").exists()


def test_our_own_folder_is_replaced_and_a_complete_one_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a second call: another recipe replaces the first whole, the same one writes nothing."""
    out = tmp_path / "new" / "folder"
    make_scale(out, SCALE)
    files = make_retail(out, RETAIL)
    assert {path.name for path in out.iterdir()} == {*(path.name for path in files), synth_folder.MARKER}
    before = contents(out)
    files[0].unlink()
    make_retail(out, RETAIL)
    assert contents(out) == before
    monkeypatch.setattr("nightrank.data.synth_retail.shop", None)  # would fail if it were called
    make_retail(out, RETAIL)
    assert contents(out) == before


def test_a_broken_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects against half a data set: after a failure the folder is as it was, and nothing lies beside it."""

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    make_scale(tmp_path / "out", SCALE)
    before = contents(tmp_path)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(DataError, match=r"cannot be written: .*No space left"):
        make_retail(tmp_path / "out", RETAIL)
    assert contents(tmp_path) == before
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DataError, match="No space left"):
        make_retail(tmp_path / "other", RETAIL)
    assert contents(tmp_path) == before


def test_a_file_or_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects a shell whose folder would be renamed under it, and a file where a folder belongs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"is the current folder; .* name a subfolder"):
        make_retail(Path("."), RETAIL)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        make_retail(tmp_path / "taken", RETAIL)
    with pytest.raises(DataError, match="cannot be written"):
        make_retail(tmp_path / "taken" / "below", RETAIL)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (RETAIL, {"users": 0}, r"--users: found 0, expected 1 to "),
        (RETAIL, {"items": 11}, r"--items: found 11, expected 12 to "),
        (RETAIL, {"events": 115}, r"--events: found 115, expected 116 to .*table written by hand"),
        (RETAIL, {"events": 10**9}, r"--events: found 1,000,000,000, expected .* data synth scale"),
        (RETAIL, {"seed": -1}, r"--seed: found -1, expected 0 to "),
        (SCALE, {"users": 0}, r"--users: found 0, expected 1 to "),
        (SCALE, {"items": 1}, r"--items: found 1, expected 2 to "),
        (SCALE, {"events": 0}, r"--events: found 0, expected 1 to "),
        (SCALE, {"rank": 0}, r"--rank: found 0, expected 1 to 256"),
        (
            SCALE,
            {"users": 10**8, "rank": 64},
            r"--users x --rank: found 6,400,000,000, .* lower one of the two",
        ),
        (SCALE, {"items": 10**7, "rank": 200}, r"--items x --rank: found 2,000,000,000, "),
    ],
)
def test_impossible_numbers_are_refused(
    tmp_path: Path, kind: RetailRecipe | ScaleRecipe, change: dict[str, int], message: str
) -> None:
    """Protects against a traceback or hours of work: found, expected, what to do, before anything is written."""
    with pytest.raises(SettingsError, match=message):
        make(tmp_path / "out", type(kind)(**{**vars(kind), **change}))
    assert not (tmp_path / "out").exists()


# The commands and the page


def test_the_commands_print_where_the_files_are(tmp_path: Path) -> None:
    """Protects scripts: paths on stdout, one a line, and nothing else."""
    sizes = ["--users", "30", "--items", "20", "--events", "500", "--seed", "1"]
    done = CliRunner().invoke(app, ["data", "synth", "retail", *sizes, "--out", str(tmp_path / "shop")])
    assert done.stdout.split() == [
        str(tmp_path / "shop" / f"{n}.parquet") for n in ("events", "users", "items")
    ]
    done = CliRunner().invoke(
        app, ["data", "synth", "scale", *sizes, "--rank", "4", "--weights", "--out", str(tmp_path / "scale")]
    )
    assert done.stdout.split() == [str(tmp_path / "scale" / "events")]
    (file,) = (tmp_path / "scale" / "events").iterdir()
    assert pq.read_schema(file).names == ["user_id", "item_id", "timestamp", "weight"]


@pytest.mark.parametrize(
    "recipe", [RETAIL, ScaleRecipe(**{**vars(SCALE), "weights": True})], ids=["retail", "scale"]
)
def test_the_documented_columns_are_those_of_the_files(
    tmp_path: Path, recipe: RetailRecipe | ScaleRecipe
) -> None:
    """Protects whoever writes a job file by docs/data.md: names, order and types in each file."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").split("## Made data sets")[1]
    said = {
        cells[1].strip(" `"): re.findall(r"`(\w+)` (int64|int32|float32|double|string)", cells[2])
        for cells in (line.split("|") for line in page.splitlines() if ".parquet` |" in line)
    }
    make(tmp_path / "out", recipe)
    for path in (tmp_path / "out").rglob("*.parquet"):
        name = re.sub(r"part-.*", "part-*.parquet", str(path.relative_to(tmp_path / "out")))
        schema = pq.read_schema(path)
        assert [(field.name, str(field.type).replace("float", "float32")) for field in schema] == [
            (column, kind) for column, kind in said[name]
        ]
