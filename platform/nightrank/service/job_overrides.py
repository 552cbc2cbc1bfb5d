"""What a job over HTTP may change of the service's job file, and the command line that says so.

An allow-list: settings of the work, never a store, a path, a data set or a column. What is refused here is refused
whatever the value; what the job file itself cannot be is for `load_job`. Values travel as YAML that any shell, log
and reader leaves as it is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nightrank.config.job import JobConfig
from nightrank.config.problems import Key, Problem, nearest, settings_error, shown
from nightrank.errors import SettingsError

# Whole sections, and single keys of one that holds places as well.
SECTIONS = ("seed", "split", "objective", "label", "train", "sweep", "gate", "score")
EVENT_KEYS = ("type_weights", "combine", "half_life_days", "min_events_per_user", "min_events_per_item")
ALLOWED = (*SECTIONS, *(f"events.{name}" for name in EVENT_KEYS))

# Linux takes no argument of more than 128 KiB, and the command is one argument of a shell; the rest is for its other
# words.
MAX_COMMAND_BYTES = 100 * 2**10

# Where a slip of a digit ends the store or the cluster: trials, rows of a list, files of a table. Parameters of a
# family have bounds of their own (`nightrank.config.families`).
MOST: Mapping[str, int] = {
    "sweep.trials": 1_000,
    "objective.k": 10_000,
    "score.k": 10_000,
    "score.buckets": 65_536,
    "score.similar_items_k": 10_000,
}

_PLACE = re.compile(
    r"[/\\~$]"
)  # no name of a family, metric, kind or rule has one; every place but a bare name has


def settings_of(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as texts for `--set`, in the order given. Raises SettingsError naming each that is refused."""
    problems = [problem for key, value in overrides.items() for problem in _problems(key, value)]
    if problems:
        raise settings_error("overrides", problems)
    texts = [f"{key}={as_yaml(value)}" for key, value in overrides.items()]
    n_bytes = sum(len(shlex.quote(text)) for text in texts)
    if n_bytes > MAX_COMMAND_BYTES:
        text = f"found {n_bytes} bytes as a command line, expected at most {MAX_COMMAND_BYTES}"
        raise SettingsError(f"overrides: {text}; put what is long into the job file")
    return texts


def check_most(job: JobConfig, base: JobConfig) -> None:
    """Raises SettingsError where the job goes beyond `MOST`, unless the job file itself, `base`, says the same."""
    problems = []
    for name, most in MOST.items():
        section, _, key = name.partition(".")
        found, own = (getattr(getattr(one, section), key) for one in (job, base))
        if found is not None and found > most and found != own:
            cure = "more can only be said in the job file"
            problems.append(Problem((section, key), f"found {shown(found)}, expected at most {most}; {cure}"))
    if problems:
        raise settings_error("overrides", problems)


def command(words: Sequence[str]) -> str:
    """One line for `sh` that runs exactly these words."""
    return shlex.join(words)


def as_yaml(value: Any) -> str:
    """A JSON value as one line of printable ASCII that YAML reads as the same value.

    JSON as it is would not do: YAML folds U+2028, refuses U+007F and takes the halves of a surrogate pair for two
    characters.
    """
    return re.sub(r"[^ -~]", _escaped, json.dumps(value, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"


def _problems(key: str, value: Any) -> Iterator[Problem]:
    parts = tuple(part.strip() for part in key.split("."))
    if "" in parts or "=" in key or not key.isprintable():
        yield Problem((), f"found the key {key[:80]!a}, expected key or key.path, for example score.k")
    elif parts[0] in SECTIONS or (parts[:1] == ("events",) and parts[1:2] and parts[1] in EVENT_KEYS):
        yield from _inside(parts, value)
    elif parts[0] in JobConfig.model_fields:
        yield Problem(
            parts,
            f"found {shown(value)}, but only the job file says that; allowed here: {', '.join(ALLOWED)}",
        )
    else:
        yield Problem(parts, f"unknown key (found {shown(value)}); {nearest(key, ALLOWED)}")


def _inside(key: Key, value: Any) -> Iterator[Problem]:
    """Places, variables and texts that are none, at any depth of a value."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unreadable(key, name)
            yield from _inside((*key, name), inner)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _inside((*key, position), inner)
    elif isinstance(value, str):
        yield from _unreadable(key, value)
        found = _PLACE.search(value)
        if found is not None:
            cure = "overrides hold no places and no variables"
            yield Problem(key, f"found {shown(value)}, which holds {shown(found.group())}; {cure}")


def _unreadable(key: Key, text: str) -> Iterator[Problem]:
    try:
        text.encode()
    except UnicodeEncodeError:
        yield Problem(key, f"found {text!a}, which is no Unicode text; expected whole characters")
