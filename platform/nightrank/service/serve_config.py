"""serve_config.yaml, read strictly: Ray takes a mistyped key in silence, at every level of the file.

The file is compared with Ray's own schema, key by key, and its values are validated without coercion.
Refused as well: a file without `http_options.host` (Serve would then listen on all interfaces), `${}`
outside the application's `args` (nobody expands it there), an application without our deployment, an address
beyond loopback without API keys. Other applications may stand in the file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from nightrank.config.cluster import ActorSpec
from nightrank.config.locations import find_settings
from nightrank.config.problems import Key, Problem, nearest, settings_error, shown
from nightrank.config.reading import read_mapping
from nightrank.config.service import (
    PartitionEntry,
    ServeConfig,
    ServiceArgs,
    ServiceResources,
    service_args,
    service_user_config,
)
from nightrank.config.strict import describe, known_keys
from nightrank.service.exposure import exposed

IMPORT_PATH = "nightrank.service.app:build"
DEPLOYMENT = "Service"
PARTITION = "Partition{}"  # of each share of the catalogue, where `live.placement` is actors

_SERVE_DEFAULT_CPUS = 1.0  # what Serve reserves for a replica that does not say
_AUTO_MAX_REPLICAS = 100  # what `num_replicas: auto` means to Serve


def serve_config_file(path: Path | None = None) -> Path:
    """Which serve_config.yaml is meant: the given one, ./serve_config.yaml, or the package's."""
    return find_settings("serve_config.yaml", path)


def load_serve_config(path: Path | None = None) -> ServeConfig:
    """The checked file. Raises SettingsError naming the file and every key that cannot be used."""
    config = read_serve_config(path)
    problem = exposed(config.host, has_keys=config.args.keys is not None)
    if problem is not None:
        raise settings_error(config.source, [Problem(("http_options", "host"), problem)])
    return config


def read_serve_config(path: Path | None = None) -> ServeConfig:
    """The same of a file that may still lack its keys: for `nightrank keys`, which makes them."""
    path = serve_config_file(path)
    source = str(path)
    raw = read_mapping(path)
    problems = [*_unknown_keys(raw, ()), *_unexpanded(raw, ()), *_refused_by_ray(raw), *_host(raw)]
    if not problems:
        problems = _application_problems(raw)
    if problems:
        raise settings_error(source, list(dict.fromkeys(problems)))
    position, application = next(_ours(raw))
    at: Key = ("applications", position)
    index, deployment = next(
        (n, entry) for n, entry in enumerate(application["deployments"]) if entry["name"] == DEPLOYMENT
    )
    user_config = service_user_config(
        deployment.get("user_config"), source=source, prefix=(*at, "deployments", index, "user_config")
    )
    args = service_args(application.get("args", {}), source=source, prefix=(*at, "args"))
    others = [entry for entry in application["deployments"] if entry["name"] != DEPLOYMENT]
    problems = list(_partition_problems(application["deployments"], args, (*at, "deployments")))
    if problems:
        raise settings_error(source, problems)
    return ServeConfig(
        source=source,
        host=raw["http_options"]["host"],
        port=raw["http_options"].get("port", 8000),
        args=args,
        user_config=user_config,
        resources=_resources(deployment),
        partitions={entry["name"]: _partition_entry(entry) for entry in others},
        raw=raw,
    )


def _unknown_keys(value: Any, key: Key) -> Iterator[Problem]:
    if isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _unknown_keys(inner, (*key, position))
    if not isinstance(value, dict):
        return
    names = known_keys(ServeDeploySchema, key)
    for name, inner in value.items():
        if names and name not in names:
            yield Problem((*key, str(name)), f"unknown key (found {shown(inner)}); {nearest(name, names)}")
        elif names:
            yield from _unknown_keys(inner, (*key, str(name)))


