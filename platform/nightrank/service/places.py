"""Where everything of a running service is, for the people who started it: one line each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from nightrank.config.service import ServeConfig

_MOST_NODES = 3


def places(config: ServeConfig, *, base: str, ingress: str, dashboard_url: str, store: str) -> str:
    """An aligned block. base: the service's URL. A cluster that does not say where its logs are loses those lines."""
    pin = config.user_config.release
    keys = config.args.keys
    lines = [
        ("service", f"{base}  ({ingress})"),
        ("calls", f"{base}/docs  and {base}/openapi.json"),
        ("health", f"{base}/readyz  and {base}/healthz"),
        ("counts", f"{base}/v1/stats"),
        ("store", store),
        ("release", "the store's CURRENT" if pin is None else f"{pin}, pinned by user_config"),
        ("keys", "none: reads are open, admin calls are refused" if keys is None else keys),
        ("dashboard", f"{dashboard_url}  (asks for the cluster's token)"),
        *_of_nodes(_nodes(dashboard_url), dashboard_url),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in lines)


def _of_nodes(nodes: list[dict[str, Any]], dashboard_url: str) -> Iterator[tuple[str, str]]:
    """Prometheus endpoints and logs, as the nodes that are alive tell."""
    alive = [node for node in nodes if node.get("state") == "ALIVE"]
    for node in alive[:_MOST_NODES]:
        yield "metrics", f"http://{node['nodeManagerAddress']}:{node['metricsExportPort']}/metrics"
    if len(alive) > _MOST_NODES:
        yield "", f"and {len(alive) - _MOST_NODES} more nodes"
    if alive:
        yield "", f"{dashboard_url}/api/prometheus/sd  (all of them, for Prometheus; with the token)"
        yield "logs", f"{alive[0]['sessionDir']}/logs/serve  (on each node)"


def _nodes(dashboard_url: str) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError, TypeError):
        client = ServeSubmissionClient(dashboard_url)
        answer = client._do_request("GET", "/nodes?view=summary")  # the client that adds the token
        return [node["raylet"] for node in answer.json()["data"]["summary"]]
    return []
