"""The leaderboard of a sweep: its trials' records as a table for programs, and as one for people.

Nothing is measured or chosen here: both only show what the records say. A NaN in a record is a value that is
not there.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from nightrank.quality.names import is_loss, signed

Record = Mapping[str, Any]

STATES = ("done", "stopped", "failed")
MARK = "*"
WIDTH = 118
LEFT = 65  # columns before the parameters: rank, value with interval, seconds, state, mark, family
REASON = 200  # characters of a failure's reason that are shown; the table and the record have all of it

_SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("trial", pa.string()),
        ("family", pa.string()),
        ("params", pa.string()),
        ("origin", pa.string()),
        ("state", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("change", pa.float64()),
        ("chosen", pa.bool_()),
        ("epochs", pa.int32()),
        ("fit_s", pa.float64()),
        ("rank_s", pa.float64()),
        ("seed", pa.int64()),
        ("reason", pa.string()),
    ]
)
_NUMBERS = ("value", "low", "high", "change", "fit_s", "rank_s")


def ranked(records: Sequence[Record], *, metric: str) -> list[Record]:
    """Best first: done trials before stopped before failed ones; ties go to the cheaper, then to the trial's id."""
    return sorted(records, key=lambda record: _order(record, metric))


def leaderboard(records: Sequence[Record], *, metric: str) -> pa.Table:
    """One row per trial in the order of `ranked`.

    metric: its name, such as ndcg@10. `epochs` is the last epoch that was measured; null where none was, as are
    numbers that are not finite.
    """
    rows = [
        {
            **record,
            **{name: number(record.get(name)) for name in _NUMBERS},
            "rank": rank,
            "params": json.dumps(record["params"], sort_keys=True),
            "metric": metric,
            "chosen": bool(record.get("chosen")),
            "epochs": record["history"][-1]["epoch"] if record.get("history") else None,
        }
        for rank, record in enumerate(ranked(records, metric=metric), start=1)
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def lines(
    records: Sequence[Record], *, metric: str, min_change: float, test: Record | None = None
) -> list[str]:
    """The table that a sweep ends with, and under it why the chosen trial was chosen and what it is worth.

    min_change: gate.min_change. test: the chosen trial's figures on the test split beside the baseline's,
    as the sweep's outcome has them; None where there are none. Parameters are wrapped at 118 columns.
    """
    found = ranked(records, metric=metric)
    head = f"{'rank':>4}  {f'{metric} (95% interval)':<25}  {'seconds':>7}  {'state':<7}    {'family':<10}  params"
    shown = [head]
    for rank, record in enumerate(found, start=1):
        shown += _row(record, rank=rank)
    chosen = next((record for record in found if record.get("chosen")), None)
    if chosen is not None:
        why = _why(chosen, best=found, metric=metric, min_change=min_change)
        shown += textwrap.wrap(why, WIDTH, subsequent_indent="  ")
    if test is not None:
        shown += textwrap.wrap(_on_test(test), WIDTH, subsequent_indent="  ")
    return shown


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def seconds(record: Record) -> float | None:
    """What the trial took: fit and ranking; of one that was stopped, the time of its last measurement."""
    parts = [number(record.get("fit_s")), number(record.get("rank_s"))]
    known = [part for part in parts if part is not None]
    measured = [
        point["seconds"] for point in record.get("history") or () if number(point["seconds"]) is not None
    ]
    return sum(known) if known else max(measured, default=None)


def _order(record: Record, metric: str) -> tuple[int, float, float, float, str]:
    value, params = number(record.get("value")), record["params"]
    worth = math.inf if value is None else -signed(value, metric=metric)
    return (
        STATES.index(record["state"]),
        worth,
        params.get("factors", 0),
        params.get("epochs", 0),
        record["trial"],
    )


def _row(record: Record, *, rank: int) -> list[str]:
    took = seconds(record)
    left = (
        f"{rank:>4}  {_interval(record):<25}  {'' if took is None else f'{took:.2f}':>7}  {record['state']:<7}  "
        f"{MARK if record.get('chosen') else ' '} {record['family']:<10}  "
    )
    params = " ".join(f"{name}={_short(value)}" for name, value in sorted(record["params"].items()))
    row = textwrap.wrap(params, WIDTH - LEFT, break_long_words=False, break_on_hyphens=False) or [""]
    shown = [(left + row[0]).rstrip(), *(" " * len(left) + more for more in row[1:])]
    if record["state"] == "failed":
        reason = textwrap.shorten(
            str(record.get("reason") or "no reason was recorded"), REASON, placeholder=" ..."
        )
        shown += textwrap.wrap(reason, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return shown


def _why(chosen: Record, *, best: Sequence[Record], metric: str, min_change: float) -> str:
    """Which rule chose it; `best` is in the order of `ranked`."""
    if min_change < 0:
        rule = f"among trials within gate.min_change ({min_change:g}) of the best, the cheapest"
    else:
        rule = "the best, since gate.min_change allows no loss; of equals the cheapest"
    rule = f"{MARK} chosen: {rule}: fewer factors, then fewer epochs"
    if best[0].get("origin") == "baseline":
        rule += f"; {best[0]['family']}, above it, is no candidate"
    change = number(chosen.get("change"))
    if change == 0:
        return f"{rule}; here it is the best itself."
    if change is None:
        return f"{rule}."
    if is_loss(metric):
        return f"{rule}; its {metric} is {-change:.4f} above the best's."
    return f"{rule}; its mean difference to the best, per user, is {change:+.4f}."


def _on_test(test: Record) -> str:
    text = f"  On test, which no trial saw: {test['metric']} {_interval(test)}"
    baseline, change = test.get("baseline"), test.get("change")
    if baseline is not None:
        text += f"; {baseline['family']} {_interval(baseline)}"
    if change is not None and number(change.get("value")) is not None:
        text += f"; {_gain(test['metric'])} {_interval(change, sign='+')}"
        low, high = number(change.get("low")), number(change.get("high"))
        if low is not None and high is not None:
            beyond = "better" if low > 0 else "worse" if high < 0 else None
            text += ", within the noise" if beyond is None else f", {beyond} beyond the noise"
    return text + (f"; {test['n_users']} users." if test.get("n_users") is not None else ".")


def _gain(metric: str) -> str:
    """What a change is."""
    return "gain, by which it is smaller," if is_loss(metric) else "mean difference per user"


def _interval(figures: Record, *, sign: str = "") -> str:
    """0.1234 (0.1100 to 0.1360), as much of it as there is."""
    value, low, high = (number(figures.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{value:{sign}.4f}"
    return text if low is None or high is None else f"{text} ({low:{sign}.4f} to {high:{sign}.4f})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
