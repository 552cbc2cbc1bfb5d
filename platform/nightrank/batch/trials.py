"""Trials: which recipes a sweep tries, what one trial measures, and the leaderboard.

The list of recipes follows from the settings and the seed alone, and each trial's outcome is a record of its
own. So a sweep that was killed goes on where it stopped: it runs what has no record yet.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.config.families import Choices, Range, Space
from nightrank.config.job import JobConfig
from nightrank.data.splits import Split
from nightrank.models import fit
from nightrank.quality.evaluation import per_user, relevant_truth

BASELINE = "popularity"

Spec = dict[str, Any]


def spec_of(family: str, params: Mapping[str, int | float]) -> Spec:
    """A recipe with the id that its records go by: a hash of family and parameters."""
    content = json.dumps([family, dict(sorted(params.items()))])
    return {
        "trial": hashlib.sha256(content.encode()).hexdigest()[:12],
        "family": family,
        "params": dict(params),
    }


def specs(models: Mapping[str, Mapping[str, Space]], *, trials: int, seed: int) -> list[Spec]:
    """The baseline, then `trials` distinct recipes drawn at random; fewer where the space holds fewer."""
    rng = np.random.default_rng(seed)
    families = sorted(models)
    found = {BASELINE: spec_of(BASELINE, {})}
    for _ in range(50 * trials):
        if len(found) == trials + 1:
            break
        family = families[int(rng.integers(len(families)))]
        spec = spec_of(family, {name: _draw(space, rng) for name, space in sorted(models[family].items())})
        found.setdefault(spec["trial"], spec)
    return list(found.values())


def _draw(space: Space, rng: np.random.Generator) -> int | float:
    if isinstance(space, Choices):
        return space.values[int(rng.integers(len(space.values)))]
    return _between(space, rng.random())


def _between(space: Range, share: float) -> int | float:
    low, high = float(space.low), float(space.high)
    value = low * (high / low) ** share if space.log else low + (high - low) * share
    if isinstance(space.low, int) and isinstance(space.high, int):
        return min(max(round(value), space.low), space.high)
    rounded = float(f"{value:.4g}")  # for people to read, where that stays inside
    return rounded if low <= rounded <= high else min(max(value, low), high)


def measure(spec: Spec, split: Split, *, job: JobConfig, threads: int) -> dict[str, Any]:
    """Fit one recipe on train and score it on the truth; a fit that fails is an outcome, not an exception."""
    outcome = {**spec, "seed": job.seed, "value": None, "fit_s": None, "rank_s": None, "reason": None}
    try:
        started = time.monotonic()
        model = fit(spec["family"], split.train, params=spec["params"], seed=job.seed, threads=threads)
        fitted = time.monotonic()
        values = per_user(
            model,
            split,
            metric=job.objective.metric,
            k=job.objective.k,
            truth=relevant_truth(split, job.objective.rule),
            threads=threads,
        )
        outcome["fit_s"] = round(fitted - started, 3)
        outcome["rank_s"] = round(time.monotonic() - fitted, 3)
        value = float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
        outcome["value"], outcome["reason"] = (None, "no user has relevant held-out items")
        if math.isfinite(value):
            outcome["value"], outcome["reason"] = value, None
    except Exception as error:  # libraries have errors of their own (implicit: ModelFitError)
        outcome["reason"] = f"{type(error).__name__}: {error}"
    return outcome


def died(spec: Spec, *, seed: int) -> dict[str, Any]:
    """The outcome of a trial that left no record: its process ended three times before it could."""
    reason = "the process of the trial died each time (killed, or out of memory)"
    return {**spec, "seed": seed, "value": None, "fit_s": None, "rank_s": None, "reason": reason}


def leaderboard(outcomes: Sequence[Mapping[str, Any]], *, metric: str) -> pa.Table:
    """All trials, best first; failed ones last with their reason. Ties go to the cheaper, then to the id."""
    ordered = sorted(outcomes, key=_order)
    return pa.table(
        {
            "rank": pa.array(range(1, len(ordered) + 1), pa.int32()),
            "trial": [outcome["trial"] for outcome in ordered],
            "family": [outcome["family"] for outcome in ordered],
            "params": [json.dumps(outcome["params"], sort_keys=True) for outcome in ordered],
            "metric": [metric] * len(ordered),
            "value": pa.array([outcome["value"] for outcome in ordered], pa.float64()),
            "fit_s": pa.array([outcome["fit_s"] for outcome in ordered], pa.float64()),
            "rank_s": pa.array([outcome["rank_s"] for outcome in ordered], pa.float64()),
            "seed": pa.array([outcome["seed"] for outcome in ordered], pa.int64()),
            "reason": pa.array([outcome["reason"] for outcome in ordered], pa.string()),
        }
    )


def _order(outcome: Mapping[str, Any]) -> tuple[float, float, float, str]:
    params = outcome["params"]
    value = math.inf if outcome["value"] is None else -outcome["value"]
    return value, params.get("factors", 0), params.get("epochs", 0), outcome["trial"]


def winner(outcomes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best trial that is not the baseline, None where all failed."""
    candidates = [one for one in outcomes if one["value"] is not None and one["family"] != BASELINE]
    return min(candidates, key=_order, default=None)
