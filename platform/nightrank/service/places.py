"""Where everything of a running service is, for the people who started it: one line each."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from nightrank.config.service import ServeConfig

_MOST_NODES = 3
# Of all that `make cluster` prints, what a client on this machine cannot do without.
_CLIENT = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TMPDIR",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
)
_HAPROXY_PAGE = "RAY_SERVE_HAPROXY_METRICS_PORT"


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
        *_for_clients(),
        *_of_nodes(_nodes(dashboard_url), dashboard_url),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in lines)


def _for_clients() -> Iterator[tuple[str, str]]:
    """The token, and what another shell needs for `serve status`, `nightrank cluster check` or a job."""
    if os.environ.get("RAY_AUTH_MODE") == "token" and "RAY_AUTH_TOKEN" not in os.environ:
        yield "token", os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    needed = [f"{name}={shlex.quote(os.environ[name])}" for name in _CLIENT if os.environ.get(name)]
    if needed:
        yield "clients", f"export {needed[0]}"
        yield from (("", f"export {one}") for one in needed[1:])


def _of_nodes(nodes: list[dict[str, Any]], dashboard_url: str) -> Iterator[tuple[str, str]]:
    """Prometheus endpoints and logs, as the nodes that are alive tell."""
    alive = [node for node in nodes if node.get("state") == "ALIVE"]
    for node in alive[:_MOST_NODES]:
        yield "metrics", f"http://{node['nodeManagerAddress']}:{node['metricsExportPort']}/metrics"
    if alive and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        yield (
            "",
            f"http://127.0.0.1:{os.environ.get(_HAPROXY_PAGE, '9101')}/metrics  (HAProxy's, on its own node)",
        )
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
