"""Synthetic events: the same bytes for the same seed, the promised shapes, taste that a model can learn."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.cli.app import app
from nightrank.config.job import load_job
from nightrank.data import synth_folder, synth_scale
from nightrank.data.interactions import Interactions, from_events
from nightrank.data.splits import split
from nightrank.data.synth_retail import PER_100_VIEWS, TYPES, RetailRecipe, make_retail, shop
from nightrank.data.synth_scale import ScaleRecipe, make_scale, scale_blocks
from nightrank.data.synth_taste import DAY_S, N_DAYS, START_S, cumulative, draw
from nightrank.errors import DataError, SettingsError
from nightrank.models import fit
from nightrank.quality.evaluation import per_user

ROOT = Path(__file__).resolve().parents[1]
RETAIL = RetailRecipe(users=300, items=120, events=9_000, seed=3)
SCALE = ScaleRecipe(users=300, items=120, events=9_000, seed=3)
ALS = {"factors": 16, "reg": 0.1, "alpha": 1.0, "epochs": 8}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make(out: Path, recipe: RetailRecipe | ScaleRecipe) -> None:
    if isinstance(recipe, RetailRecipe):
        make_retail(out, recipe)
    else:
        make_scale(out, recipe)


def scale(**settings: int) -> pa.Table:
    return pa.concat_tables(scale_blocks(ScaleRecipe(**settings)))


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


def test_files_and_row_groups_change_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the promise that packing is no part of the content: many small files hold what one holds."""
    monkeypatch.setattr(synth_scale, "BLOCK", 1_000)
    many = make_scale(tmp_path / "many", SCALE, blocks_per_file=2)
    one = make_scale(tmp_path / "one", SCALE, blocks_per_file=64)
    assert sorted(path.name for path in many.iterdir()) == [
        f"part-{n:05d}-of-00005.parquet" for n in range(5)
    ]
    tables = [pa.concat_tables(map(pq.read_table, sorted(folder.iterdir()))) for folder in (many, one)]
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == SCALE.events


def test_a_later_block_needs_no_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects what bounded memory rests on: a block is a function of seed and place, not of what was drawn."""
    monkeypatch.setattr(synth_scale, "BLOCK", 1_000)
    blocks = list(scale_blocks(SCALE))
    alone = synth_scale._block(synth_scale._world(SCALE), SCALE, 7)
    assert alone.equals(blocks[7])


def test_a_weight_column_changes_no_other() -> None:
    """Protects a comparison with and without weights: the same events either way."""
    plain = scale(users=50, items=30, events=2_000)
    weighted = scale(users=50, items=30, events=2_000, weights=True)
    assert weighted.drop_columns("weight").equals(plain)
    assert weighted["weight"].type == pa.float32()
    assert pc.min(weighted["weight"]).as_py() >= 1
    assert pc.max(weighted["weight"]).as_py() > 1


# What is in them


def test_a_shop_has_the_ratios_of_the_real_log() -> None:
    """Protects the five types and their ratios; exact, since 675,004 rows of the real log are 5,819 x 116."""
    counts = {
        entry["values"]: entry["counts"]
        for entry in shop(RetailRecipe(users=300, items=100, events=116 * 70))
        .events["event_type"]
        .value_counts()
        .to_pylist()
    }
    assert counts == {kind: 70 * share for kind, share in zip(TYPES, PER_100_VIEWS, strict=True)}


@pytest.mark.parametrize("events", [116, 117, 1_000, 9_001])
@pytest.mark.parametrize(("users", "items"), [(1, 12), (3, 500), (2_000, 12)])
def test_a_shop_of_any_size_has_exactly_as_many_events(users: int, items: int, events: int) -> None:
    """Protects the sizes that were asked for, where rounding and tiny catalogues could lose a row."""
    made = shop(RetailRecipe(users=users, items=items, events=events))
    assert [table.num_rows for table in made] == [events, users, items]
    assert set(made.events["event_type"].to_pylist()) == set(TYPES)
    assert all(column.null_count == 0 for table in made for column in table.columns)


def test_each_step_to_a_purchase_follows_the_one_before() -> None:
    """Protects the sessions: whoever buys has viewed, put in the cart and checked out, in that order."""
    events = shop(RETAIL).events
    times = events["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    seen: dict[tuple[int, int], int] = {}
    for user, item, kind in zip(
        *(events[name].to_pylist() for name in ("user_id", "item_id", "event_type")), strict=True
    ):
        step = TYPES.index(kind)
        assert step == 0 or seen[user, item] >= step - 1
        seen[user, item] = max(step, seen.get((user, item), 0))
    assert max(seen.values()) == 4


def information(left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Mutual information in nats of two columns of small integers."""
    joint = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(joint, (left, right), 1 / len(left))
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    positive = joint > 0
    return float((joint[positive] * np.log(joint[positive] / expected[positive])).sum())


