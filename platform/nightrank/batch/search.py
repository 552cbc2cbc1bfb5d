"""What a sweep tries next, and what it stops: Optuna's TPE over families and parameters, and Ray's ASHA.

Both are made anew from the trials' records whenever a sweep starts, so a killed one goes on with all that it knew.
Tune's own restore would lose ASHA's rungs, and unpickles.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from nightrank.batch.trials import DONE, FAILED, RUNNING, STOPPED, Spec, spec_of
from nightrank.config.families import Choices, Range, Space, Value
from nightrank.quality.names import signed

Models = Mapping[str, Mapping[str, Space]]
Record = Mapping[str, Any]

STUDY = "sweep"
REDRAWS, LISTED = 20, 10_000  # tries for a recipe that is new; recipes of a space that is listed to find one
FAMILY = "family"
WORTH = "worth"  # what Tune maximises: the objective, signed so that larger is better
# A trial is held against others of its family after a quarter and a half of its own epochs; the better half goes on.
GRACE, HALVING, WHOLE = 25, 2, 100


class Proposal:
    """One conditional space: a family, then its parameters. Optuna calls it with a trial, Tune pickles it."""

    def __init__(self, models: Models) -> None:
        self.models = {family: dict(sorted(models[family].items())) for family in sorted(models)}

    def __call__(self, trial: Any) -> dict[str, Any]:
        """The recipe that a trial is to try."""
        families = list(self.models)
        family = families[0] if len(families) == 1 else trial.suggest_categorical(FAMILY, families)
        params = {
            name: space.values[0]
            if isinstance(space, Choices) and len(space.values) == 1
            else _rounded(_suggested(trial, f"{family}.{name}", space), space)
            for name, space in self.models[family].items()
        }
        return {"spec": spec_of(family, params)}

    def distributions(self, family: str) -> dict[str, optuna.distributions.BaseDistribution]:
        """What is drawn where this family is: the name in Optuna to its distribution."""
        found: dict[str, optuna.distributions.BaseDistribution] = {}
        if len(self.models) > 1:
            found[FAMILY] = optuna.distributions.CategoricalDistribution(list(self.models))
        for name, space in self.models[family].items():
            if not (isinstance(space, Choices) and len(space.values) == 1):
                found[f"{family}.{name}"] = _distribution(space)
        return found

    @property
    def size(self) -> float:
        """How many recipes it holds."""
        return sum(math.prod(_size(space) for space in spaces.values()) for spaces in self.models.values())

    def recipes(self) -> Iterator[Spec]:
        """All of a space that is not endless."""
        for family, spaces in self.models.items():
            for values in itertools.product(*(_all(space) for space in spaces.values())):
                yield spec_of(family, dict(zip(spaces, values, strict=True)))

    def values(self, family: str, params: Mapping[str, Value]) -> dict[str, Any] | None:
        """A recipe in Optuna's names, None where it lies outside the space."""
        if family not in self.models or params.keys() != self.models[family].keys():
            return None
        if not all(_holds(space, params[name]) for name, space in self.models[family].items()):
            return None
        named = {FAMILY: family, **{f"{family}.{name}": value for name, value in params.items()}}
        return {name: named[name] for name in self.distributions(family)}


class Distinct(OptunaSearch):  # type: ignore[misc]
    """TPE that proposes no recipe twice; where it insists on known ones, another is drawn at random."""

    def __init__(self, proposal: Proposal, *, tried: Iterable[str], seed: int, **given: Any) -> None:
        super().__init__(space=proposal, metric=WORTH, mode="max", **given)
        self.proposal, self.tried = proposal, set(tried)
        self.rng = np.random.default_rng(seed)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        for _ in range(REDRAWS):
            found: dict[str, Any] = super().suggest(trial_id)
            if found["spec"]["trial"] not in self.tried:
                self.tried.add(found["spec"]["trial"])
                return found
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        spec = self._unseen()
        if spec is None:
            return str(self.FINISHED)  # type: ignore[return-value]  # Tune's word for no more
        self.tried.add(spec["trial"])
        self._ot_study.enqueue_trial(self.proposal.values(spec["family"], spec["params"]))
        proposed: dict[str, Any] = super().suggest(trial_id)
        return proposed

    def _unseen(self) -> Spec | None:
        if self.proposal.size <= LISTED:
            left = [spec for spec in self.proposal.recipes() if spec["trial"] not in self.tried]
            return left[int(self.rng.integers(len(left)))] if left else None
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(int(self.rng.integers(2**31))))
        drawn = (self.proposal(study.ask())["spec"] for _ in range(REDRAWS))
        return next((spec for spec in drawn if spec["trial"] not in self.tried), None)


