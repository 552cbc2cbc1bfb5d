"""`--set key.path=value`: one change to a file's raw mapping, before it is validated.

The value is read as YAML (`50`, `[16, 32]`, `null`, `{low: 1, high: 8}`). A path must name known keys; a
mapping that the file leaves out is made on the way. Lists are set whole: no positions. Of two overrides of
one key the later wins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from nightrank.config.problems import Key, Problem, dotted, nearest, settings_error, shown
from nightrank.config.reading import parse_yaml

KnownKeys = Callable[[Key], tuple[str, ...] | None]


def apply_overrides(
    raw: dict[str, Any], overrides: Sequence[str], *, known: KnownKeys, source: str
) -> tuple[dict[str, Any], dict[Key, str]]:
    """A changed copy, and which override gave which key (the last one first).

    `known(key)` lists the keys allowed under `key`, or None where any is. Raises SettingsError, all at once.
    """
    changed = copy.deepcopy(raw)
    origins: dict[Key, str] = {}
    problems: list[Problem] = []
    for text in overrides:
        try:
            key, value = _parse(text)
            _check_path(key, known)
            _put(changed, key, value)
        except ValueError as error:
            problems.append(Problem((), f"--set {text}: {error}"))
            continue
        origins = {key: text, **{other: given for other, given in origins.items() if other != key}}
    if problems:
        raise settings_error(source, problems)
    return changed, origins


def _parse(text: str) -> tuple[tuple[str, ...], Any]:
    path, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in path.split("."))
    if equals == "" or "" in parts:
        raise ValueError("expected key.path=value, for example score.k=50")
    try:
        return parts, parse_yaml(value)
    except (yaml.YAMLError, RecursionError):
        found = f"found {shown(value)}"
        raise ValueError(f"{found}, expected a value in YAML, for example 50 or [16, 32]") from None


def _check_path(key: tuple[str, ...], known: KnownKeys) -> None:
    for depth, name in enumerate(key):
        names = known(key[:depth])
        if names is None:
            return
        if not names:
            raise ValueError(f"{dotted(key[:depth])} is a single value, it has no keys; set it whole")
        if name not in names:
            raise ValueError(f"unknown key {dotted(key[: depth + 1])}; {nearest(name, names)}")


def _put(raw: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    mapping = raw
    for depth, name in enumerate(key[:-1]):
        inner = mapping.get(name)
        if inner is None:
            inner = mapping[name] = {}
        if not isinstance(inner, dict):
            raise ValueError(f"{dotted(key[: depth + 1])} is {shown(inner)}, it has no keys; set it whole")
        mapping = inner
    mapping[key[-1]] = value
