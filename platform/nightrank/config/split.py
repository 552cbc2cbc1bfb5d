"""The `split` of a job file: which pairs are held out to measure by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nightrank.config.problems import Problem, ProblemsError, shown
from nightrank.config.strict import StrictModel

# What each kind goes by: a number of pairs of every user, or a share of all pairs.
TAKES: Mapping[str, str] = {"leave_last": "n", "per_user": "n", "temporal": "share", "random_mask": "share"}
# The kinds that need times, and what does without them.
WITHOUT_TIMES: Mapping[str, str] = {
    "leave_last": "{kind: per_user, n: 1}",
    "temporal": "{kind: random_mask, share: 0.2}",
}


class SplitConfig(StrictModel):
    """n pairs of every user with more (the latest, or at random), or a share of all pairs (by time, or at random)."""

    kind: Literal["leave_last", "per_user", "temporal", "random_mask"] = "leave_last"
    n: int = Field(default=1, ge=1)
    share: float = Field(default=0.2, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _given_what_the_kind_takes(self) -> Self:
        problems = []
        for name in sorted(self.model_fields_set - {"kind", TAKES[self.kind]}):
            kinds = " or ".join(kind for kind, taken in TAKES.items() if taken == name)
            found = f"found {shown(getattr(self, name))}, which {self.kind} does not take"
            problems.append(
                Problem((name,), f"{found}; use {TAKES[self.kind]} in its place, or set kind to {kinds}")
            )
        if problems:
            raise ProblemsError(problems)
        return self

    @model_serializer(mode="wrap")
    def _what_the_kind_takes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the other kinds' key: it is no part of what the split does, and would be refused."""
        return {name: value for name, value in handler(self).items() if name in ("kind", TAKES[self.kind])}
