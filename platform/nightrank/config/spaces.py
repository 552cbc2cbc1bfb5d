"""Parameters and search spaces of a job file, checked against the family table.

A parameter's space is a list of choices, `{low, high, log}`, or one value (fixed). Parameters that are not
named keep the family's own space, so `{}` is that space as a whole. An unknown family or parameter is
refused with the nearest name, a value outside a parameter's bounds with the bounds; everything wrong is
reported, not the first only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightrank.config.families import FAMILIES, Choices, Family, Param, Range, Space, Value, Word
from nightrank.config.problems import Problem, ProblemsError, nearest, shown


def parse_models(raw: Any) -> dict[str, dict[str, Space]]:
    """`sweep.models` with every family's space complete. Raises ProblemsError (a ValueError)."""
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"found {shown(raw)}, expected at least one family, for example {{als: {{}}}}")
    problems: list[Problem] = []
    models = {}
    for name, space in raw.items():
        try:
            models[name] = _parse_family(family_named(name, searched=True), space)
        except ProblemsError as error:
            problems += [Problem((str(name), *problem.key), problem.text) for problem in error.problems]
        except ValueError as error:
            problems.append(Problem((str(name),), str(error)))
    if problems:
        raise ProblemsError(problems)
    return models


def parse_params(family: Family, raw: dict[Any, Any]) -> dict[str, Value]:
    """Every parameter's value, defaults filled in. Raises ProblemsError."""
    problems: list[Problem] = []
    values = family.defaults()
    for name, value in raw.items():
        param = family.params.get(name)
        text = _unknown(name, family) if param is None else param.problem(value)
        if text is not None:
            found = "" if param is None else f"found {shown(value)}, "
            problems.append(Problem((str(name),), found + text))
        elif param is not None:
            values[name] = param.kind(value)
    problems = problems or _pointless(family, {name: Choices((value,)) for name, value in values.items()})
    if problems:
        raise ProblemsError(problems)
    return values


def family_named(name: Any, *, searched: bool = False) -> Family:
    """The family of that name. Raises ValueError with the nearest names this version has."""
    known = [key for key, family in FAMILIES.items() if family.searchable or not searched]
    if name in known:
        return FAMILIES[name]
    if isinstance(name, str) and name in FAMILIES:
        raise ValueError(
            f"{name} has nothing to search, it is always measured as the baseline; remove it here"
        )
    raise ValueError(f"found {shown(name)}, which is no model family of this version; {nearest(name, known)}")


def dump_models(models: dict[str, dict[str, Space]]) -> dict[str, dict[str, Any]]:
    """The same in job-file form: lists and `{low, high, log}`."""
    return {name: {key: _dump(space) for key, space in spaces.items()} for name, spaces in models.items()}


def _shortest(space: Space) -> Any:
    """As a job file may say it: one value alone is no list."""
    return space.values[0] if isinstance(space, Choices) and len(space.values) == 1 else _dump(space)


def _dump(space: Space) -> Any:
    if isinstance(space, Choices):
        return list(space.values)
    return {"low": space.low, "high": space.high, "log": space.log}


def _parse_family(family: Family, raw: Any) -> dict[str, Space]:
    if not isinstance(raw, dict):
        raise ValueError(
            f"found {shown(raw)}, expected a mapping of parameters ({{}} for the family's own space)"
        )
    problems: list[Problem] = []
    spaces = family.own_space()
    for name, value in raw.items():
        param = family.params.get(name)
        if param is None:
            problems.append(Problem((str(name),), _unknown(name, family)))
            continue
        try:
            spaces[name] = _parse_space(param, value)
        except ProblemsError as error:
            problems += [Problem((str(name), *problem.key), problem.text) for problem in error.problems]
    problems = problems or _pointless(family, spaces)
    if problems:
        raise ProblemsError(problems)
    return spaces


def _pointless(family: Family, spaces: Mapping[str, Space]) -> list[Problem]:
    """Parameters that would be read and ignored, since another one may not have the word that they go with."""
    found = []
    for name, param in family.params.items():
        if not isinstance(param, Param) or param.only_with is None:
            continue
        other, word = param.only_with
        if spaces[name] == Choices((param.default,)) or spaces[other] == Choices((word,)):
            continue
        given, beside = (_shortest(spaces[one]) for one in (name, other))
        text = f"found {shown(given)} beside {other} {shown(beside)}; only {other} {shown(word)} takes more than "
        found.append(Problem((name,), f"{text}{param.default}: set {other}: {word}, or leave {name} out"))
    return found


def _parse_space(param: Param | Word, raw: Any) -> Space:
    if isinstance(raw, dict) and isinstance(param, Param):
        return _parse_range(param, raw)
    values = raw if isinstance(raw, list) else [raw]
    ranges = ", or {low, high, log}" if isinstance(param, Param) else ""
    expected = f"expected {param.expected()}, a list of such{ranges}"
    wrong = [
        Problem((position,) if isinstance(raw, list) else (), f"found {shown(value)}, {expected}")
        for position, value in enumerate(values)
        if param.problem(value) is not None
    ]
    if wrong:
        raise ProblemsError(wrong)
    if not values:
        raise ProblemsError([Problem((), "found [], expected at least one choice")])
    typed = tuple(param.kind(value) for value in values)
    if len(set(typed)) < len(typed):
        raise ProblemsError([Problem((), f"found {shown(raw)}, where a choice stands twice; name each once")])
    return Choices(typed)


def _parse_range(param: Param, raw: dict[Any, Any]) -> Range:
    known = ("low", "high", "log")
    problems = [
        Problem((str(name),), f"unknown key (found {shown(value)}); {nearest(name, known)}")
        for name, value in raw.items()
        if name not in known
    ]
    for end in ("low", "high"):
        if end not in raw:
            problems.append(Problem((end,), "missing; a range needs low and high"))
        elif (text := param.problem(raw[end])) is not None:
            problems.append(Problem((end,), f"found {shown(raw[end])}, {text}"))
    log = raw.get("log", False)
    if not isinstance(log, bool):
        problems.append(Problem(("log",), f"found {shown(log)}, expected true or false"))
    if problems:
        raise ProblemsError(problems)
    low, high = param.kind(raw["low"]), param.kind(raw["high"])
    if not low < high:
        raise ProblemsError([Problem((), f"found low {low} and high {high}, expected low below high")])
    if log and not low > 0:
        raise ProblemsError([Problem(("low",), f"found {low}, expected more than 0, since log is true")])
    return Range(low, high, log)


def _unknown(name: Any, family: Family) -> str:
    return f"unknown parameter; {nearest(name, family.params)}"
