"""The search: TPE and ASHA made anew from records, so that a killed sweep goes on with all that it knew."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from nightrank.batch.search import WORTH, Proposal, scheduler, searcher
from nightrank.batch.trials import DONE, FAILED, RUNNING, STOPPED, Record, begun, spec_of
from nightrank.config.families import FAMILIES, Choices, Range, Space

METRIC = "ndcg@10"
SPACES = {name: FAMILIES[name].own_space() for name in ("als", "bpr", "ials", "lmf", "svd")}


def inside(value: float, space: Space) -> bool:
    if isinstance(space, Choices):
        return value in space.values
    whole = isinstance(space.low, int) and isinstance(space.high, int)
    return space.low <= value <= space.high and isinstance(value, int) == whole


def drawn(
    models: Any = SPACES,
    *,
    n: int,
    records: list[Record] | None = None,
    seed: int = 0,
    value: Any = lambda spec: 0.5,
) -> list[dict[str, Any]]:
    """n recipes, one after the other, each told its value before the next."""
    search = searcher(models, records or [], metric=METRIC, seed=seed)
    found = []
    for number in range(n):
        config = search.suggest(str(number))
        found.append(config["spec"])
        search.on_trial_complete(str(number), {WORTH: value(config["spec"]), "training_iteration": 1})
    return found


def ended(spec: dict[str, Any], value: float | None, *, state: str = DONE, history: Any = ()) -> Record:
    record = begun(spec, seed=0, origin="search")
    return {**record, "state": state, "value": value, "history": list(history)}


@pytest.mark.parametrize("seed", [0, 1])
def test_recipes_lie_in_their_own_space(seed: int) -> None:
    """Protects the conditional space: each recipe has the parameters of its family, typed and in bounds."""
    found = drawn(n=40, seed=seed)
    assert {spec["family"] for spec in found} == set(SPACES)
    for spec in found:
        assert spec == spec_of(spec["family"], spec["params"])
        assert spec["params"].keys() == SPACES[spec["family"]].keys()
        for name, value in spec["params"].items():
            assert inside(value, SPACES[spec["family"]][name]), (name, value)
            assert value == float(f"{value:.4g}")
        assert json.loads(json.dumps(spec)) == spec


def test_the_same_records_propose_the_same() -> None:
    """Protects reruns: seed and finished records decide what comes next; another seed, another draw."""
    first = drawn(n=5, seed=3)
    assert drawn(n=5, seed=3) == first
    assert drawn(n=5, seed=4) != first
    records = [ended(spec, 0.1 * place) for place, spec in enumerate(first)]
    assert drawn(n=3, records=records) == drawn(n=3, records=records)


def test_tpe_comes_to_where_the_values_are_good() -> None:
    """Protects the searcher from forgetting values: after random ones, it draws near the best."""
    space = {"als": {"reg": Range(1e-4, 1.0, log=True), "alpha": Range(1.0, 40.0)}}

    def value(spec: dict[str, Any]) -> float:
        return -abs(spec["params"]["alpha"] - 7.0)

    found = drawn(space, n=40, value=value)
    early, late = (sorted(-value(spec) for spec in part)[5] for part in (found[:10], found[-10:]))
    assert late < early / 2
    known = [ended(spec, value(spec)) for spec in found]
    resumed = drawn(space, n=10, records=known, value=value)
    assert sorted(-value(spec) for spec in resumed)[5] < early / 2


@pytest.mark.parametrize(
    "space",
    [
        {"svd": {"factors": Range(2, 9)}},
        {"svd": {"factors": Choices((2, 3, 4))}, "als": {"factors": Choices((8,))}},
    ],
)
def test_a_small_space_is_tried_as_a_whole_and_nothing_twice(space: Any) -> None:
    """Protects the number of trials: every recipe once, whatever TPE insists on, then no more."""
    proposal = Proposal(space)
    everything = [spec["trial"] for spec in proposal.recipes()]
    assert proposal.size == len(everything) == len(set(everything))
    search = searcher(space, [], metric=METRIC, seed=0)
    found = []
    for number in range(len(everything)):
        spec = search.suggest(str(number))["spec"]
        found.append(spec["trial"])
        search.on_trial_complete(str(number), {WORTH: 1.0 - number / 100, "training_iteration": 1})
    assert sorted(found) == sorted(everything)
    assert search.suggest("more") == search.FINISHED


def test_what_has_ended_is_not_proposed_again() -> None:
    """Protects a resumed sweep from trying what it knows; a space with a range that is no whole number is endless."""
    space = {"svd": {"factors": Choices((2, 3, 4, 5))}}
    known = [ended(spec, 0.9) for spec in drawn(space, n=3)]
    assert drawn(space, n=1, records=known)[0]["trial"] not in {one["trial"] for one in known}
    assert Proposal(SPACES).size == float("inf")


def test_what_was_cut_short_comes_first() -> None:
    """Protects trials that a crash ended: the same recipes are proposed again, before anything new."""
    specs = drawn(n=4, seed=9)
    records = [ended(specs[0], 0.4), *(ended(spec, None, state=RUNNING) for spec in specs[1:])]
    assert drawn(n=3, records=records) == specs[1:]


def test_records_outside_the_space_are_left_out() -> None:
    """Protects a search from yesterday's space: a winner that today's does not hold, or a failure, breaks nothing."""
    narrow = {"als": SPACES["als"] | {"factors": Choices((16,))}}
    outside = spec_of("als", {"factors": 999, "reg": 0.01, "alpha": 2.0, "epochs": 10})
    other = spec_of("ials", {"factors": 16})
    inside_it = spec_of("als", {"factors": 16, "reg": 0.01, "alpha": 2.0, "epochs": 10})
    records = [ended(outside, 0.9), ended(other, 0.9), ended(inside_it, None, state=FAILED)]
    assert {spec["params"]["factors"] for spec in drawn(narrow, n=5, records=records)} == {16}
    assert Proposal(narrow).values(outside["family"], outside["params"]) is None


def test_a_proposal_can_be_pickled() -> None:
    """Protects Tune, which saves its searcher while it runs."""
    assert pickle.loads(pickle.dumps(Proposal(SPACES))).models == Proposal(SPACES).models


# -- ASHA ------------------------------------------------------------------------------------------------


def curve(*values: float) -> list[dict[str, float]]:
    """Measurements at 30, 60 and 100 percent of a trial's epochs."""
    return [{"share": share, "value": value} for share, value in zip((30, 60, 100), values, strict=False)]


