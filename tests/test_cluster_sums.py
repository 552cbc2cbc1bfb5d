"""`nightrank cluster check` in figures: does a cluster of these nodes hold what both files ask for?"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray")

from nightrank.cluster.check import shortages, unplaceable
from nightrank.config.cluster import load_cluster

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = {"CPU": 2.0, "memory": 4.0 * 2**30}


def test_the_smallest_machine_holds_what_is_shipped() -> None:
    """Protects the promise of 2 CPUs, with the partitions that cluster.yaml allows."""
    actors = load_cluster(ROOT / "cluster.yaml")
    for partitions in (0, actors.partition.max_count):
        assert unplaceable(actors, [SMALLEST], partitions=partitions) == []
        assert shortages(actors, [SMALLEST], partitions=partitions) == []


def test_partitions_are_counted_where_they_are_started() -> None:
    """Protects against a deployment that waits for ever: every replica of live ranking needs its room."""
    actors = load_cluster(ROOT / "cluster.yaml")
    (line,) = [one for one in shortages(actors, [SMALLEST], partitions=8) if "CPU" in one]
    assert "service (0.375 CPU), driver (0.1 CPU), partition (0.8 CPU) and " in line
    assert "together need 2.275 CPU" in line


def test_a_partition_that_fits_on_no_node_is_told() -> None:
    """Protects the same for a single one."""
    actors = load_cluster(ROOT / "cluster.yaml")
    small = [{"CPU": 1.0, "memory": 2.0**27}] * 4
    assert not any("partition" in line for line in unplaceable(actors, small))
    assert any("no node can hold one partition" in line for line in unplaceable(actors, small, partitions=1))