def _unexpanded(value: Any, key: Key) -> Iterator[Problem]:
    """`${}` where neither Ray nor we would replace it."""
    if isinstance(value, str) and "${" in value:
        yield Problem(
            key, f"found {shown(value)}; variables work in the application's args only, write it out"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        if not (key[:1] == ("applications",) and len(key) == 2 and name == "args"):
            yield from _unexpanded(inner, (*key, name if isinstance(name, int) else str(name)))


def _refused_by_ray(raw: dict[str, Any]) -> list[Problem]:
    try:
        text = json.dumps(raw)
    except (TypeError, ValueError) as error:
        return [
            Problem((), f"found a value that JSON cannot hold ({error}); quote dates, write numbers as such")
        ]
    try:
        ServeDeploySchema.model_validate_json(text, strict=True)
    except ValidationError as error:
        found: dict[Key, str] = {}
        for details in error.errors():
            for problem in describe(ServeDeploySchema, details):
                key = problem.key if details["type"] == "missing" else _existing(raw, problem.key)
                found.setdefault(key, problem.text)  # a union reports every branch; the first says enough
        return [Problem(key, text) for key, text in found.items()]
    return []


def _existing(raw: Any, key: Key) -> Key:
    """The part of a key that is really in the file; pydantic adds the names of a union's branches."""
    for depth, part in enumerate(key):
        inside = part in raw if isinstance(raw, dict) else isinstance(part, int) and isinstance(raw, list)
        if not inside:
            return key[:depth]
        raw = raw[part]
    return key


def _host(raw: dict[str, Any]) -> list[Problem]:
    options = raw.get("http_options")
    if options is None or (isinstance(options, dict) and options.get("host") is None):
        cure = "write host: 127.0.0.1, or 0.0.0.0 with a key file in args.keys"
        return [Problem(("http_options", "host"), f"missing; Serve would listen on all interfaces; {cure}")]
    return []


def _ours(raw: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for position, application in enumerate(raw["applications"]):
        if application["import_path"] == IMPORT_PATH:
            yield position, application


def _application_problems(raw: dict[str, Any]) -> list[Problem]:
    ours = list(_ours(raw))
    if len(ours) != 1:
        cure = f"expected exactly one with import_path {IMPORT_PATH}"
        return [Problem(("applications",), f"found {len(ours)} applications of nightrank; {cure}")]
    position, application = ours[0]
    at: Key = ("applications", position, "deployments")
    names = [deployment["name"] for deployment in application.get("deployments", [])]
    if names.count(DEPLOYMENT) == 1:
        return []
    wrong = [(place, name) for place, name in enumerate(names) if not name.startswith(PARTITION.format(""))]
    problems = [
        Problem(
            (*at, index, "name"),
            f"found {shown(name)}, which is no deployment; {nearest(name, [DEPLOYMENT])}",
        )
        for index, name in wrong
        if name != DEPLOYMENT
    ]
    if not problems:
        text = f"found {names.count(DEPLOYMENT)} deployments named {DEPLOYMENT}, expected exactly one"
        problems.append(Problem(at, text))
    return problems


def _partition_problems(
    deployments: Sequence[dict[str, Any]], args: ServiceArgs, at: Key
) -> Iterator[Problem]:
    """Entries that no partition of `args.live` goes by, twice, or with a user_config, which would fail to deploy."""
    live, seen = args.live, [DEPLOYMENT]
    count = live.partitions if live.placement == "actors" else 0
    known = [DEPLOYMENT, *(PARTITION.format(place) for place in range(count))]
    for index, entry in enumerate(deployments):
        name = entry["name"]
        if name not in known:
            cure = f"{nearest(name, known)}; live.partitions is {live.partitions}, live.placement {live.placement}"
            yield Problem((*at, index, "name"), f"found {shown(name)}, which is no deployment; {cure}")
        elif name != DEPLOYMENT and name in seen:
            yield Problem((*at, index, "name"), f"found {shown(name)} twice, expected one entry at most")
        elif name != DEPLOYMENT and entry.get("user_config") is not None:
            text = f"found {shown(entry['user_config'])}; a partition takes none: the service tells it what to open"
            yield Problem((*at, index, "user_config"), text)
        seen.append(name)


def with_partitions(config: ServeConfig, spec: ActorSpec) -> list[dict[str, Any]]:
    """The entries of our deployments, with one for every partition and cluster.yaml's resources where it gives none.

    For a deployment from here: where the application is built, there may be another cluster.yaml.
    """
    _, application = next(_ours(config.raw))
    entries: list[dict[str, Any]] = [dict(entry) for entry in application["deployments"]]
    named = {entry["name"]: entry for entry in entries}
    count = config.args.live.partitions if config.args.live.placement == "actors" else 0
    options = {"num_cpus": spec.num_cpus, "num_gpus": spec.num_gpus, "memory": spec.memory}
    for name in (PARTITION.format(place) for place in range(count)):
        if name not in named:
            entries.append(named.setdefault(name, {"name": name}))
        named[name].setdefault("ray_actor_options", options)
    return entries


def _partition_entry(entry: dict[str, Any]) -> PartitionEntry:
    found, given = _resources(entry), entry.get("ray_actor_options")
    figures = {} if given is None else found.model_dump(include={"num_cpus", "num_gpus", "memory"})
    return PartitionEntry(resources=figures, max_count=found.max_count)


def _resources(deployment: dict[str, Any]) -> ServiceResources:
    options = deployment.get("ray_actor_options") or {}
    cpus, replicas = options.get("num_cpus"), deployment.get("num_replicas")
    scaling = deployment.get("autoscaling_config") or {}
    if scaling or replicas == "auto":
        low = scaling.get("min_replicas", 1)
        high = scaling.get("max_replicas", _AUTO_MAX_REPLICAS if replicas == "auto" else 1)
    else:
        low = high = 1 if replicas is None else replicas
    return ServiceResources(
        num_cpus=_SERVE_DEFAULT_CPUS if cpus is None else cpus,
        num_gpus=options.get("num_gpus") or 0,
        memory=options.get("memory") or 0,
        min_count=low,
        max_count=high,
    )
