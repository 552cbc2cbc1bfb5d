"""Trials: which recipes are tried, what one measures, who leads, and the split that trials share as files."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import made
from nightrank.batch.inputs import find_inputs, load_interactions, load_splits
from nightrank.batch.split_files import DONE, open_split, save_splits
from nightrank.batch.trials import BASELINE, Spec, died, leaderboard, measure, spec_of, specs, winner
from nightrank.config import families
from nightrank.config.families import FAMILIES, Choices, Range, Space
from nightrank.config.job import JobConfig
from nightrank.data.splits import Split

ALS = {"als": FAMILIES["als"].own_space()}
COLUMNS = ["rank", "trial", "family", "params", "metric", "value", "fit_s", "rank_s", "seed", "reason"]
RECIPE = {"factors": 4, "reg": 0.01, "alpha": 1.0, "epochs": 3}


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    return made.make_job(tmp_path, seed=3)


def split_of(job: JobConfig) -> Split:
    return load_splits(job, find_inputs(job), families=["als"])["sum"]


def inside(value: float, space: Space) -> bool:
    if isinstance(space, Choices):
        return value in space.values
    whole = isinstance(space.low, int) and isinstance(space.high, int)
    return space.low <= value <= space.high and isinstance(value, int) == whole


# -- recipes ---------------------------------------------------------------------------------------------


def test_recipes_follow_from_the_seed_alone() -> None:
    """A killed sweep finds its trials again, and another seed tries others."""
    first = specs(ALS, trials=24, seed=5)
    assert specs(ALS, trials=24, seed=5) == first
    assert specs({"als": dict(reversed(ALS["als"].items()))}, trials=24, seed=5) == first
    assert specs(ALS, trials=24, seed=6)[1:] != first[1:]
    assert specs(ALS, trials=12, seed=5) == first[:13]


@pytest.mark.parametrize("seed", range(5))
def test_the_baseline_comes_first_then_distinct_recipes_inside_their_space(seed: int) -> None:
    """As many different trials as asked for, each within the bounds and types of its family, beside popularity."""
    drawn = specs(ALS, trials=40, seed=seed)
    assert drawn[0] == spec_of(BASELINE, {})
    assert len(drawn) == len({spec["trial"] for spec in drawn}) == 41
    for spec in drawn[1:]:
        assert set(spec["params"]) == set(ALS["als"])
        assert all(inside(spec["params"][name], space) for name, space in ALS["als"].items())
        assert all(
            FAMILIES["als"].params[name].problem(value) is None for name, value in spec["params"].items()
        )


@pytest.mark.parametrize(
    "space",
    [
        Range(0.123451, 0.123454),
        Range(1.00005, 1.00006, log=True),
        Range(0.5, 0.6),
        Range(0.0, 1.0),
        Range(1, 3),
        Range(1, 1000, log=True),
    ],
    ids=str,
)
def test_no_draw_leaves_its_range(space: Range) -> None:
    """Rounding a value for people to read must not carry it beyond the bounds that the job file sets."""
    values = [
        spec["params"]["x"]
        for seed in range(20)
        for spec in specs({"als": {"x": space}}, trials=10, seed=seed)[1:]
    ]
    assert all(inside(value, space) for value in values)
    assert len(set(values)) > 1


def test_a_log_range_is_drawn_evenly_over_its_decades() -> None:
    """Each decade of a logarithmic range gets its share: a regularisation is not always near the upper end."""
    space = {"als": {"reg": Range(1e-4, 1e-1, log=True)}}
    drawn = [spec["params"]["reg"] for spec in specs(space, trials=300, seed=0)[1:]]
    decades = np.bincount([math.floor(math.log10(value)) + 4 for value in drawn], minlength=3)
    assert decades[:3].min() > 70


def test_whole_number_ranges_reach_both_ends() -> None:
    """low and high of an integer range are values that can be drawn."""
    drawn = specs({"als": {"epochs": Range(3, 6)}}, trials=4, seed=0)
    assert sorted(spec["params"]["epochs"] for spec in drawn[1:]) == [3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(5))
def test_a_small_space_gives_every_recipe_once(seed: int) -> None:
    """Asking for more trials than there are recipes tries each one once, over all families."""
    space: dict[str, dict[str, Space]] = {
        "als": {"factors": Choices((8, 16)), "epochs": Range(1, 3)},
        "other": {"factors": Choices((4,))},
    }
    drawn = specs(space, trials=100, seed=seed)
    found = [(spec["family"], *spec["params"].values()) for spec in drawn[1:]]
    every = [("als", epochs, factors) for epochs, factors in itertools.product((1, 2, 3), (8, 16))]
    assert sorted(found) == sorted([*every, ("other", 4)])


def test_a_recipe_is_named_by_its_content() -> None:
    """The id of a trial depends on family and values, not on the order of the parameters."""
    one = spec_of("als", {"factors": 8, "reg": 0.1})
    assert one["trial"] == spec_of("als", {"reg": 0.1, "factors": 8})["trial"]
    others = [spec_of("bpr", {"factors": 8, "reg": 0.1}), spec_of("als", {"factors": 9, "reg": 0.1})]
    assert len({spec["trial"] for spec in (one, *others)}) == 3


# -- measuring -------------------------------------------------------------------------------------------


def test_measuring_gives_the_mean_of_the_metric_and_is_repeatable(job: JobConfig) -> None:
    """One trial's value is the objective on the held-out pairs, the same each time and for any threads."""
    held_out = split_of(job)
    outcome = measure(spec_of(BASELINE, {}), held_out, job=job, threads=1)
    counts = held_out.train.item_counts
    gains = []
    for user in range(held_out.truth.shape[0]):
        truth = set(held_out.truth.indices[slice(*held_out.truth.indptr[user : user + 2])].tolist())
        if not truth:
            continue
        seen = held_out.train.user_items[user].indices
        order = sorted(
            np.setdiff1d(np.arange(len(counts)), seen).tolist(), key=lambda item: (-counts[item], item)
        )
        ranks = [rank for rank, item in enumerate(order[:10], start=1) if item in truth]
        gains.append(sum(1 / math.log2(rank + 1) for rank in ranks))
    assert len(gains) > 20
    assert outcome["value"] == pytest.approx(sum(gains) / len(gains), rel=1e-12)
    assert outcome["reason"] is None
    als = spec_of("als", RECIPE)
    values = [measure(als, held_out, job=job, threads=threads)["value"] for threads in (1, 2, 1)]
    assert values[0] == values[1] == values[2] > 0
    assert measure(als, held_out, job=job.model_copy(update={"seed": 4}), threads=1)["value"] != values[0]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, while the fit diverges
