"""Can the live cluster hold what cluster.yaml declares, do all nodes reach the store, which ingress is active?

In words to act on.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nightrank.cluster.session import joined
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.errors import ClusterError, NightrankError
from nightrank.release.store import Store, open_store

STAGE_KINDS = ("tune_trial", "trainer", "scorer")  # one stage runs at a time
ANSWERED_S = 60.0
RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def check(actors: ActorTable, store: Store, *, partitions: int = 0) -> list[str]:
    """Lines about the cluster at RAY_ADDRESS; one line where none is named. partitions: replicas of live ranking.

    Raises ClusterError with every shortage where the cluster cannot hold service, partitions, driver and the widest
    stage, and every node that does not read what this process writes to the store, or the other way round.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return [
            "skipped the live cluster: RAY_ADDRESS is not set (export the lines that `make cluster` prints)"
        ]
    with joined():
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        nodes = [node["Resources"] for node in alive.values()]
        ingress = ray.get(ray.remote(_ingress).options(num_cpus=0).remote())
        apart = _apart(store, {name: node["NodeManagerAddress"] for name, node in alive.items()})
    problems = [
        *unplaceable(actors, nodes, partitions=partitions),
        *shortages(actors, nodes, partitions=partitions),
        *apart,
    ]
    if problems:
        raise ClusterError("\n".join(problems))
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in RESOURCES}
    return [
        f"ok      {len(nodes)} node(s) with {_shown('CPU', total['CPU'])}, {_shown('memory', total['memory'])} "
        f"hold the service, {_more(partitions)}the driver and every stage of the night",
        f"ok      every node reads and writes the store {store.url}",
        f"ingress {ingress}",
    ]


def _apart(store: Store, nodes: Mapping[str, str]) -> list[str]:
    """Nodes (address by id) that see another store under this name, or none: each reads a word and writes it back."""
    word = uuid.uuid4().hex
    store.put(f".check-{word}/asked", word.encode())
    try:
        tasks = {
            name: ray.remote(_answer)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
            .remote(store.url, word, name)
            for name in nodes
        }
        said = {name: _told(task) for name, task in tasks.items()}
        for name, reason in said.items():
            if reason is None and store.read(f".check-{word}/{name}") is None:
                said[name] = "what it writes does not arrive here"
    finally:
        store.delete_folder(f".check-{word}")
    cure = "mount one folder under the same path on all nodes; on S3 see to the AWS_ variables of that node"
    return [
        f"apart   node {nodes[name]} ({name[:8]}) does not share the store {store.url}: {reason}; {cure}"
        for name, reason in said.items()
        if reason is not None
    ]


def _told(task: Any) -> str | None:
    """What a node said; a node that is lost or hangs on the folder is one that does not share it."""
    try:
        answer: str | None = ray.get(task, timeout=ANSWERED_S)
    except ray.exceptions.GetTimeoutError:
        return f"it did not answer in {ANSWERED_S:g} s"
    except ray.exceptions.RayError as error:
        return f"it could not be asked ({type(error).__name__})"
    return answer


def _answer(url: str, word: str, name: str) -> str | None:
    """On a node: what is wrong with the store, None where nothing is."""
    try:
        store = open_store(url)
        found = store.read(f".check-{word}/asked")
        if found is None:
            return "what is written elsewhere does not arrive there"
        store.put(f".check-{word}/{name}", found.data)
    except (NightrankError, OSError) as error:
        return str(error)
    return None


def unplaceable(
    actors: ActorTable, nodes: Sequence[Mapping[str, float]], *, partitions: int = 0
) -> list[str]:
    """Kinds of which not even one fits on any node."""
    problems = []
    for kind, spec in _kinds(actors, partitions=partitions).items():
        wanted = {name: float(getattr(spec, field)) for name, field in RESOURCES.items()}
        if not any(all(node.get(name, 0.0) >= value for name, value in wanted.items()) for node in nodes):
            asked = ", ".join(_shown(name, value) for name, value in wanted.items() if value)
            problems.append(
                f"short   no node can hold one {kind} ({asked}); lower metadata.actors.{kind} in cluster.yaml "
                "or add a larger node"
            )
    return problems


def shortages(actors: ActorTable, nodes: Sequence[Mapping[str, float]], *, partitions: int = 0) -> list[str]:
    """Resources of which service, partitions, driver and the widest stage together need more than the cluster has."""
    problems = []
    for name, field in RESOURCES.items():
        needs = {kind: _need(spec, field) for kind, spec in _kinds(actors, partitions=partitions).items()}
        if partitions:
            needs["partition"] = float(getattr(actors.partition, field)) * partitions
        widest = max(STAGE_KINDS, key=lambda kind: needs[kind])
        always = [kind for kind in needs if kind not in STAGE_KINDS]
        needed = sum(needs[kind] for kind in (*always, widest))
        found = sum(node.get(name, 0.0) for node in nodes)
        if needed > found:
            parts = ", ".join(f"{kind} ({_shown(name, needs[kind])})" for kind in always)
            problems.append(
                f"short   the cluster has {_shown(name, found)}; {parts} and {widest} "
                f"({_shown(name, needs[widest])}) together need {_shown(name, needed)}: lower {field} or "
                f"max_count of {widest} in cluster.yaml, or add nodes"
            )
    return problems


def _kinds(actors: ActorTable, *, partitions: int) -> dict[str, ActorSpec]:
    kinds = ("service", "driver", *(["partition"] if partitions else []), *STAGE_KINDS)
    return {kind: getattr(actors, kind) for kind in kinds}


def _more(partitions: int) -> str:
    return f"{partitions} partition(s), " if partitions else ""


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
