"""The train stage: the quality gate on tonight's test split, then the fit on all events.

Recipes are compared, not published vectors: candidate and baseline are both fitted on the same train split
and ranked against the same truth, user by user.
"""

from __future__ import annotations

import logging
from typing import Any

from nightrank.batch.inputs import Inputs, load_counted
from nightrank.batch.on_test import values_on_test
from nightrank.batch.run import Recipe, Run
from nightrank.batch.trials import baseline_of, can_be_measured
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
        baseline = _baseline(run)
        n_threads = threads(actors.trainer)
        log.info("gate: %s %s against %s %s", recipe.family, recipe.params, baseline.family, baseline.params)
        decision = run_task(_judge, run.job, run.inputs, recipe, baseline, n_threads, spec=actors.trainer)
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


def _baseline(run: Run) -> Recipe:
    """The recipe in service when the run began, or a stand-in."""
    spec, before = baseline_of(run.job), run.record.in_service
    if before is not None and can_be_measured(run.job, before.family, before.params):
        return before
    if before is not None:
        log.warning(
            "%s %s, which is in service, cannot give %s: %s stands in for it in the gate",
            *(before.family, before.params, run.job.objective.name, spec["family"]),
        )
    return Recipe(family=spec["family"], params=spec["params"])


def _judge(
    job: JobConfig, inputs: Inputs, recipe: Recipe, baseline: Recipe, n_threads: int
) -> dict[str, Any]:
    found = values_on_test(job, inputs, (recipe, baseline), threads=n_threads)
    return quality_gate(
        *found.values,
        metric=job.objective.name,
        shares=found.shares,
        min_change=job.gate.min_change,
        baseline_recipe=baseline.model_dump(),
        seed=job.seed,
    ).as_dict() | {"unknown_users": found.n_unknown_users}


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
    card = save_model(model, interactions, store=open_store(store), key=key, n_buckets=buckets, seed=job.seed)
    return {
        "users": card.n_users,
        "items": card.n_items,
        "pairs": card.n_pairs,
        "counts": interactions.counts.as_dict(),
        "metadata": None if tables is None else tables.as_dict(),
        "buckets": card.n_buckets,
        "model_hash": card.model_hash,
    }
