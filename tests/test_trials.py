"""Trials: what one measures and reports, which of them is chosen, and the split that they share as files."""

from __future__ import annotations

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
from nightrank.batch.split_files import COMPLETE, open_split, save_splits
from nightrank.batch.trials import (
    DONE,
    FAILED,
    POINTS,
    RUNNING,
    STOPPED,
    Record,
    begun,
    judged,
    measure,
    measured_epochs,
    spec_of,
)
from nightrank.config import families
from nightrank.config.families import FAMILIES
from nightrank.config.job import JobConfig
from nightrank.data.splits import Split
from nightrank.errors import ReleaseError
from nightrank.release.store import LocalStore

BASELINE = "popularity"
RECIPE = {"factors": 4, "reg": 0.01, "alpha": 1.0, "epochs": 3}


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    return made.make_job(tmp_path, seed=3)


def split_of(job: JobConfig) -> Split:
    return load_splits(job, find_inputs(job), families=["als"])["sum"]


def measured(
    family: str, params: dict[str, Any], split: Split, *, job: JobConfig, threads: int = 1
) -> tuple[Record, np.ndarray | None, list[Record]]:
    """The last record of a trial, its values, and what it reported on the way."""
    told: list[Record] = []
    record = begun(spec_of(family, params), seed=job.seed, origin="search")
    return *measure(record, split, job=job, threads=threads, report=told.append), told


# -- recipes ---------------------------------------------------------------------------------------------


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
    outcome, per_user, _ = measured(BASELINE, {}, held_out, job=job)
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
    assert (outcome["reason"], outcome["state"]) == (None, DONE)
    assert outcome["low"] < outcome["value"] < outcome["high"]
    assert per_user is not None
    assert np.sort(per_user[~np.isnan(per_user)]).tolist() == pytest.approx(sorted(gains))
    values = [
        measured("als", RECIPE, held_out, job=job, threads=threads)[0]["value"] for threads in (1, 2, 1)
    ]
    assert values[0] == values[1] == values[2] > 0
    reseeded = job.model_copy(update={"seed": 4})
    assert measured("als", RECIPE, held_out, job=reseeded)[0]["value"] != values[0]


def test_a_trial_reports_what_it_reaches_as_it_goes(job: JobConfig) -> None:
    """Protects ASHA and curves: a measurement after each tenth of the epochs, the last that of a fit alone."""
    held_out = split_of(job)
    record, _, told = measured("als", RECIPE | {"epochs": 20}, held_out, job=job)
    assert [len(one["history"]) for one in told] == list(range(1, POINTS + 1))
    assert {one["state"] for one in told} == {RUNNING}
    assert [point["epoch"] for point in record["history"]] == list(range(2, 21, 2))
    assert [point["share"] for point in record["history"]] == list(range(10, 101, 10))
    assert (
        record["history"][4]["value"]
        == measured("als", RECIPE | {"epochs": 10}, held_out, job=job)[0]["value"]
    )
    assert record["value"] == record["history"][-1]["value"]
    seconds = [point["seconds"] for point in record["history"]]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 16, 200])
def test_the_last_epoch_is_always_measured(epochs: int) -> None:
    """Protects the final value: at most POINTS measurements, the last epoch among them for sure."""
    found = measured_epochs(epochs)
    assert epochs in found
    assert len(found) == min(epochs, POINTS)
    assert min(found) >= 1


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
    outcome, values, _ = measured(family, params, split_of(job), job=job)
    assert (outcome["state"], outcome["value"], values) == (FAILED, None, None)
    assert outcome["reason"].startswith(reason)
    assert {name: outcome[name] for name in spec} == spec
    assert outcome["seed"] == job.seed


def test_an_objective_that_nobody_can_meet_is_a_reason(tmp_path: Path) -> None:
    """Where no held-out event is relevant the mean would be NaN: the outcome says so in words."""
    job = made.make_job(tmp_path, objective={"relevant": "weight>=100"})
    outcome, _, _ = measured("als", RECIPE, split_of(job), job=job)
    assert outcome["value"] is None
    assert "no user has relevant held-out items" in outcome["reason"]


