"""The `objective` of a job file: what a sweep goes by, and a gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from nightrank.config.families import BASELINES, LINKS, Link, Value
from nightrank.config.problems import Key, Problem, ProblemsError, shown
from nightrank.config.rules import Rule, parse_rule
from nightrank.config.strict import StrictModel

# The metrics of predicted pairs, of which smaller is better, and what a model has to predict for them.
LOSSES: Mapping[str, Link] = {"rmse": "identity", "logloss": "logistic"}
_MEANING: Mapping[Link, str] = {"none": "nothing", "identity": "ratings", "logistic": "probabilities"}


class ObjectiveConfig(StrictModel):
    """A metric of the held-out part: of rankings cut at k, where `relevant` says which pairs count, or of pairs."""

    metric: Literal["ndcg", "recall", "map", "precision", "hr", "mrr", "rmse", "logloss"] = "ndcg"
    k: int = Field(default=10, ge=1)
    relevant: str | None = None

    @field_validator("relevant")
    @classmethod
    def _canonical(cls, value: str | None) -> str | None:
        return None if value is None else str(parse_rule(value))

    @model_validator(mode="after")
    def _given_what_the_metric_takes(self) -> Self:
        given = sorted(self.model_fields_set - {"metric"}) if self.metric in LOSSES else []
        problems = [
            Problem(
                (name,),
                f"found {shown(getattr(self, name))}, which {self.metric} does not take: it is of all held-out pairs "
                f"and ranks nothing; remove it (as --set 'objective={{metric: {self.metric}}}' does), or use a "
                "metric of rankings",
            )
            for name in given
        ]
        if problems:
            raise ProblemsError(problems)
        return self

    @model_serializer(mode="wrap")
    def _what_the_metric_takes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without keys that are no part of what it means, and would be refused."""
        found = handler(self)
        return {"metric": self.metric} if self.metric in LOSSES else found

    @property
    def rule(self) -> Rule | None:
        """`relevant`, ready to apply."""
        return None if self.relevant is None else parse_rule(self.relevant)

    @property
    def name(self) -> str:
        """As it is shown: ndcg@10, rmse."""
        return self.metric if self.metric in LOSSES else f"{self.metric}@{self.k}"

    def suits(self, family: str, task: Value | None) -> bool:
        """Can a model of this family and task give the metric?"""
        return self.metric not in LOSSES or LINKS.get((family, task), "none") == LOSSES[self.metric]


def objective_problems(
    objective: ObjectiveConfig, tasks: Sequence[tuple[Key, str, Value | None]], *, has_label: bool
) -> Iterator[Problem]:
    """What keeps a job from its objective. tasks: key, family and task of whatever it may fit."""
    if objective.metric == "logloss" and not has_label:
        cure = 'say which weights are of the class with label, for example "weight>=4"'
        yield Problem(("objective", "metric"), f'found "logloss" without the setting label; {cure}')
    for key, family, task in tasks:
        if objective.suits(family, task):
            continue
        wanted = LOSSES[objective.metric]
        fitting = sorted(
            _named(*one) for one, link in LINKS.items() if link == wanted and one[0] not in BASELINES
        )
        predicted = _MEANING[LINKS.get((family, task), "none")]
        yield Problem(
            key,
            f"found {_named(family, task)}, which predicts {predicted}, and objective.metric is {objective.metric}: "
            f"it needs {_MEANING[wanted]}, which {', '.join(fitting)} predict; leave it out, or use another metric",
        )


def _named(family: str, task: object) -> str:
    return family if task is None else f"{family} with task {task}"
