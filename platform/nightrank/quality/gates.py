"""The gates: what must hold before anything is scored (quality) or published (structure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import DataError
from nightrank.quality.objective import gain, gain_estimate, value_of


@dataclass(frozen=True)
class QualityDecision:
    """candidate, baseline: the metric over the users counted; change: how much better the candidate is (the mean
    paired difference; of rmse and logloss the baseline's less the candidate's), and change_low, change_high its 95%
    bootstrap interval. forced: it did not pass, and somebody went on all the same."""

    passed: bool
    metric: str
    candidate: float
    baseline: float
    baseline_recipe: dict[str, Any]
    change: float
    change_low: float | None
    change_high: float | None
    min_change: float
    n_users: int
    forced: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For gate.json and the manifest."""
        return asdict(self)


def quality_gate(
    candidate: NDArray[np.float64],
    baseline: NDArray[np.float64],
    *,
    metric: str,
    min_change: float,
    baseline_recipe: dict[str, Any],
    shares: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> QualityDecision:
    """Passed when the candidate is better by at least min_change (absolute). seed: of the interval.

    candidate, baseline: float64 (n_users,), the same users in the same order, NaN without truth. metric: its name.
    shares: what each user counts, as of `Objective.shares`.
    Raises DataError where nobody has truth.
    """
    counted = ~(np.isnan(candidate) | np.isnan(baseline))
    if not counted.any():
        raise DataError(
            "no user has relevant held-out items, so no model can be judged; check objective.relevant against the "
            "weights of the events"
        )
    interval = gain_estimate(candidate, baseline, metric=metric, shares=shares, seed=seed)
    candidate, baseline = candidate[counted], baseline[counted]
    change = gain(candidate, baseline, metric=metric)
    return QualityDecision(
        passed=bool(change >= min_change),
        metric=metric,
        candidate=value_of(candidate, metric=metric),
        baseline=value_of(baseline, metric=metric),
        baseline_recipe=baseline_recipe,
        change=change,
        change_low=interval.low,
        change_high=interval.high,
        min_change=min_change,
        n_users=int(counted.sum()),
    )


@dataclass(frozen=True)
class StructureDecision:
    """What publish found in the files: problems is empty when the gate passed.

    coverage: of the items with events, the share that is recommended to anybody. new_items: those of the catalogue
    without events, which a family with features ranks by what they are; new_items_recommended: to anybody.
    """

    passed: bool
    coverage: float
    min_coverage: float
    users: int
    rows: int
    empty_users: int
    new_items: int
    new_items_recommended: int
    problems: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self) | {"problems": list(self.problems)}


def structure_gate(
    *,
    users: int,
    expected_users: int,
    rows: int,
    empty_users: int,
    recommended: NDArray[np.bool_],
    has_events: NDArray[np.bool_],
    min_coverage: float,
) -> StructureDecision:
    """Every user has a list, and enough of the items with events are recommended to somebody.

    recommended, has_events: bool (n_items,). Items without events count for nothing here: an item table may hold any
    number of them, and a share of those says nothing of the lists.
    """
    n_items = int(np.count_nonzero(has_events))
    n_new, n_new_recommended = len(has_events) - n_items, int(np.count_nonzero(recommended & ~has_events))
    n_recommended = int(np.count_nonzero(recommended & has_events))
    coverage = n_recommended / n_items
    problems = []
    if users != expected_users:
        problems.append(f"{users} users were scored, {expected_users} are in the model")
    if empty_users:
        problems.append(f"{empty_users} users have an empty list although they have not seen everything")
    if coverage < min_coverage:
        problems.append(
            f"coverage is {coverage:.4f}: {n_recommended} of {n_items} items with events are recommended to anybody "
            f"(and {n_new_recommended} of {n_new} without); gate.min_coverage asks for {min_coverage}"
        )
    return StructureDecision(
        passed=not problems,
        coverage=coverage,
        min_coverage=min_coverage,
        users=users,
        rows=rows,
        empty_users=empty_users,
        new_items=n_new,
        new_items_recommended=n_new_recommended,
        problems=problems,
    )
