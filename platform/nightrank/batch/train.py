"""The train stage: the quality gate on tonight's test split, then the fit on all events.

Recipes are compared, not published vectors: candidate and baseline are both fitted on the same train split
and ranked against the same truth, user by user.
"""

from __future__ import annotations

import logging
from typing import Any

from nightrank.batch.inputs import Inputs, load_counted
from nightrank.batch.on_test import against_baseline
from nightrank.batch.run import Recipe, Run
from nightrank.batch.trials import baseline_of, unmeasurable
from nightrank.cluster.session import run_task, threads
from nightrank.config.cluster import ActorTable
from nightrank.config.job import JobConfig
from nightrank.errors import GateRefused
from nightrank.models import fit
from nightrank.quality.gates import quality_gate
from nightrank.release.model_files import default_buckets, save_model
from nightrank.release.store import open_store

log = logging.getLogger("nightrank.train")


def train(run: Run, actors: ActorTable, *, force: bool = False) -> dict[str, Any]:
    """Judge the recipe, then fit it on all events and save the model in the run.

    force: go on where the gate refuses; the decision says so, in gate.json and in the manifest.
    Raises GateRefused, after gate.json was written and before anything is scored.
    """
    with run.recording("train") as outcome:
        recipe = chosen_recipe(run)
        baseline, why_not = _baseline(run)
        n_threads = threads(actors.trainer)
        log.info("gate: %s %s against %s %s", recipe.family, recipe.params, baseline.family, baseline.params)
        decision = run_task(_judge, run.job, run.inputs, recipe, baseline, n_threads, spec=actors.trainer)
        why_not = why_not or _not_fitted(baseline, decision)
        decision["stands_in_for"] = why_not
        decision["forced"] = force and not decision["passed"]
        run.put_json("gate.json", decision)
        if decision["forced"]:
            log.warning("forced: %s", _refusal(decision))
        elif not decision["passed"]:
            raise GateRefused(_refusal(decision))
        outcome["quality"] = decision
        outcome["recipe"] = recipe.model_dump()
        log.info("fitting %s on all events", recipe.family)
        run.store.delete_folder(
            run.name("buckets")
        )  # lists of a model that has to be made anew are not trusted
        outcome["model"] = run_task(
            _fit_all,
            *(run.job, run.inputs, recipe, run.store.url, run.name("model"), n_threads),
            spec=actors.trainer,
        )
    return outcome


def chosen_recipe(run: Run) -> Recipe:
    """The model that the job names, or the sweep's winner."""
    if run.job.train.model is not None:
        return Recipe(family=run.job.train.model, params=run.job.train.params)
    best = run.finished("sweep")["winner"]
    return Recipe(family=best["family"], params=best["params"])


def _baseline(run: Run) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe in service when the run began; or what stands in for it, and that recipe with the reason."""
    before, why_not = run.record.in_service, None
    if before is not None:
        reason = unmeasurable(run.job, before)
        if reason is None:
            return before, None
        why_not = _passed_over(before, reason=reason, stand_in=stand_in_of(run.job))
    return stand_in_of(run.job), why_not


def stand_in_of(job: JobConfig) -> Recipe:
    """What a candidate is held against where the recipe in service cannot be."""
    spec = baseline_of(job)
    return Recipe(family=spec["family"], params=spec["params"])


def _not_fitted(baseline: Recipe, decision: dict[str, Any]) -> dict[str, Any] | None:
    reason = decision.pop("not_fitted")
    if reason is None:
        return None
    text = f"cannot be fitted on tonight's data ({reason})"
    return _passed_over(baseline, reason=text, stand_in=Recipe(**decision["baseline_recipe"]))


def _passed_over(recipe: Recipe, *, reason: str, stand_in: Recipe) -> dict[str, Any]:
    log.warning(
        "%s %s, which is in service, %s: %s stands in for it in the gate",
        *(recipe.family, recipe.params, reason, stand_in.family),
    )
    return {**recipe.model_dump(), "reason": reason}


def _judge(
    job: JobConfig, inputs: Inputs, recipe: Recipe, baseline: Recipe, n_threads: int
) -> dict[str, Any]:
    stand_in = stand_in_of(job)
    found, reason = against_baseline(
        job, inputs, candidate=recipe, baseline=baseline, stand_in=stand_in, threads=n_threads
    )
    held_against = baseline if reason is None else stand_in
    decision = quality_gate(
        *found.values,
        metric=job.objective.name,
        shares=found.shares,
        min_change=job.gate.min_change,
        baseline_recipe=held_against.model_dump(),
        seed=job.seed,
    )
    return decision.as_dict() | {"unknown_users": found.n_unknown_users, "not_fitted": reason}


def _refusal(decision: dict[str, Any]) -> str:
    baseline = decision["baseline_recipe"]
    where = "in service" if baseline["release"] else "the baseline"
    return (
        f"the quality gate refused: {decision['metric']} is {decision['candidate']:.4f} on {decision['n_users']} "
        f"users, {baseline['family']} ({where}) has {decision['baseline']:.4f}; the mean paired difference is "
        f"{decision['change']:+.4f} and gate.min_change asks for at least {decision['min_change']:+.4f}. "
        "What is in service stays; look at the leaderboard, widen the sweep, change gate.min_change, or go on "
        "all the same with --force"
    )


def _fit_all(
    job: JobConfig, inputs: Inputs, recipe: Recipe, store: str, key: str, n_threads: int
) -> dict[str, Any]:
    interactions, tables = load_counted(job, inputs, family=recipe.family)
    model = fit(
        recipe.family,
        interactions,
        params=recipe.params,
        seed=job.seed,
        threads=n_threads,
        label=job.label_rule,
    )
    buckets = job.score.buckets or default_buckets(len(interactions.user_ids))
    card = save_model(
        model,
        interactions,
        store=open_store(store),
        key=key,
        n_buckets=buckets,
        seed=job.seed,
        label=job.label_rule,
    )
    return {
        "users": card.n_users,
        "items": card.n_items,
        "pairs": card.n_pairs,
        "counts": interactions.counts.as_dict(),
        "metadata": None if tables is None else tables.as_dict(),
        "buckets": card.n_buckets,
        "model_hash": card.model_hash,
    }
