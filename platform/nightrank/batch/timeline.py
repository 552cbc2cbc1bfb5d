"""When the trials of a sweep were measured, on one clock: seconds since the sweep began, without its pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nightrank.batch.leaderboard import Record, number, seconds

PAUSE_S = 60.0  # nothing ran for so long: the sweep was ended and taken up again


@dataclass(frozen=True)
class Curve:
    """The measurements of one trial, in order, one or more; after_pause: of a sweep that was taken up again."""

    record: Record
    seconds: list[float]
    values: list[float]
    after_pause: bool


def began(record: Record) -> float:
    """When the trial began: seconds since 1970, UTC. A time without a zone is taken for UTC."""
    time = datetime.fromisoformat(record["started"])
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def curves(records: Sequence[Record]) -> list[Curve]:
    """What every trial with a measurement measured, by when it began; others are left out.

    A trial without a history, but with a value, is one point at its end. The clock begins with the first trial, and
    stands still while nothing ran for longer than a minute.
    """
    ordered = sorted(records, key=lambda record: (began(record), record["trial"]))
    found, shift, busy_until = [], 0.0, None
    for record in ordered:
        start = began(record)
        if busy_until is None:
            shift = first = start
            busy_until = start
        if start - busy_until > PAUSE_S:
            shift += start - busy_until
        busy_until = max(busy_until, start + (seconds(record) or 0.0))
        points = _points(record)
        if points:
            found.append(
                Curve(
                    record=record,
                    seconds=[start + after - shift for after, _ in points],
                    values=[value for _, value in points],
                    after_pause=shift > first,
                )
            )
    return found


def _points(record: Record) -> list[tuple[float, float]]:
    found = [
        (float(point["seconds"]), float(point["value"]))
        for point in record.get("history") or ()
        if number(point["seconds"]) is not None and number(point["value"]) is not None
    ]
    value = number(record.get("value"))
    if not found and value is not None and record["state"] != "failed":
        return [(seconds(record) or 0.0, value)]
    return found
