"""Kills, swaps and slow clients under load, run by `make soak`: what may be lost is counted, never timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.soak, pytest.mark.ray]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `benchmarks/http_faults.py` counts, by case; it starts and ends a cluster of its own."""
    file = tmp_path_factory.mktemp("faults") / "found.json"
    options = [
        "--seconds",
        "12",
        "--users",
        "2000",
        "--items",
        "5000",
        "--factors",
        "32",
        "--json",
        str(file),
    ]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/http_faults.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-3000:]}"
    return {one["case"]: one for one in json.loads(file.read_text("utf-8"))}


def test_a_swap_loses_nothing_and_mixes_nothing(found: dict[str, dict[str, Any]]) -> None:
    """CURRENT moves six times under load: every request is answered, from one of the two releases, whole."""
    for case in ("three swaps, one replica", "three swaps, two replicas"):
        assert set(found[case]["counts"]) == {"200"}
        assert (found[case]["strange"], found[case]["stale"]) == (0, 0)


def test_a_killed_replica_takes_what_it_had_in_hand_alone(found: dict[str, dict[str, Any]]) -> None:
    """kill -9 of one of two: nothing beyond what was in flight on it, and nothing at all with one retry of a GET."""
    assert found["kill -9, one of two, no retry"]["lost_beyond"] == 0
    assert found["kill -9, one of two, one retry"]["failed"] == 0


def test_a_flood_is_answered_or_told_to_come_back(found: dict[str, dict[str, Any]]) -> None:
    """1,024 connections at once: each request has an answer, or a 503 with Retry-After; nothing is cut off."""
    for word in ("plain", "live"):
        flood = found[f"overload, 1,024 connections at once, {word}"]
        assert set(flood["counts"]) <= {"200", "503"}
        assert flood["refused"] == 0 or flood["retry_after"]


@pytest.mark.parametrize(
    "case",
    [
        "200 slow clients, in the head",
        "200 slow clients, in the body",
        "bodies of 1 MiB on 4 connections",
        "bodies of 1 MiB and a byte on 4 connections",
        "bodies of 16 MiB on 4 connections",
        "store gone and back",
    ],
)
def test_nobody_else_notices(found: dict[str, dict[str, Any]], case: str) -> None:
    """What one client does, or a store that is gone, costs nobody else an answer."""
    assert set(found[case]["counts"]) == {"200"}
