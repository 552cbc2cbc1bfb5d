"""Can the live cluster hold what cluster.yaml declares, and which ingress is active? In words to act on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import ray

from nightrank.cluster.session import joined
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.errors import ClusterError

STAGE_KINDS = ("tune_trial", "trainer", "scorer")  # one stage runs at a time
RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def check(actors: ActorTable) -> list[str]:
    """Lines about the cluster at RAY_ADDRESS; one line where none is named.

    Raises ClusterError with every shortage where the cluster cannot hold service, driver and the widest stage.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return [
            "skipped the live cluster: RAY_ADDRESS is not set (export the lines that `make cluster` prints)"
        ]
    with joined():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        ingress = ray.get(ray.remote(_ingress).options(num_cpus=0).remote())
    problems = [*unplaceable(actors, nodes), *shortages(actors, nodes)]
    if problems:
        raise ClusterError("\n".join(problems))
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in RESOURCES}
    return [
        f"ok      {len(nodes)} node(s) with {_shown('CPU', total['CPU'])}, {_shown('memory', total['memory'])} "
        "hold the service, the driver and every stage of the night",
        f"ingress {ingress}",
    ]


def unplaceable(actors: ActorTable, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """Kinds of which not even one fits on any node."""
    problems = []
    for kind, spec in _kinds(actors).items():
        wanted = {name: float(getattr(spec, field)) for name, field in RESOURCES.items()}
        if not any(all(node.get(name, 0.0) >= value for name, value in wanted.items()) for node in nodes):
            asked = ", ".join(_shown(name, value) for name, value in wanted.items() if value)
            problems.append(
                f"short   no node can hold one {kind} ({asked}); lower metadata.actors.{kind} in cluster.yaml "
                "or add a larger node"
            )
    return problems


def shortages(actors: ActorTable, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """Resources of which service, driver and the widest stage together need more than the cluster has."""
    problems = []
    for name, field in RESOURCES.items():
        needs = {kind: _need(spec, field) for kind, spec in _kinds(actors).items()}
        widest = max(STAGE_KINDS, key=lambda kind: needs[kind])
        needed = needs["service"] + needs["driver"] + needs[widest]
        found = sum(node.get(name, 0.0) for node in nodes)
        if needed > found:
            problems.append(
                f"short   the cluster has {_shown(name, found)}; service ({_shown(name, needs['service'])}), driver "
                f"({_shown(name, needs['driver'])}) and {widest} ({_shown(name, needs[widest])}) together need "
                f"{_shown(name, needed)}: lower {field} or max_count of {widest} in cluster.yaml, or add nodes"
            )
    return problems


def _kinds(actors: ActorTable) -> dict[str, ActorSpec]:
    return {kind: getattr(actors, kind) for kind in ("service", "driver", *STAGE_KINDS)}


def _need(spec: ActorSpec, field: str) -> float:
    return float(getattr(spec, field)) * spec.max_count


def _shown(name: str, value: float) -> str:
    return f"{value / 2**30:.1f} GiB memory" if name == "memory" else f"{value:g} {name}"


def _ingress() -> str:
    """Read on a node: the mode is taken from the environment when Ray starts."""
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        return "haproxy: requests go from HAProxy straight to the replicas"
    return (
        "default proxy: one Python process passes every request on, several times slower; on Linux start Ray "
        "with RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1, as `make cluster` does"
    )
