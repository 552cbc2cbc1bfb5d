"""The service's own settings in serve_config.yaml: `args`, `user_config` and what it reserves.

`nightrank.service.serve_config` reads the whole file, with Ray's schema beside it; this part knows no Ray. A
relative store is refused: a replica has no folder of its own to start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from nightrank.config.cluster import ActorTable
from nightrank.config.locations import absolute_path, check_local, check_store, home_store, is_relative
from nightrank.config.problems import Key, shown
from nightrank.config.reading import expand_variables
from nightrank.config.strict import StrictModel, validate


def _absolute(value: str) -> str:
    """A path that means the same wherever a replica starts. Raises ValueError."""
    if is_relative(value):
        cure = "a replica starts in no folder of yours; write the path out in full"
        raise ValueError(f'found the relative path "{value}"; {cure}')
    return absolute_path(value, base=Path("/"))


LocalFile = Annotated[str, AfterValidator(check_local), AfterValidator(_absolute)]


class LiveSettings(StrictModel):
    """Live ranking: into how many shares the catalogue is split, and whether each is a deployment of its own."""

    partitions: int = Field(default=1, ge=1, le=64)
    placement: Literal["process", "actors"] = "process"


class JobsSettings(StrictModel):
    """Jobs over HTTP. address: of the cluster's jobs API. config: the job file that they run, on the head node.

    cluster: the cluster.yaml of their actors; null: the one that comes with the package. token: a file with the
    cluster's token; null: as the replica's own environment names it.
    """

    address: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+/?$")]
    config: LocalFile
    cluster: LocalFile | None = None
    token: LocalFile | None = None


class LimitsSettings(StrictModel):
    """The most that one call may ask for. ids: of users and items that it names, with the values of features;
    body_bytes: of its body."""

    k: int = Field(default=1_000, ge=1, le=10_000)
    ids: int = Field(default=10_000, ge=1, le=1_000_000)
    body_bytes: int = Field(default=2**20, ge=1_024, le=2**26)


class ServiceArgs(StrictModel):
    """`args` of the application. store: an absolute local path or s3://. keys: the file of `nightrank keys`."""

    store: str = Field(default_factory=home_store, validate_default=True)
    keys: LocalFile | None = None
    live: LiveSettings = Field(default_factory=LiveSettings)
    jobs: JobsSettings | None = None
    limits: LimitsSettings = Field(default_factory=LimitsSettings)

    @field_validator("store")
    @classmethod
    def _store(cls, value: str) -> str:
        return _absolute(check_store(value))


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


class PartitionEntry(StrictModel):
    """A partition's entry in serve_config.yaml. resources: by name, those that it gives; max_count: of replicas."""

    resources: dict[str, float]
    max_count: int


class ServeConfig(StrictModel):
    """serve_config.yaml after its checks; `raw` is the file as Ray reads it. partitions: the entries that it has."""

    source: str
    host: str
    port: int
    args: ServiceArgs
    user_config: UserConfig
    resources: ServiceResources
    partitions: dict[str, PartitionEntry]
    raw: dict[str, Any]

    def partition_replicas(self) -> int:
        """How many actors live ranking may start, at most; one for each partition that has no entry."""
        if self.args.live.placement == "process":
            return 0
        listed = sum(entry.max_count for entry in self.partitions.values())
        return self.args.live.partitions - len(self.partitions) + listed


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
    """One sentence per figure of service and partitions in which cluster.yaml and serve_config.yaml differ."""
    declared = actors.service.model_dump()
    asked = config.resources.model_dump()
    lines = [
        _differing(f"service {name}", figure, asked[name], source=config.source)
        for name, figure in declared.items()
        if figure != asked[name]
    ]
    spec = actors.partition
    for place, entry in config.partitions.items():
        lines += [
            _differing(f"{place} {name}", getattr(spec, name), figure, source=config.source)
            for name, figure in entry.resources.items()
            if figure != getattr(spec, name)
        ]
    wanted = config.partition_replicas()
    if wanted > spec.max_count:
        lines.append(
            f"partition max_count: cluster.yaml says {spec.max_count}, {config.source} starts {wanted} "
            f"(live.partitions {config.args.live.partitions}, placement actors); raise "
            "metadata.actors.partition.max_count, or lower live.partitions"
        )
    return lines


def _differing(what: str, declared: float, asked: float, *, source: str) -> str:
    return f"{what}: cluster.yaml says {shown(declared)}, {source} says {shown(asked)}"