def decide(
    records: list[Record], worth: float, *, family: str = "als", share: int = 30, metric: str = METRIC
) -> str:
    """What happens to a new trial of a family that comes to be worth so much."""
    asha = scheduler(SPACES, records, metric=metric)
    trial = SimpleNamespace(trial_id="new", config={"spec": {"family": family}})
    asha.on_trial_add(None, trial)
    return asha.on_trial_result(None, trial, {"share": share, WORTH: worth})


STRONG = [
    ended(spec_of("als", {"factors": n}), 0.5, history=curve(0.3, 0.4, 0.5), state=DONE) for n in range(4)
]


def test_a_weak_trial_is_stopped_and_a_strong_one_goes_on() -> None:
    """Protects the rungs after a crash: they hold what the records reached, so nobody is let off for a restart."""
    assert decide(STRONG, 0.1) == "STOP"
    assert decide(STRONG, 0.35) == "CONTINUE"
    assert decide(STRONG, 0.35, share=60) == "STOP"
    assert decide([], 0.1) == "CONTINUE"


def test_a_small_rmse_is_a_strong_trial() -> None:
    """Protects losses from the wrong sign: records hold them as they are, rungs their negatives."""
    assert decide(STRONG, -0.35, metric="rmse") == "STOP"
    assert decide(STRONG, -0.1, metric="rmse") == "CONTINUE"
    search = searcher(SPACES, STRONG, metric="rmse", seed=0)
    assert {trial.value for trial in search._ot_study.trials} <= {-0.5}


def test_families_are_not_held_against_each_other() -> None:
    """Protects families that converge slowly: their first epochs are compared among themselves."""
    assert decide(STRONG, 0.1, family="ials") == "CONTINUE"


def test_before_a_quarter_nothing_is_stopped() -> None:
    """Protects from judging noise."""
    assert decide(STRONG, 0.0, share=20) == "CONTINUE"


def test_a_failure_counts_for_nothing() -> None:
    """Protects the rungs from NaN and from records without a value."""
    failures = [ended(spec_of("als", {"factors": n}), None, state=FAILED) for n in range(4)]
    stopped = [ended(spec_of("als", {"factors": 9}), 0.2, state=STOPPED, history=curve(0.2))]
    assert decide(failures, 0.1) == "CONTINUE"
    assert decide([*failures, *stopped], 0.1) == "STOP"
    assert decide(STRONG, float("nan")) == "CONTINUE"
