"""The service's own settings in serve_config.yaml: `args`, `user_config` and what it reserves.

`nightrank.service.serve_config` reads the whole file, with Ray's schema beside it; this part knows no Ray. A
relative store is refused: a replica has no folder of its own to start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from nightrank.config.cluster import ActorTable
from nightrank.config.locations import absolute_path, check_store, home_store, is_relative
from nightrank.config.problems import Key, shown
from nightrank.config.reading import expand_variables
from nightrank.config.strict import StrictModel, validate


class ServiceArgs(StrictModel):
    """`args` of the application: the store it answers from, an absolute local path."""

    not_yet: ClassVar[Mapping[str, str]] = {
        "keys": "reads are open on loopback and there are no admin calls; remove it",
        "live": "every answer is precomputed; remove it",
        "jobs": "jobs are submitted with `ray job submit`; remove it",
        "limits": "limits are fixed; remove it",
    }

    store: str = Field(default_factory=home_store, validate_default=True)

    @field_validator("store")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if is_relative(check_store(value)):
            cure = "a replica starts in no folder of yours; write the path out in full"
            raise ValueError(f'found the relative path "{value}"; {cure}')
        return absolute_path(value, base=Path("/"))


class UserConfig(StrictModel):
    """`user_config` of the deployment: null follows CURRENT, a release id pins that release."""

    release: str | None = Field(default=None, min_length=1)


class ServiceResources(StrictModel):
    """What serve_config.yaml asks Ray for, per replica, and how many replicas."""

    num_cpus: float
    num_gpus: float
    memory: float
    min_count: int
    max_count: int


class ServeConfig(StrictModel):
    """serve_config.yaml after its checks; `raw` is the file as Ray reads it."""

    source: str
    host: str
    port: int
    args: ServiceArgs
    user_config: UserConfig
    resources: ServiceResources
    raw: dict[str, Any]


def service_args(
    raw: Mapping[str, Any], *, source: str = "serve_config.yaml", prefix: Key = ("args",)
) -> ServiceArgs:
    """The application's arguments, variables expanded. Raises SettingsError."""
    values = expand_variables(dict(raw), source=source, prefix=prefix)
    return validate(ServiceArgs, values, source=source, prefix=prefix)


def service_user_config(
    raw: Mapping[str, Any] | None, *, source: str = "serve_config.yaml", prefix: Key = ("user_config",)
) -> UserConfig:
    """The deployment's user_config; none at all follows CURRENT. Raises SettingsError."""
    return validate(UserConfig, {} if raw is None else raw, source=source, prefix=prefix)


def service_resources_equal(actors: ActorTable, config: ServeConfig) -> list[str]:
    """One sentence per figure of the service in which cluster.yaml and serve_config.yaml differ."""
    declared = actors.service.model_dump()
    asked = config.resources.model_dump()
    return [
        f"service {name}: cluster.yaml says {shown(figure)}, {config.source} says {shown(asked[name])}"
        for name, figure in declared.items()
        if figure != asked[name]
    ]
