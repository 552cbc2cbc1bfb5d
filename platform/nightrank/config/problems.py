"""How a settings problem is said: where, what was found, what was expected, what is nearest.

Every reader of this package collects `Problem`s and raises them together, as one SettingsError that names the
file. Nothing here decides what is valid.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nightrank.errors import SettingsError

_KNOWN_MAX = 12  # a longer list of names hides the right one; Ray's schemas have twenty and more
_FOUND_MAX_CHARS = 80  # a whole pasted list in an error message hides the message

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong under one dotted key; an empty key is the file as a whole."""

    key: Key
    text: str


class ProblemsError(ValueError):
    """Several problems found by one validator; keys are relative to the value it was given."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(_line(problem) for problem in problems))
        self.problems = tuple(problems)


def dotted(key: Key) -> str:
    """`sweep.models.als.factors`, with list positions as `[2]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text != "" else part
    return text


def shown(value: Any) -> str:
    """The value as the user would have written it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _FOUND_MAX_CHARS else text[: _FOUND_MAX_CHARS - 3] + "..."


def nearest(name: object, known: Iterable[str]) -> str:
    """The names closest to a wrong one, and all known ones where they are few: the end of a message."""
    names = sorted(known)
    if not names:
        return "no key is known here"
    lower = {candidate.lower(): candidate for candidate in names}
    close = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=2, cutoff=0.5)]
    everything = f"known here: {', '.join(names)}"
    if not close:
        return everything
    return f"did you mean {' or '.join(close)}?" + (f" {everything}" if len(names) <= _KNOWN_MAX else "")


def settings_error(source: str, problems: Sequence[Problem]) -> SettingsError:
    """One error for one file, one line per problem where there are several."""
    if len(problems) == 1:
        return SettingsError(f"{source}: {_line(problems[0])}")
    lines = "".join(f"\n  {_line(problem)}" for problem in problems)
    return SettingsError(f"{source}: {len(problems)} problems{lines}")


def _line(problem: Problem) -> str:
    return problem.text if not problem.key else f"{dotted(problem.key)}: {problem.text}"