@pytest.mark.parametrize(
    ("family", "params", "reason"),
    [
        ("als", RECIPE | {"reg": 1e308}, "DataError: als with"),
        ("als", {"factors": 4}, "KeyError"),
        ("no-such-family", {}, "KeyError"),
        ("als", RECIPE | {"factors": 10**12}, "MemoryError: Unable to allocate"),
    ],
)
def test_a_fit_that_fails_is_an_outcome_with_its_reason(
    job: JobConfig, family: str, params: dict[str, Any], reason: str
) -> None:
    """A recipe that diverges, does not fit into memory or breaks is a row of the leaderboard, not a dead sweep."""
    spec = spec_of(family, params)
    outcome = measure(spec, split_of(job), job=job, threads=1)
    assert outcome["value"] is None
    assert outcome["reason"].startswith(reason)
    assert {name: outcome[name] for name in spec} == spec
    assert outcome["seed"] == job.seed


def test_an_objective_that_nobody_can_meet_is_a_reason(tmp_path: Path) -> None:
    """Where no held-out event is relevant the mean would be NaN: the outcome says so in words."""
    job = made.make_job(tmp_path, objective={"relevant": "weight>=100"})
    outcome = measure(spec_of("als", RECIPE), split_of(job), job=job, threads=1)
    assert (outcome["value"], outcome["reason"]) == (None, "no user has relevant held-out items")


