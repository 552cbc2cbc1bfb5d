"""Recipes measured on tonight's test split: the one comparison behind the sweep's figures and the quality gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightrank.batch.inputs import Inputs, load_metadata, load_splits, split_of
from nightrank.batch.run import Recipe
from nightrank.batch.trials import Values, objective_of
from nightrank.config.job import JobConfig
from nightrank.data.metadata import Metadata
from nightrank.data.splits import Split
from nightrank.errors import DataError
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
    test = _Test.of(job, inputs, families=[one.family for one in recipes])
    return test.outcome([test.values(one, threads=threads) for one in recipes])


def against_baseline(
    job: JobConfig, inputs: Inputs, *, candidate: Recipe, baseline: Recipe, stand_in: Recipe, threads: int
) -> tuple[OnTest, str | None]:
    """The values of the candidate, and of the baseline: then None; or of the stand-in, and why the baseline, a recipe
    of another night, cannot be fitted on tonight's data.

    Raises DataError where the job or the candidate is at fault: the baseline is fitted first, so that what comes
    again with the stand-in in its place is none of the baseline's.
    """
    reason = None
    try:
        test = _Test.of(job, inputs, families=[candidate.family, baseline.family])
        values = test.values(baseline, threads=threads)
    except DataError as error:
        if baseline == stand_in:
            raise
        reason = str(error)
        test = _Test.of(job, inputs, families=[candidate.family, stand_in.family])
        values = test.values(stand_in, threads=threads)
    return test.outcome([test.values(candidate, threads=threads), values]), reason


@dataclass
class _Test:
    """The test split as the families are fitted on it."""

    job: JobConfig
    splits: Mapping[str, Split]
    metadata: Metadata | None

    @classmethod
    def of(cls, job: JobConfig, inputs: Inputs, *, families: Sequence[str]) -> _Test:
        splits = load_splits(job, inputs, families={*job.families, *families})
        like = next(iter(splits.values())).train
        return cls(job, splits, load_metadata(job, inputs, families=families, like=like))

    def split(self, family: str) -> Split:
        return split_of(self.job, self.splits, family=family, metadata=self.metadata)

    def values(self, recipe: Recipe, *, threads: int) -> Values:
        """Classes are by the job's rule, else by the recipe's own."""
        objective, split = objective_of(self.job), self.split(recipe.family)
        model = fit(
            recipe.family,
            split.train,
            params=recipe.params,
            seed=self.job.seed,
            threads=threads,
            label=self.job.label_rule or recipe.rule,
        )
        return objective.per_user(model, split, truth=objective.truth(split), threads=threads)

    def outcome(self, values: list[Values]) -> OnTest:
        objective, split = objective_of(self.job), next(iter(self.splits.values()))
        shares = objective.shares(objective.truth(split))
        return OnTest(values, shares=shares, n_unknown_users=split.n_unknown_users)
