"""`nightrank data check`: its numbers against plain loops, its warnings, and when it says no."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from nightrank.cli.app import app
from nightrank.cli.data import _lines
from nightrank.config.events import WeighingConfig
from nightrank.config.split import SplitConfig
from nightrank.data.events import table_events
from nightrank.data.report import Report, report_of
from nightrank.data.suppression import Suppressed
from nightrank.errors import DataError


def report(
    columns: dict[str, Any],
    *,
    split: dict[str, Any] | None = None,
    has_sweep: bool = False,
    defaults: tuple[str, ...] = ("sum",),
    **rules: Any,
) -> Report:
    roles = {"weight": "weight", "time": "time", "type": "type"}
    named = {role: name for role, name in roles.items() if name in columns}
    checked = WeighingConfig.model_validate({"columns": named} | rules)
    table = pa.table({"user_id": columns["u"], "item_id": columns["i"]} | {n: columns[n] for n in named})
    events = table_events(table, **checked.columns.model_dump())
    how = SplitConfig.model_validate(split or {"kind": "per_user"})
    return report_of(events, checked, how=how, seed=0, defaults=defaults, has_sweep=has_sweep)


def random_columns(n: int = 2_000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "u": rng.integers(0, 90, n),
        "i": rng.integers(0, 70, n),
        "weight": rng.integers(1, 4, n).astype(np.float64),
        "time": rng.integers(0, 3, n) * 1_000,
        "type": rng.choice(["view", "buy"], n, p=[0.8, 0.2]),
    }


def names(found: Report) -> set[str]:
    return {doubt.name for doubt in found.warnings}


def test_the_numbers_equal_plain_loops() -> None:
    """Protects every figure of the report from a slip in vectorised code."""
    columns = random_columns()
    found = report(columns, type_weights={"view": 1, "buy": 2})
    rows = list(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    pairs = {row[:2] for row in rows}
    assert (found.users, found.items, found.pairs) == (len(users), len(items), len(pairs))
    assert found.density == len(pairs) / (len(users) * len(items))
    assert found.duplicate_rows == len(rows) - len(set(rows)) > 0
    assert found.events_by_type == dict(Counter(row[4] for row in rows).most_common())
    assert found.events_per_user["median"] == np.median(list(users.values()))
    assert found.events_per_item["max"] == max(items.values())
    assert found.event_weights == {"min": 1, "median": np.median(columns["weight"]), "max": 3}
    measured = sum(n > 1 for n in Counter(user for user, _ in pairs).values())
    assert (found.held_out_users, found.held_out_pairs, found.unknown_users) == (measured, measured, 0)
    assert (found.first, found.last) == ("1970-01-01T00:00:00Z", "1970-01-01T00:33:20Z")
    assert found.problems == ()
    assert names(found) == {"duplicate_rows"}
    assert json.loads(json.dumps(found.as_dict()))["counts"]["rows"] == len(rows)


PLAIN: dict[str, Any] = {"u": [1, 1, 2, 2], "i": [1, 2, 1, 2]}


@pytest.mark.parametrize(
    ("columns", "rules", "expected"),
    [
        (PLAIN, {}, set()),
        (PLAIN | {"weight": [9, 1, 9, 1]}, {}, {"dominant_item"}),
        (PLAIN | {"weight": [9, 9, 1, 1]}, {}, {"dominant_user"}),
        (
            PLAIN | {"u": [1, 1, 2, 2, 1], "i": [1, 2, 1, 2, 1], "weight": [1, 1, 1, 1, 0]},
            {},
            {"zero_weights"},
        ),
        (PLAIN | {"time": [5, 5, 5, 6]}, {}, {"identical_times"}),
        (PLAIN | {"time": [5, 6, 7, 99_000_000_000]}, {}, {"future_times"}),
        (PLAIN | {"u": ["12.0", "12.0", "2.5", "2.5"]}, {}, {"float_user_ids"}),
        (PLAIN | {"i": ["a ", "b", "a ", "b"]}, {}, {"spaced_item_ids"}),
        ({"u": [1, 2, 3, 4, 4], "i": [1, 2, 1, 2, 1]}, {}, {"single_pair_users", "dominant_item"}),
        (PLAIN | {"type": ["a"] * 4}, {"type_weights": {"a": 1, "b": 1, "c": 0}}, {"unused_type"}),
        ({"u": [1, 1, 2, 3, 4, 5], "i": [1, 2, 1, 3, 4, 5]}, {"min_events_per_user": 2}, {"most_dropped"}),
    ],
)
def test_what_a_practitioner_would_doubt(
    columns: dict[str, Any], rules: dict[str, Any], expected: set[str]
) -> None:
    """Protects each warning: it comes where it should, and no other with it (such small data is always few)."""
    assert names(report(columns, **rules)) == expected | {"few_events"}


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"u": [1, 1], "i": [1, 2]}, {}, r"1 user\(s\) left"),
        ({"u": [1, 2], "i": [1, 1]}, {}, r"1 item\(s\) left"),
        ({"u": [1, 2], "i": [1, 2]}, {}, "no user has more than 1 distinct items"),
        (PLAIN, {"has_sweep": True}, "validation split of the sweep, .* more than 1 distinct items left"),
        (PLAIN, {"split": {"kind": "leave_last"}}, "leave_last, but the events have no time column"),
        (PLAIN, {"split": {"kind": "temporal"}}, "temporal, but the events have no time column"),
        (PLAIN | {"time": [5] * 4}, {"split": {"kind": "temporal"}}, "no time to cut at"),
        (
            PLAIN | {"time": [1, 2, 3, 4]},
            {"split": {"kind": "temporal", "share": 0.5}, "has_sweep": True},
            "each of the 2 held-out pairs is of a user with no other pair",
        ),
        (PLAIN, {"split": {"kind": "random_mask", "share": 0.001}}, "masks 0 of 4 pairs"),
        ({"u": [1, 1, 2], "i": [1, 1, 2]}, {"defaults": ("last",)}, "combine is null.*no time column"),
        (PLAIN | {"weight": [0.0] * 4}, {}, "combined weight of 0"),
        (PLAIN, {"min_events_per_user": 9}, "nothing is left of 4 rows"),
        (
            PLAIN | {"type": ["x"] * 4},
            {"type_weights": {"y": 1}},
            "table: the type column, first in row 0: .*'x'",
        ),
    ],
)
def test_meaningless_training_is_a_problem(
    columns: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    """Protects against a night that cannot end well: the reason is in the report, and the rest of it too."""
    found = report(columns, **options)
    with pytest.raises(DataError, match=message):
        raise DataError("; ".join(found.problems))
    assert found.counts.rows == len(columns["u"])


def test_the_test_split_is_counted_as_a_night_would_make_it() -> None:
    """Protects the figures for splits by share: pairs and users of the truth, and users that train does not know."""
    columns = {"u": [1, 1, 2, 2, 3, 3], "i": [1, 2, 1, 2, 1, 3], "time": [1, 9, 2, 3, 8, 9]}
    found = report(columns, split={"kind": "temporal", "share": 0.5})
    assert (found.held_out_users, found.held_out_pairs, found.unknown_users) == (1, 1, 1)
    masked = report(
        random_columns() | {"type": ["a"] * 2_000}, split={"kind": "random_mask"}, type_weights={"a": 1}
    )
    assert masked.held_out_pairs == pytest.approx(0.2 * masked.pairs, rel=0.15)
    assert masked.problems == ()


def job(folder: Path, text: str) -> Path:
    (folder / "events.csv").write_text(text)
    path = folder / "job.yaml"
    path.write_text("events: {path: events.csv}\nsplit: {kind: per_user}\n")
    return path


def test_the_command_prints_text_or_json_and_needs_no_ray(tmp_path: Path) -> None:
    """Protects scripts: one JSON object on stdout, exit code 0, on a machine without Ray."""
    path = job(tmp_path, "user_id,item_id\n" + "".join(f"{n % 5},{n % 7}\n" for n in range(35)))
    code = "import sys; sys.modules['ray'] = None; from nightrank.cli import main; main()"
    run = [sys.executable, "-c", code, "data", "check", "--config", str(path), "--json"]
    done = subprocess.run(run, check=True, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["pairs"] == 35
    shown = CliRunner().invoke(app, ["data", "check", "--config", str(path)])
    assert "5 users x 7 items, 35 pairs" in shown.stdout
    assert "warning    few_events" in shown.stdout


def test_the_command_ends_with_2_after_the_report(tmp_path: Path) -> None:
    """Protects pipelines: exit code 2 where training would be meaningless, and the report is there to read."""
    path = job(tmp_path, "user_id,item_id\n1,1\n2,2\n")
    run = [sys.executable, "-c", "from nightrank.cli import main; main()"]
    done = subprocess.run(
        [*run, "data", "check", "--config", str(path), "--json"], check=False, capture_output=True, text=True
    )
    assert done.returncode == DataError.exit_code == 2
    assert json.loads(done.stdout)["problems"]
    assert "training would be meaningless: no user has more than 1" in done.stderr


def test_erased_people_are_counted_and_in_no_other_figure() -> None:
    """The report is that of the same events without them; the line for a reader says how many were left out."""
    columns = random_columns()
    names_of = {"user": "u", "item": "i", "weight": "weight", "time": "time", "type": "type"}
    listed = Suppressed(key=b"k" * 32)
    listed = Suppressed(key=listed.key, hashes=frozenset(listed.hash_of(user) for user in (3, 7, 1_000)))
    checked = WeighingConfig.model_validate({"columns": names_of, "type_weights": {"view": 1, "buy": 2}})
    how = SplitConfig.model_validate({"kind": "per_user"})
    gone = np.isin(columns["u"], [3, 7])
    tables = (pa.table(columns), pa.table({name: column[~gone] for name, column in columns.items()}))
    mine, theirs = (
        report_of(listed.without(table_events(table, **names_of)), checked, how=how, seed=0)
        for table in tables
    )
    assert (mine.counts.suppressed_users, mine.counts.suppressed_events) == (2, int(gone.sum()))
    assert replace(mine, counts=theirs.counts) == theirs
    assert f"left out   {int(gone.sum()):,} events of 2 users who were erased" in list(_lines(mine))
    assert not [line for line in _lines(theirs) if line.startswith("left out")]