def searcher(models: Models, records: Sequence[Record], *, metric: str, seed: int) -> Distinct:
    """TPE that knows all records: finished trials as such, and those that were cut short come first.

    metric: the name of the objective. With as many finished records, the same seed proposes the same: what comes
    first does not hang on the clock.
    """
    proposal = Proposal(models)
    storage = optuna.storages.InMemoryStorage()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", optuna.exceptions.ExperimentalWarning
        )  # group: for conditional spaces
        known = [record for record in records if record["state"] in (DONE, STOPPED, FAILED)]
        draws = int(np.random.SeedSequence([seed, len(known)]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=draws, multivariate=True, group=True, constant_liar=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", sampler=sampler)
    for record in records:
        values = proposal.values(record["family"], record["params"])
        if values is None:
            continue
        if record["state"] == RUNNING:
            study.enqueue_trial(values)
        else:
            study.add_trial(_known(record, values, proposal.distributions(record["family"]), metric=metric))
    tried = [record["trial"] for record in known]
    return Distinct(proposal, tried=tried, seed=draws, sampler=sampler, storage=storage, study_name=STUDY)


class ByFamily(FIFOScheduler):  # type: ignore[misc]
    """ASHA within each family: a trial is stopped for being weaker than others of its kind at the same share of
    their epochs. Families do not converge alike, so first epochs say little across them; TPE compares the ends.
    """

    def __init__(self, families: Iterable[str]) -> None:
        super().__init__()
        self.ashas = {
            family: ASHAScheduler(
                time_attr="share",
                metric=WORTH,
                mode="max",
                max_t=WHOLE,
                grace_period=GRACE,
                reduction_factor=HALVING,
            )
            for family in families
        }

    def _of(self, trial: Any) -> Any:
        return self.ashas[trial.config["spec"]["family"]]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if math.isnan(result[WORTH]):  # a fit that failed is nobody's rung
            return
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


def scheduler(models: Models, records: Sequence[Record], *, metric: str) -> ByFamily:
    """ASHA whose rungs are filled with what the records reached. metric: as of `searcher`."""
    found = ByFamily(models)
    for record in records:
        if record["state"] not in (DONE, STOPPED) or record["family"] not in models:
            continue
        trial = SimpleNamespace(trial_id=record["trial"], config={"spec": record})
        found.on_trial_add(None, trial)
        for point in record["history"]:
            worth = signed(point["value"], metric=metric)
            found.on_trial_result(None, trial, {"share": point["share"], WORTH: worth})
        found.on_trial_remove(None, trial)
    return found


def _known(
    record: Record,
    values: dict[str, Any],
    distributions: dict[str, optuna.distributions.BaseDistribution],
    *,
    metric: str,
) -> optuna.trial.FrozenTrial:
    failed = record["state"] == FAILED
    return create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None if failed else signed(record["value"], metric=metric),
        params=values,
        distributions=distributions,
    )


def _suggested(trial: Any, name: str, space: Space) -> Any:
    if isinstance(space, Choices):
        return trial.suggest_categorical(name, list(space.values))
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(name, space.low, space.high, log=space.log)
    return trial.suggest_float(name, float(space.low), float(space.high), log=space.log)


def _distribution(space: Space) -> optuna.distributions.BaseDistribution:
    if isinstance(space, Choices):
        return optuna.distributions.CategoricalDistribution(list(space.values))
    if isinstance(space.low, int) and isinstance(space.high, int):
        return optuna.distributions.IntDistribution(space.low, space.high, log=space.log)
    return optuna.distributions.FloatDistribution(float(space.low), float(space.high), log=space.log)


def _size(space: Space) -> float:
    if isinstance(space, Choices):
        return len(space.values)
    whole = isinstance(space.low, int) and isinstance(space.high, int)
    return int(space.high) - int(space.low) + 1 if whole else math.inf


def _all(space: Space) -> Sequence[Value]:
    return space.values if isinstance(space, Choices) else range(int(space.low), int(space.high) + 1)


def _rounded(value: Any, space: Space) -> Any:
    """Four digits, for people to read, where that stays inside."""
    if not isinstance(space, Range) or not isinstance(value, float):
        return value
    rounded = float(f"{value:.4g}")
    return rounded if _holds(space, rounded) else value


def _holds(space: Space, value: Value) -> bool:
    if isinstance(space, Choices) or isinstance(value, str):
        return isinstance(space, Choices) and value in space.values
    return space.low <= value <= space.high
