"""What MLflow is told of a trial: tags and metrics of its record, with their own times: told twice is told once."""

from __future__ import annotations

from typing import Any, NamedTuple

from nightrank.batch.leaderboard import Record, number, seconds
from nightrank.batch.timeline import began

STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
RUN_KEY, TRIAL = "nightrank.run_key", "nightrank.trial"
STATE, CHOSEN, REASON = "nightrank.state", "nightrank.chosen", "nightrank.reason"
LONGEST = 4000  # characters of a tag; MLflow takes 5,000 everywhere


class Point(NamedTuple):
    """One value of a metric. timestamp: milliseconds since 1970, UTC."""

    name: str
    value: float
    timestamp: int
    step: int


def tags_of(record: Record, *, run_key: str) -> dict[str, str]:
    """The tags of its MLflow run; run key and trial together find it again."""
    tags = {
        RUN_KEY: run_key,
        TRIAL: record["trial"],
        STATE: record["state"],
        CHOSEN: _flag(record),
        "nightrank.family": record["family"],
        "nightrank.origin": record["origin"],
        "nightrank.seed": str(record["seed"]),
    }
    reason = record.get("reason")
    return tags if reason is None else {**tags, REASON: str(reason)[:LONGEST]}


def points(record: Record, *, metric: str) -> list[Point]:
    """The objective by epoch, then the final figures; what is not finite is left out."""
    start, history = int(began(record) * 1000), record.get("history") or ()
    found = [
        Point(metric, value, start + int(1000 * (number(point["seconds"]) or 0.0)), int(point["epoch"]))
        for point in history
        if (value := number(point["value"])) is not None
    ]
    final = {name: record.get(name) for name in ("value", "fit_s", "rank_s", "change")}
    final |= {f"{metric}_{name}": record.get(name) for name in ("low", "high")}
    if not found:
        final[metric] = record.get("value")
    step = int(history[-1]["epoch"]) if history else 0
    return found + _finals(final, record, step=step)


def points_on_test(winner: Record, test: Record, *, metric: str) -> list[Point]:
    """The winner's figures on the test split, the baseline's beside them."""
    baseline, change = test.get("baseline") or {}, test.get("change") or {}
    figures = {"": test.get("value"), "_low": test.get("low"), "_high": test.get("high")}
    figures |= {
        f"_{baseline.get('family', 'baseline')}": baseline.get("value"),
        "_change": change.get("value"),
    }
    return _finals({f"test_{metric}{end}": value for end, value in figures.items()}, winner, step=0)


def is_complete(found: Any, record: Record) -> bool:
    """Was this MLflow run ended in the record's state, and has it what only the end of a sweep adds?"""
    tags = found.data.tags
    return bool(
        found.info.status == STATUS[record["state"]]
        and tags.get(STATE) == record["state"]
        and tags.get(CHOSEN) == _flag(record)
        and ("change" in found.data.metrics or number(record.get("change")) is None)
    )


def ended(record: Record) -> int:
    """When the trial ended: milliseconds since 1970, UTC."""
    return int((began(record) + (seconds(record) or 0.0)) * 1000)


def _finals(figures: dict[str, Any], record: Record, *, step: int) -> list[Point]:
    numbers = {name: number(figure) for name, figure in figures.items()}
    return [Point(name, value, ended(record), step) for name, value in numbers.items() if value is not None]


def _flag(record: Record) -> str:
    return str(bool(record.get("chosen"))).lower()