def test_the_objective_of_the_job_is_what_is_measured(tmp_path: Path) -> None:
    """metric, k and relevant each change the value: none of them is read and ignored."""
    values = []
    for objective in ({}, {"metric": "recall"}, {"k": 2}, {"relevant": "weight>=4"}):
        job = made.make_job(tmp_path, objective=objective)
        values.append(measure(spec_of(BASELINE, {}), split_of(job), job=job, threads=1)["value"])
    assert None not in values
    assert len(set(values)) == 4


# -- the leaderboard -------------------------------------------------------------------------------------


def outcome(family: str, value: float | None, **params: int) -> dict[str, Any]:
    reason = None if value is not None else "it failed"
    measured = {"value": value, "fit_s": 1.5, "rank_s": 0.5, "seed": 1, "reason": reason}
    return spec_of(family, params) | measured


OUTCOMES = [
    outcome("als", 0.2, factors=64, epochs=5),
    outcome("als", None, factors=1, epochs=1),
    outcome(BASELINE, 0.5),
    outcome("als", 0.2, factors=32, epochs=9),
    outcome("als", 0.2, factors=32, epochs=5),
    outcome("als", 0.4, factors=128, epochs=5),
    outcome("als", -0.1, factors=2, epochs=5),
    died(spec_of("als", {"factors": 9, "epochs": 1}), seed=1),
]


def test_the_leaderboard_is_in_order_with_failures_last() -> None:
    """Best first, equal values by cost, failed trials at the end with their reason; the baseline has its place."""
    table = leaderboard(OUTCOMES, metric="ndcg@10")
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert [row["value"] for row in rows] == [0.5, 0.4, 0.2, 0.2, 0.2, -0.1, None, None]
    assert rows[0]["family"] == BASELINE
    assert [row["params"] for row in rows[2:5]] == [
        '{"epochs": 5, "factors": 32}',
        '{"epochs": 9, "factors": 32}',
        '{"epochs": 5, "factors": 64}',
    ]
    assert rows[6]["reason"] == "it failed"
    assert "died" in rows[7]["reason"]
    assert [row["reason"] for row in rows[:6]] == [None] * 6
    assert {row["metric"] for row in rows} == {"ndcg@10"}
    assert leaderboard(OUTCOMES[::-1], metric="ndcg@10").equals(table)


def test_equal_recipes_in_cost_and_value_have_a_fixed_order() -> None:
    """A tie to the end is broken by the trial's id, so that two equal sweeps have one winner."""
    tied = [outcome("als", 0.3, factors=8, x=x) for x in range(6)]
    best = min(one["trial"] for one in tied)
    assert winner(tied)["trial"] == winner(tied[::-1])["trial"] == best


def test_the_winner_is_never_the_baseline_nor_a_failure() -> None:
    """popularity leads the table but is no candidate; without a candidate there is no winner."""
    assert winner(OUTCOMES)["value"] == 0.4
    assert winner([OUTCOMES[2], OUTCOMES[1], OUTCOMES[7]]) is None
    assert winner([]) is None
    negative = [OUTCOMES[6], OUTCOMES[1]]
    assert winner(negative)["value"] == -0.1


def test_a_sweep_of_failures_still_has_a_leaderboard() -> None:
    """When everything failed the table holds the reasons, with a column of values that are all null."""
    table = leaderboard([OUTCOMES[1], OUTCOMES[7]], metric="ndcg@10")
    assert table["value"].to_pylist() == [None, None]
    assert str(table.schema.field("value").type) == "double"
    assert len(leaderboard([], metric="ndcg@10")) == 0


# -- the split as files ----------------------------------------------------------------------------------