def test_age_and_gender_explain_a_part_of_a_shops_taste() -> None:
    """Protects models with metadata: who somebody is says which categories, and far from everything about them."""
    made = shop(RetailRecipe(users=2_000, items=300, events=60_000))
    users = made.events["user_id"].to_numpy() - 1
    category = made.items["category"].dictionary_encode().combine_chunks().indices.to_numpy()
    bought = category[made.events["item_id"].to_numpy() - 1].astype(np.int64)
    group = (made.users["age"].to_numpy() // 20) * 2 + (made.users["gender"].to_numpy(False) == "M")
    shuffled = np.random.default_rng(0).permutation(group)
    explained = information(group[users].astype(np.int64), bought)
    assert explained > 0.05
    assert explained > 5 * information(shuffled[users].astype(np.int64), bought)
    assert information(users, bought) > 3 * explained


def test_prices_differ_by_category() -> None:
    """Protects the price column: positive, and a guitar costs more than coffee."""
    items = shop(RETAIL).items.to_pylist()
    prices = {
        name: np.median([item["price"] for item in items if item["category"] == name])
        for name in ("groceries", "instruments")
    }
    assert prices["instruments"] > 10 * prices["groceries"]
    assert min(item["price"] for item in items) > 0


def test_scale_is_zipf_in_items_and_log_normal_in_users() -> None:
    """Protects the two long tails that make load tests honest: few items and users hold most of the events."""
    events = scale(users=2_000, items=2_000, events=200_000)
    items = np.sort(np.bincount(events["item_id"].to_numpy(), minlength=2_001)[1:])[::-1]
    ranks = np.array([30, 100, 300, 1_000])
    slope = np.polyfit(np.log(ranks + 20), np.log([items[r // 2 : r * 2].mean() for r in ranks]), 1)[0]
    assert -1.4 < slope < -0.7
    users = np.bincount(events["user_id"].to_numpy(), minlength=2_001)[1:]
    spread = np.log(users[users > 0]).std()
    assert 0.85 < spread < 1.15


def test_scale_covers_90_days_and_popularity_drifts() -> None:
    """Protects splits by time: events come in order, over all days, and a month later other items lead."""
    events = scale(users=2_000, items=300, events=120_000)
    times = events["timestamp"].to_numpy() - START_S
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(np.unique(times // DAY_S), np.arange(N_DAYS))
    items = events["item_id"].to_numpy()

    def counts(first_day: int) -> NDArray[np.int64]:
        days = (times // DAY_S >= first_day) & (times // DAY_S < first_day + 10)
        return np.bincount(items[days], minlength=301)

    near, far = (np.corrcoef(counts(0), counts(day))[0, 1] for day in (10, 80))
    assert near > 0.8
    assert far < near - 0.15


@pytest.mark.parametrize("rank", [1, 2, 40])
def test_the_rank_of_the_taste_is_the_one_asked_for(rank: int) -> None:
    """Protects --rank: the expected counts of users by items have exactly as many dimensions."""
    world = synth_scale._world(ScaleRecipe(users=80, items=60, events=1, rank=rank))
    expected = world.topics.astype(np.float64) @ world.items.astype(np.float64)
    assert np.linalg.matrix_rank(expected, tol=1e-5 * expected.max()) == rank
    assert scale(users=80, items=60, events=500, rank=rank).num_rows == 500


@pytest.mark.parametrize(("users", "items", "events"), [(1, 2, 1), (5, 3, 131_073), (1_000, 2, 7)])
def test_scale_of_any_size_has_exactly_as_many_events(users: int, items: int, events: int) -> None:
    """Protects the sizes that were asked for, and ids within them, at the edges of blocks and tables."""
    table = scale(users=users, items=items, events=events)
    assert table.num_rows == events
    for name, n in (("user_id", users), ("item_id", items)):
        assert pc.min_max(table[name]).as_py()["min"] >= 1
        assert pc.min_max(table[name]).as_py()["max"] <= n


def test_a_draw_at_the_edge_of_a_row_stays_in_it() -> None:
    """Protects against an item of the next topic where a sum rounds up: the largest chance below 1."""
    shares = cumulative(np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))
    rows = np.array([0, 0, 1, 1, 2, 2])
    chance = np.array([0.0, 1 - 2.0**-53] * 3)
    assert draw(shares, n=3, rows=rows, chance=chance).tolist()[:3] == [0, 2, 1]
    assert draw(shares, n=3, rows=rows, chance=chance).max() == 2


# A model learns from them


def ndcg(interactions: Interactions, family: str, params: Mapping[str, float]) -> float:
    held_out = split(interactions, kind="leave_last", n=1, seed=0)
    model = fit(family, held_out.train, params=params, seed=0, threads=2)
    values = per_user(model, held_out, metric="ndcg", k=10, truth=held_out.truth, threads=2)
    return float(np.nanmean(values))


def shop_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interactions:
    """A small shop through jobs/shop.yaml, the way a night reads it."""
    monkeypatch.setenv("NIGHTRANK_HOME", str(tmp_path))
    make_retail(tmp_path / "data" / "shop", RetailRecipe(users=1_000, items=500, events=40_000))
    job = load_job(ROOT / "jobs" / "shop.yaml", inside_job=True)
    return load_interactions(job, find_inputs(job))


def scale_interactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interactions:
    events = scale(users=1_000, items=500, events=40_000)
    events = events.rename_columns({"user_id": "user", "item_id": "item", "timestamp": "time"})
    return from_events(events.append_column("weight", pa.array(np.ones(40_000))), combine="sum")


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


# The commands and the job file


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


def test_the_shops_job_file_fits_the_command_in_its_comment() -> None:
    """jobs/shop.yaml reads the folder that its own comment has `data synth retail` write, with every event type."""
    text = (ROOT / "jobs" / "shop.yaml").read_text(encoding="utf-8")
    job = load_job(ROOT / "jobs" / "shop.yaml", inside_job=True)
    (line,) = [line for line in text.splitlines() if "data synth retail" in line]
    folder = line.split("}")[-1].rstrip('"')
    assert str(job.events.path).endswith(f"{folder}/events.parquet")
    assert job.items is not None
    assert job.items.path.endswith(f"{folder}/items.parquet")
    assert set(job.events.type_weights) == set(TYPES)
    assert (job.events.combine, job.events.half_life_days) == ("sum", 30)


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