def test_the_objective_of_the_job_is_what_is_measured(tmp_path: Path) -> None:
    """metric, k and relevant each change the value: none of them is read and ignored."""
    values = []
    for objective in ({}, {"metric": "recall"}, {"k": 2}, {"relevant": "weight>=4"}):
        job = made.make_job(tmp_path, objective=objective)
        values.append(measured(BASELINE, {}, split_of(job), job=job)[0]["value"])
    assert None not in values
    assert len(set(values)) == 4


# -- the choice ------------------------------------------------------------------------------------------


def record(family: str, values: list[float] | None, *, state: str = DONE, **params: int) -> Record:
    """A record whose users have these values."""
    found = begun(spec_of(family, params), seed=1, origin="search")
    value = None if values is None else float(np.nanmean(values))
    return {**found, "state": state, "value": value, "users": values}


def choice(
    *records: Record, min_change: float, metric: str = "ndcg@10"
) -> tuple[dict[str, Any] | None, list[float | None]]:
    """The parameters of what is chosen, and the change of each record."""
    of = {one["trial"]: np.array(one["users"], dtype=np.float64) for one in records if one["users"]}
    found = judged(records, of.__getitem__, metric=metric, min_change=min_change)
    assert [one["trial"] for one in found] == [one["trial"] for one in records]
    chosen = [one for one in found if one["chosen"]]
    assert len(chosen) <= 1
    return (chosen[0]["params"] if chosen else None), [one["change"] for one in found]


BEST = record("als", [0.5, 0.5, math.nan], factors=128, epochs=20)
NEAR = record("als", [0.25, 0.625, math.nan], factors=64, epochs=20)  # 0.0625 below
SHORT = record("als", [0.25, 0.625, math.nan], factors=64, epochs=10)
FAR = record("als", [0.0, 0.25, math.nan], factors=8, epochs=5)
POPULAR = record(BASELINE, [0.9, 0.9, math.nan])


def test_the_cheapest_within_the_noise_is_chosen() -> None:
    """Protects the rule: of trials close enough to the best, fewer factors, then fewer epochs."""
    assert choice(BEST, NEAR, SHORT, FAR, min_change=-0.1)[0] == {"factors": 64, "epochs": 10}
    assert choice(BEST, NEAR, FAR, min_change=-0.0625)[0] == {"factors": 64, "epochs": 20}
    assert choice(BEST, NEAR, FAR, min_change=-0.06)[0] == {"factors": 128, "epochs": 20}
    assert choice(BEST, NEAR, FAR, min_change=-1.0)[0] == {"factors": 8, "epochs": 5}
    assert choice(BEST, NEAR, min_change=-0.1)[1] == [0.0, -0.0625]


def test_of_losses_the_smallest_is_the_best() -> None:
    """Protects rmse from the wrong sign: per-user values are squared errors, a change is a gain in their root."""
    near = record("als", [1.21, 1.21, math.nan], factors=8) | {"value": 1.1}
    best = record("als", [1.5, 0.5, math.nan], factors=64) | {"value": 1.0}
    far = record("als", [4.0, 4.0, math.nan], factors=4) | {"value": 2.0}
    assert choice(near, best, far, min_change=0.0, metric="rmse")[0] == {"factors": 64}
    chosen, changes = choice(near, best, far, min_change=-0.2, metric="rmse")
    assert chosen == {"factors": 8}
    assert changes == pytest.approx([-0.1, 0.0, -1.0])


def test_a_gate_that_asks_for_more_still_lets_the_best_win() -> None:
    """Protects a demanding gate from leaving no winner: the best is never worse than itself."""
    assert choice(BEST, NEAR, min_change=0.25)[0] == {"factors": 128, "epochs": 20}


def test_only_trials_that_are_done_are_chosen() -> None:
    """Protects the choice: never the baseline, a failure, or what was stopped, however good it looked."""
    others = [
        record("als", [0.9, 0.9], state=STOPPED, factors=2, epochs=5),
        record("als", None, state=FAILED, factors=1, epochs=5),
        record("als", [0.9, 0.9], state=RUNNING, factors=3, epochs=5),
    ]
    assert choice(POPULAR, BEST, *others, min_change=-0.9) == (
        {"factors": 128, "epochs": 20},
        [pytest.approx(0.4), 0.0, None, None, None],
    )
    assert choice(POPULAR, *others, min_change=-0.9)[0] is None
    assert choice(min_change=0.0) == (None, [])


