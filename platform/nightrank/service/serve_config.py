"""serve_config.yaml, read strictly: Ray takes a mistyped key in silence, at every level of the file.

The file is compared with Ray's own schema, key by key, and its values are validated without coercion.
Refused as well: a file without `http_options.host` (Serve would then listen on all interfaces), `${}`
outside the application's `args` (nobody expands it there), an application without our deployment, an address
beyond loopback without API keys. Other applications may stand in the file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from nightrank.config.locations import find_settings
from nightrank.config.problems import Key, Problem, nearest, settings_error, shown
from nightrank.config.reading import read_mapping
from nightrank.config.service import ServeConfig, ServiceResources, service_args, service_user_config
from nightrank.config.strict import describe, known_keys
from nightrank.service.exposure import exposed

IMPORT_PATH = "nightrank.service.app:build"
DEPLOYMENT = "Service"

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
    return ServeConfig(
        source=source,
        host=raw["http_options"]["host"],
        port=raw["http_options"].get("port", 8000),
        args=service_args(application.get("args", {}), source=source, prefix=(*at, "args")),
        user_config=user_config,
        resources=_resources(deployment),
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
        cure = "write host: 127.0.0.1, or the address that clients are to reach"
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
    problems = [
        Problem(
            (*at, index, "name"),
            f"found {shown(name)}, which is no deployment; {nearest(name, [DEPLOYMENT])}",
        )
        for index, name in enumerate(names)
        if name != DEPLOYMENT
    ]
    if names.count(DEPLOYMENT) != 1 and not problems:
        text = f"found {names.count(DEPLOYMENT)} deployments named {DEPLOYMENT}, expected exactly one"
        problems.append(Problem(at, text))
    return problems


def _resources(deployment: dict[str, Any]) -> ServiceResources:
    options = deployment.get("ray_actor_options", {})
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
