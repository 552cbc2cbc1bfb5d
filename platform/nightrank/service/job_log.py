"""What may be said of a job's log over HTTP: its last lines, the seconds of its stages, its summary.

Left out: frames of a trace (what was raised stays), the command line, places, addresses and tokens. Of a long log the
end alone is read line by line; before it, stages that are done are searched for, without a look at every line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_LINES, MAX_LINE_CHARS = 100, 1_000
END_CHARS = 2**18  # read line by line; a thousand times this takes seconds of Python
MAX_FOUND = 1_000  # places where a stage may be done that are looked at, from the end on; a night has four

_MARK = ": done in "
_STAGE = re.compile(r"(?:\A|.*[\r\n])(?:\d\d:\d\d:\d\d )?(sweep|train|score|publish)", re.S)
_STAGE_CHARS = len("\n00:00:00 publish")
_SECONDS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) s(?=[\r\n]|\Z)")
_COMMAND = "Running entrypoint for job "  # Ray's first line: interpreter, job file, overrides
_TRACE = re.compile(
    r"[\s|+-]*(?:(?:Exception Group )?Traceback \(most recent call last\):|File \".*\", line \d+)"
    r"|.*\bray::\S+ \(pid=\d+, ip="  # Ray's own head of a trace
)
_FRAME = re.compile(r"\s|[|+]")  # of a trace: everything that is indented
_NATIVE_FRAME = re.compile(r"\s*(?:@ +0x|#\d+ +0x|\[?.*\.so[.\d]*[(+])")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]\d)")
_IPV6 = re.compile(
    r"\[(?:[0-9a-fA-F]*:){2,7}[0-9a-fA-F]*\](?<!\[\d\d:\d\d:\d\d\])(?::\d+)?"
)  # [18:05:12] is a time
_TOKEN = re.compile(r"(?i)\b(bearer|token[=:])\s*\S+")


def without_addresses(text: str) -> str:
    """A text without IP addresses and anything that is called a token."""
    return _IPV6.sub("...", _IPV4.sub("...", _TOKEN.sub(r"\1 ...", text)))


def tail(text: str, *, told: Callable[[str], str]) -> list[str]:
    """The last lines that may be shown. told: hides places in a line."""
    end = text[-END_CHARS:]
    is_cut = len(end) < len(text)
    if is_cut:
        end = end.partition("\n")[2] or end
    lines = [line for line in _without_traces(_COLOUR.sub("", end), in_trace=is_cut) if line.strip()]
    return [told(line[: 2 * MAX_LINE_CHARS])[:MAX_LINE_CHARS] for line in lines[-MAX_LINES:]]


def stage_seconds(text: str) -> dict[str, float]:
    """Seconds of each stage that the job says it has done; not of those that were done before."""
    found: dict[str, float] = {}
    at = len(text)
    for _ in range(MAX_FOUND):
        at = text.rfind(_MARK, 0, at)
        if at < 0:
            break
        start = max(0, at - _STAGE_CHARS)
        stage = _STAGE.fullmatch(text, start, at)
        seconds = _SECONDS.match(text, at + len(_MARK))
        if stage is not None and seconds is not None:
            found.setdefault(stage[1], float(seconds[1]))
    return dict(reversed(found.items()))


def summary(text: str, *, told: Callable[[str], str]) -> dict[str, Any] | None:
    """The JSON object that the log ends with, None where it ends with something else."""
    last = text[-END_CHARS:].rstrip().rpartition("\n")[2]
    try:
        found = json.loads(last)
    except (ValueError, RecursionError):
        return None
    return _told(found, told) if isinstance(found, dict) else None


def _told(value: Any, told: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {told(name): _told(inner, told) for name, inner in value.items()}
    if isinstance(value, list):
        return [_told(inner, told) for inner in value]
    return told(value) if isinstance(value, str) else value


def _without_traces(text: str, *, in_trace: bool) -> Iterator[str]:
    """in_trace: the first lines may be the rest of one."""
    for line in text.splitlines():
        if _TRACE.match(line):
            in_trace = True
        elif in_trace and (line == "" or _FRAME.match(line)):
            continue
        else:
            in_trace = False
            if not line.startswith(_COMMAND) and not _NATIVE_FRAME.match(line):
                yield line
