"""Recipes measured on tonight's test split: the one comparison behind the sweep's figures and the quality gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nightrank.batch.inputs import Inputs, load_metadata, load_splits, split_of
from nightrank.batch.run import Recipe
from nightrank.batch.trials import Values, objective_of
from nightrank.config.job import JobConfig
from nightrank.models import fit


@dataclass(frozen=True)
class OnTest:
    """values: of every user, a float64 (n_train_users,) for each recipe, NaN without truth. shares: what each user
    counts (`Objective.shares`). n_unknown_users: users of the truth who are absent from train."""

    values: list[Values]
    shares: Values | None
    n_unknown_users: int


def values_on_test(job: JobConfig, inputs: Inputs, recipes: Sequence[Recipe], *, threads: int) -> OnTest:
    """The objective of every user for each recipe, fitted on the same train split and held against the same truth.

    The truth is that of all families of the job, as the trials had it. A family that learns from features has the
    items of the item table beside train's, so it may find held-out items that the others miss.
    """
    objective, families = objective_of(job), [one.family for one in recipes]
    splits = load_splits(job, inputs, families={*job.families, *families})
    metadata = load_metadata(job, inputs, families=families, like=next(iter(splits.values())).train)
    values = []
    for one in recipes:
        tonight = split_of(job, splits, family=one.family, metadata=metadata)
        model = fit(
            one.family, tonight.train, params=one.params, seed=job.seed, threads=threads, label=job.label_rule
        )
        truth = objective.truth(tonight)
        values.append(objective.per_user(model, tonight, truth=truth, threads=threads))
    return OnTest(values, shares=objective.shares(truth), n_unknown_users=tonight.n_unknown_users)
