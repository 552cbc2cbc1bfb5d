"""The plots of a sweep: always three files, the same bytes for the same records, whatever the sweep was like."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from nightrank.batch.plots import NAMES, _best, write_plots
from nightrank.batch.timeline import curves
from nightrank.release.store import LocalStore
from swept import METRIC, record, sweep

PNG = b"\x89PNG\r\n\x1a\n"


def drawn(folder: Path, records: list[dict[str, object]]) -> list[bytes]:
    write_plots(records, store=LocalStore(folder), key="plots", metric=METRIC)
    assert sorted(path.name for path in (folder / "plots").iterdir()) == sorted(NAMES)
    return [(folder / "plots" / name).read_bytes() for name in NAMES]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    """Protects reruns: nothing of the time or the machine is in the files, and a second call replaces the first's."""
    first = drawn(tmp_path, sweep())
    assert drawn(tmp_path, sweep()) == first
    assert all(content.startswith(PNG) for content in first)
    assert drawn(tmp_path, sweep()[:3])[0] != first[0]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record("als", 0.05)],
        [record("popularity", 0.03, params={}, history=[])],
        [record("als", None, state="failed", history=[]), record("svd", None, state="failed", history=[])],
        [record("als", 0.05, history=[]), record("als", 0.06, params={"factors": 16}, history=[])],
        [record("als", math.nan), record("als", 0.0, low=None, high=None, params={"factors": 0})],
        [record("als", 0.05, state="stopped"), record("bpr", 0.04, state="stopped", params={"reg": 0.0})],
        [record("hybrid", 0.05, params={"loss": loss, "factors": 8}) for loss in ("warp", "bpr")],
    ],
    ids=["none", "one", "popularity", "failed", "no history", "nan", "stopped", "words"],
)
def test_odd_sweeps_have_plots_too(tmp_path: Path, records: list[dict[str, object]]) -> None:
    """Protects the end of a sweep from its plots: one trial, none that was measured, no history, NaN, no warning."""
    assert all(content.startswith(PNG) for content in drawn(tmp_path, records))


def test_of_a_loss_the_smallest_is_the_best() -> None:
    """Protects the star and the line of the best so far: by rmse they go down."""
    found = curves(
        [record("fm", 0.94), record("svd", 0.95), record("mean", 0.5, params={}, origin="baseline")]
    )
    best = {metric: _best(found, metric=metric).record["family"] for metric in ("rmse", "ndcg@10")}
    assert best == {"rmse": "fm", "ndcg@10": "svd"}


def test_time_stands_still_while_nothing_runs() -> None:
    """Protects the time axis of a sweep that was resumed: hours between two commands do not squeeze the curves."""
    found = curves([record("svd", 0.05, after_s=9000), record("als", 0.06), record("als", 0.07, after_s=2)])
    assert [curve.seconds for curve in found] == [[0.5, 1.0], [2.5, 3.0], [3.25 + 0.5, 3.25 + 1.0]]
    assert [curve.after_pause for curve in found] == [False, False, True]


def test_drawing_leaves_pyplot_alone() -> None:
    """Protects a caller's own figures and machines without a display: pyplot is not even imported."""
    code = "import sys, nightrank.batch.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
