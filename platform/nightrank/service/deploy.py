"""Deploying serve_config.yaml on a cluster through Ray's REST interface, and waiting until it answers."""

from __future__ import annotations

import contextlib
import copy
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from nightrank.cluster.ports import is_free
from nightrank.config.cluster import load_cluster
from nightrank.config.service import ServeConfig
from nightrank.errors import ClusterError
from nightrank.service.serve_config import IMPORT_PATH, with_partitions

GONE_S = 20.0  # in which a Serve that was taken down is gone
READY_TIMEOUT_S = 90.0


def deploy(config: ServeConfig, *, dashboard_url: str, port: int, store: str) -> str:
    """Deploy the application on `port` for `store`; returns its base URL once it is ready.

    Raises ClusterError where Ray refuses it, where the port is not to be had, or where it is not ready in time,
    with what Serve says about it.
    """
    raw = copy.deepcopy(config.raw)
    raw["http_options"]["port"] = port
    ours = next(one for one in raw["applications"] if one["import_path"] == IMPORT_PATH)
    ours["args"] = {**ours.get("args", {}), "store": store}
    if config.args.live.placement == "actors":
        ours["deployments"] = with_partitions(config, load_cluster().partition)
    try:
        client = ServeSubmissionClient(dashboard_url)
        others = _others(client, raw)
        if others:
            raise ClusterError(
                f"the cluster already serves {', '.join(others)}, which deploying would replace; add nightrank's "
                "application to that configuration and use `serve deploy`"
            )
        _can_listen(client.get_serve_details(), port, dashboard_url=dashboard_url)
        _hand_over(client, raw)
    except (OSError, RuntimeError) as error:
        raise ClusterError(f"Serve on {dashboard_url} refused the application: {error}") from None
    prefix = (ours.get("route_prefix") or "/").rstrip("/")
    host = raw["http_options"]["host"]
    url = f"http://[{host}]:{port}{prefix}" if ":" in host else f"http://{host}:{port}{prefix}"
    _wait(client, url, raw)
    return url


def _hand_over(client: ServeSubmissionClient, raw: dict[str, Any]) -> None:
    """Deploy. A Serve that was taken down a moment ago still answers to its name, and may die while it is asked."""
    deadline = time.monotonic() + GONE_S
    while True:
        try:
            client.deploy_applications(raw)
        except RuntimeError as error:
            if "ActorDiedError" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def withdraw(config: ServeConfig, *, dashboard_url: str) -> None:
    """Take down what `deploy` put there; nothing where the cluster is gone, or serves others' applications too."""
    with contextlib.suppress(OSError, RuntimeError):
        client = ServeSubmissionClient(dashboard_url)
        if not _others(client, config.raw):  # Ray can only take all of them down at once
            client.delete_applications()


def _can_listen(details: dict[str, Any], port: int, *, dashboard_url: str) -> None:
    """Serve would wait for ever for a port that is taken, and keeps the one that it has."""
    if details.get("proxies"):
        kept = (details.get("http_options") or {}).get("port", port)
        if kept != port:
            raise ClusterError(
                f"Serve of this cluster listens on port {kept} until `serve shutdown`, not on {port}: take that, "
                "or shut it down first"
            )
    elif urlsplit(dashboard_url).hostname in ("127.0.0.1", "localhost") and not is_free(port):
        raise ClusterError(f"port {port} is taken, expected a free one: see who listens there (ss -ltnp)")


def _others(client: ServeSubmissionClient, raw: dict[str, Any]) -> list[str]:
    """What the cluster serves that is not in our configuration."""
    wanted = {application["name"] for application in raw["applications"]}
    return sorted(set(client.get_serve_details().get("applications", {})) - wanted)


def _wait(client: ServeSubmissionClient, url: str, raw: dict[str, Any]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            states = _states(client)
            if not states:  # accepted by a Serve that was being taken down, which forgot it
                _hand_over(client, raw)
        except (OSError, RuntimeError) as error:  # that Serve is just going
            states, said = [], str(error)
        failed = [text for status, text in states if status in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed:
            raise ClusterError(f"the service did not start: {'; '.join(failed)}")
        if states and all(status == "RUNNING" for status, _ in states) and _answers(f"{url}/healthz"):
            return
        said = "; ".join(text for _, text in states) or said
        time.sleep(0.2)
    raise ClusterError(
        f"the service did not answer on {url} within {READY_TIMEOUT_S:.0f} s: {said}; can the "
        "cluster hold it? `nightrank cluster check` tells"
    )


def _states(client: ServeSubmissionClient) -> list[tuple[str, str]]:
    """(status, what Serve says) of every application; of what failed, the last line of each deployment's error."""
    details: dict[str, Any] = client.get_serve_details()
    return [
        (application["status"], f"{name}: {' '.join(_told(application)) or application['status']}")
        for name, application in details.get("applications", {}).items()
    ]


def _told(application: dict[str, Any]) -> Iterator[str]:
    """The application's message is "Failed to update"; the cause is the end of a deployment's stack trace."""
    for one in (application, *application.get("deployments", {}).values()):
        lines = (one.get("message") or "").strip().splitlines()
        yield from lines[-1:]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
