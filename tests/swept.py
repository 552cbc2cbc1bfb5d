"""Records of a made-up sweep, as its trials leave them in the run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nightrank.batch.trials import spec_of

BEGAN = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
METRIC = "ndcg@10"
TEST = {
    "metric": METRIC,
    "value": 0.0712,
    "low": 0.0655,
    "high": 0.0771,
    "baseline": {"family": "popularity", "value": 0.0301, "low": 0.0262, "high": 0.034},
    "change": {"value": 0.0411, "low": 0.0362, "high": 0.046},
    "n_users": 943,
}


def record(family: str, value: float | None, *, after_s: float = 0.0, **more: Any) -> dict[str, Any]:
    """One trial that measured twice; `params` and any other key of a record may be given."""
    params = more.pop("params", {"factors": 32, "epochs": 8, "reg": 0.01})
    state = more.pop("state", "done")
    history = [
        {"epoch": epoch, "share": share, "value": (value or 0.01) * share / 100, "seconds": epoch / 8}
        for epoch, share in ((4, 50), (8, 100))
    ]
    return {
        **spec_of(family, params),
        "seed": 0,
        "origin": "search",
        "state": state,
        "value": value,
        "low": None if value is None else value - 0.005,
        "high": None if value is None else value + 0.005,
        "history": history,
        "fit_s": 1.0 if state == "done" else None,
        "rank_s": 0.25 if state == "done" else None,
        "reason": None,
        "change": None,
        "chosen": False,
        "started": (BEGAN + timedelta(seconds=after_s)).isoformat(),
        **more,
    }


def sweep() -> list[dict[str, Any]]:
    """Four that ended, two stopped, one failed; the chosen one is not the best, and cheaper."""
    best = {"factors": 64, "epochs": 8, "reg": 0.001}
    return [
        record("popularity", 0.03, params={}, origin="baseline", history=[], change=-0.04),
        record("als", 0.07, after_s=1, params=best, change=0.0),
        record("als", 0.069, after_s=2, chosen=True, change=-0.001),
        record("svd", 0.05, after_s=3, params={"factors": 16}, history=[], change=-0.02),
        record("ials", 0.09, after_s=4, state="stopped"),
        record("ials", 0.02, after_s=5, state="stopped", params={"factors": 16, "epochs": 8, "reg": 0.1}),
        record("lmf", None, after_s=6, state="failed", reason="ModelFitError: NaN in factors", history=[]),
    ]