def test_ties_have_a_fixed_order() -> None:
    """Protects reruns: of equals in cost the better wins, then the id, whatever the order of the records."""
    tied = [record("als", [0.3, 0.3], factors=8, x=x) for x in range(6)]
    first = min(tied, key=lambda one: one["trial"])
    assert choice(*tied, min_change=0.0)[0] == choice(*tied[::-1], min_change=0.0)[0] == first["params"]
    better = record("als", [0.3, 0.4], factors=8, x=9)
    assert choice(*tied, better, min_change=-1.0)[0] == better["params"]


# -- the split as files ----------------------------------------------------------------------------------


def test_a_split_comes_back_as_it_was_saved(job: JobConfig, tmp_path: Path) -> None:
    """Every trial sees the same train matrix and truth as the process that made the split, bit by bit."""
    held_out = split_of(job)
    save_splits(LocalStore(tmp_path), "split", splits={"sum": held_out})
    found = open_split(LocalStore(tmp_path), "split", combine="sum")
    pairs = [
        (held_out.train.user_items, found.train.user_items),
        (held_out.train.item_users, found.train.item_users),
        (held_out.truth, found.truth),
    ]
    for one, two in pairs:
        assert one.shape == two.shape
        for name in ("data", "indices", "indptr"):
            before, after = getattr(one, name), getattr(two, name)
            assert before.dtype == after.dtype
            assert before.tobytes() == after.tobytes()
    assert found.n_unknown_users == held_out.n_unknown_users
    assert len(found.train.user_ids) == held_out.train.user_items.shape[0]
    assert len(found.train.item_ids) == held_out.train.user_items.shape[1]
    ials = {"factors": 4, "reg": 0.01, "unobserved_weight": 0.1, "nu": 1.0, "epochs": 3}
    for family, params in (("als", RECIPE), ("ials", ials)):
        one, two = (measured(family, params, split, job=job)[0]["value"] for split in (held_out, found))
        assert one == two


def test_what_a_trial_writes_into_a_split_stays_with_it(job: JobConfig, tmp_path: Path) -> None:
    """The arrays are shared through the page cache: a trial may scale its own, nobody else sees it."""
    save_splits(LocalStore(tmp_path), "split", splits={"sum": split_of(job)})
    one, other = (
        open_split(LocalStore(tmp_path), "split", combine="sum"),
        open_split(LocalStore(tmp_path), "split", combine="sum"),
    )
    before = other.train.user_items.data.copy()
    one.train.user_items.data[:] = -1.0
    for seen in (other, open_split(LocalStore(tmp_path), "split", combine="sum")):
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
    save_splits(LocalStore(tmp_path), "split", splits=splits)
    summed, last, baseline = (
        open_split(LocalStore(tmp_path), "split", combine=job.combines([family])[0])
        for family in ("als", "ratings", BASELINE)
    )
    assert (summed.truth != last.truth).nnz == 0
    assert summed.train.user_items.indices.tolist() == last.train.user_items.indices.tolist()
    assert summed.train.user_items.data.sum() > last.train.user_items.data.sum()
    assert (baseline.train.user_items != summed.train.user_items).nnz == 0
    assert measured("als", RECIPE, last, job=job)[0]["value"] is not None
    alone = load_splits(job, find_inputs(job), families=["ratings", BASELINE])
    assert list(alone) == ["last"]
    weights = [
        load_interactions(job, find_inputs(job), family=name).user_items for name in ("als", "ratings")
    ]
    assert weights[0].sum() > weights[1].sum()
    assert weights[0].nnz == weights[1].nnz


def test_a_split_that_was_cut_short_is_not_complete(job: JobConfig, tmp_path: Path) -> None:
    """`complete` is written last: without it the sweep prepares the split again, and nobody opens it."""
    save_splits(LocalStore(tmp_path), "split", splits={"sum": split_of(job)})
    (tmp_path / "split" / COMPLETE).unlink()
    with pytest.raises(ReleaseError, match="no complete split"):
        open_split(LocalStore(tmp_path), "split", combine="sum")
