"""Recipes measured on tonight's test split: the one comparison behind the sweep's figures and the quality gate."""

from __future__ import annotations

from collections.abc import Sequence

from nightrank.batch.inputs import Inputs, load_splits
from nightrank.batch.run import Recipe
from nightrank.batch.trials import Values
from nightrank.config.job import JobConfig
from nightrank.data.splits import split_for
from nightrank.models import fit
from nightrank.quality.evaluation import per_user, relevant_truth


def values_on_test(
    job: JobConfig, inputs: Inputs, recipes: Sequence[Recipe], *, threads: int
) -> tuple[list[Values], int]:
    """The objective of every user for each recipe, fitted on the same train split and ranked against the same truth:
    float64 (n_train_users,), NaN without truth. And how many users of the truth are absent from train.

    The truth is that of all families of the job, as the trials had it.
    """
    splits = load_splits(job, inputs, families={*job.families, *(one.family for one in recipes)})
    values = []
    for one in recipes:
        tonight = split_for(splits, job.combines([one.family])[0])
        model = fit(one.family, tonight.train, params=one.params, seed=job.seed, threads=threads)
        values.append(
            per_user(
                model,
                tonight,
                metric=job.objective.metric,
                k=job.objective.k,
                truth=relevant_truth(tonight, job.objective.rule),
                threads=threads,
            )
        )
    return values, tonight.n_unknown_users
