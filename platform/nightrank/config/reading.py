"""YAML files into plain mappings, and `${VAR}` in their strings.

`read_mapping` refuses what a YAML reader lets pass in silence: a key given twice (the second would win), an
empty file, a file that is no mapping. `1e-3` is read as the number everybody means (YAML 1.1 makes it a
text). `expand_variables` works on strings after parsing, so a variable can never change the structure of a
file, and what it yields is always a text. Home folders (`~`) are not touched here: only `locations` knows
which values are paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nightrank.config.problems import Key, Problem, settings_error
from nightrank.errors import SettingsError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_EXPONENT_FLOAT = re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """The safe loader, refusing duplicate keys and reading `1e-3` as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, not when the mapping is constructed: by then merge keys (`<<`) have put double keys into it.
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                problem = f"the key `{key.value}` is given twice; keep one of them"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FLOAT, list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """One YAML document as plain values; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506  (a subclass of SafeLoader)


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping as written. Raises SettingsError for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file; expected a YAML file there") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{path}: cannot be read ({reason}); expected a YAML file") from None
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: {_yaml_reason(error)}") from None
    except (RecursionError, ValueError) as error:  # nested without end; a date such as 2026-02-31
        raise SettingsError(f"{path}: not usable as YAML ({error}); expected a mapping of settings") from None
    if raw is None:
        raise SettingsError(f"{path}: the file is empty; expected a mapping of settings")
    if not isinstance(raw, dict):
        raise SettingsError(
            f"{path}: found a {type(raw).__name__} at the top, expected a mapping (`key: value` lines)"
        )
    return raw


def expand_variables(
    raw: dict[str, Any], *, source: str, prefix: Key = (), env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A copy with `${VAR}` and `${VAR:-default}` replaced in every string value.

    As in a shell, an empty variable counts as unset; without a default that is refused, naming the key
    (`prefix` is where `raw` stands in its file).
    """
    problems: list[Problem] = []
    env = os.environ if env is None else env
    try:
        expanded = {name: _expand(value, (*prefix, str(name)), env, problems) for name, value in raw.items()}
    except RecursionError:
        raise SettingsError(f"{source}: a YAML anchor contains itself; write the value out") from None
    if problems:
        raise settings_error(source, problems)
    return expanded


def _expand(value: Any, key: Key, env: Mapping[str, str], problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        return {name: _expand(inner, (*key, str(name)), env, problems) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, (*key, position), env, problems) for position, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "${" in _VARIABLE.sub("", value):
        cure = "expected ${NAME} or ${NAME:-default}, the default without braces"
        problems.append(Problem(key, f'found "{value}", which holds a broken variable; {cure}'))
        return value
    try:
        return _VARIABLE.sub(lambda match: _variable(match[1], match[2], env), value)
    except ValueError as error:
        problems.append(Problem(key, f'found "{value}", but {error}'))
        return value


def _variable(name: str, default: str | None, env: Mapping[str, str]) -> str:
    found = env.get(name, "")
    if found == "" and default is None:
        raise ValueError(
            f"the environment variable {name} is not set; set it, or write ${{{name}:-a default}}"
        )
    if name == "NIGHTRANK_HOME" and found != "" and not found.startswith(("/", "~")):
        # Relative to what? A job file's folder and a command's working directory would be two stores.
        raise ValueError(f'the environment variable {name} is the relative path "{found}"; make it absolute')
    return found if found != "" or default is None else default


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or "not valid YAML"
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{reason}"
