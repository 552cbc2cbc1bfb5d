"""cluster.yaml's `metadata.actors`: what every kind of actor takes, for Tune, Data, Serve and jobs alike.

The rest of the file is Ray's own (`ray up`) and not looked at here. Every kind must be there with every
figure, so that nothing runs on a default nobody chose. GPUs are refused: nothing in this version would use one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from nightrank.config.locations import find_settings
from nightrank.config.problems import Problem, ProblemsError, nearest, settings_error
from nightrank.config.reading import read_mapping
from nightrank.config.strict import StrictModel, validate


class ActorSpec(StrictModel):
    """What one actor of a kind reserves, and how many of them may be at work."""

    num_cpus: float = Field(ge=0.0)
    num_gpus: float = Field(ge=0.0)
    memory: int = Field(ge=0)  # bytes; Ray reserves by it, it does not enforce it
    min_count: int = Field(ge=0)
    max_count: int = Field(ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problems = []
        if self.max_count < self.min_count:
            text = f"found {self.max_count}, expected at least min_count, which is {self.min_count}"
            problems.append(Problem(("max_count",), text))
        if self.num_gpus > 0:
            text = f"found {self.num_gpus}, expected 0: no part of this version runs on a GPU"
            problems.append(Problem(("num_gpus",), text))
        if problems:
            raise ProblemsError(problems)
        return self


class ActorTable(StrictModel):
    """Every kind of actor there is."""

    driver: ActorSpec
    tune_trial: ActorSpec
    trainer: ActorSpec
    scorer: ActorSpec
    service: ActorSpec
    partition: ActorSpec

    def specs(self) -> dict[str, ActorSpec]:
        """Kind to figures, in the order of the table."""
        return {kind: getattr(self, kind) for kind in type(self).model_fields}


class _Metadata(StrictModel):
    actors: ActorTable


def cluster_file(path: Path | None = None) -> Path:
    """Which cluster.yaml is meant: the given one, ./cluster.yaml, or the one that came with the package."""
    return find_settings("cluster.yaml", path)


def load_cluster(path: Path | None = None) -> ActorTable:
    """Every kind of actor with its figures. Raises SettingsError naming the file and every wrong key."""
    path = cluster_file(path)
    raw = read_mapping(path)
    if "metadata" not in raw:
        close = nearest("metadata", [str(name) for name in raw])
        cure = "expected metadata.actors; give another file with --cluster, or add it"
        raise settings_error(str(path), [Problem(("metadata",), f"missing ({close}); {cure}")])
    return validate(_Metadata, raw["metadata"], source=str(path), prefix=("metadata",)).actors