def test_a_split_comes_back_as_it_was_saved(job: JobConfig, tmp_path: Path) -> None:
    """Every trial sees the same train matrix and truth as the process that made the split, bit by bit."""
    held_out = split_of(job)
    save_splits(tmp_path / "split", {"sum": held_out})
    found = open_split(tmp_path / "split", combine="sum")
    for one, two in ((held_out.train.user_items, found.train.user_items), (held_out.truth, found.truth)):
        assert one.shape == two.shape
        for name in ("data", "indices", "indptr"):
            before, after = getattr(one, name), getattr(two, name)
            assert before.dtype == after.dtype
            assert before.tobytes() == after.tobytes()
    assert found.n_unknown_users == held_out.n_unknown_users
    assert len(found.train.user_ids) == held_out.train.user_items.shape[0]
    assert len(found.train.item_ids) == held_out.train.user_items.shape[1]
    spec = spec_of("als", RECIPE)
    measured = [measure(spec, one, job=job, threads=1)["value"] for one in (held_out, found)]
    assert measured[0] == measured[1]


def test_what_a_trial_writes_into_a_split_stays_with_it(job: JobConfig, tmp_path: Path) -> None:
    """The arrays are shared through the page cache: a trial may scale its own, nobody else sees it."""
    save_splits(tmp_path / "split", {"sum": split_of(job)})
    one, other = open_split(tmp_path / "split", combine="sum"), open_split(tmp_path / "split", combine="sum")
    before = other.train.user_items.data.copy()
    one.train.user_items.data[:] = -1.0
    for seen in (other, open_split(tmp_path / "split", combine="sum")):
        assert seen.train.user_items.data.tolist() == before.tolist()


@pytest.mark.parametrize("kind", ["leave_last", "per_user", "temporal", "random_mask"])
def test_a_family_of_ratings_has_its_own_weights_and_the_same_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where families combine repeats otherwise, each trial opens its own weights, and all rank against one truth."""
    ratings = replace(FAMILIES["als"], combine="last")
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "ratings": ratings})
    job = made.make_job(tmp_path, split={"kind": kind})
    events = made.make_events()
    later = events.set_column(3, "timestamp", pc.add(events["timestamp"], 1))
    pq.write_table(pa.concat_tables([events, later.slice(0, 200)]), tmp_path / "events.parquet")
    splits = load_splits(job, find_inputs(job), families=["als", "ratings"], validation=True)
    save_splits(tmp_path / "split", splits)
    summed, last, baseline = (
        open_split(tmp_path / "split", combine=job.combines([family])[0])
        for family in ("als", "ratings", BASELINE)
    )
    assert (summed.truth != last.truth).nnz == 0
    assert summed.train.user_items.indices.tolist() == last.train.user_items.indices.tolist()
    assert summed.train.user_items.data.sum() > last.train.user_items.data.sum()
    assert (baseline.train.user_items != summed.train.user_items).nnz == 0
    assert measure(spec_of("als", RECIPE), last, job=job, threads=1)["value"] is not None
    alone = load_splits(job, find_inputs(job), families=["ratings", BASELINE])
    assert list(alone) == ["last"]
    weights = [
        load_interactions(job, find_inputs(job), family=name).user_items for name in ("als", "ratings")
    ]
    assert weights[0].sum() > weights[1].sum()
    assert weights[0].nnz == weights[1].nnz


def test_a_split_that_was_cut_short_is_not_complete(job: JobConfig, tmp_path: Path) -> None:
    """`complete` is written last: without it the sweep prepares the split again, and nobody opens it."""
    save_splits(tmp_path / "split", {"sum": split_of(job)})
    (tmp_path / "split" / DONE).unlink()
    with pytest.raises(FileNotFoundError):
        open_split(tmp_path / "split", combine="sum")


def test_specs_are_plain_json_values() -> None:
    """A recipe goes through Ray and JSON unchanged: no numpy scalars in it."""
    drawn: list[Spec] = specs(ALS, trials=30, seed=0)
    assert {type(value) for spec in drawn for value in spec["params"].values()} == {int, float}
