"""serve: the service on the release in service, in the foreground; Ray is imported where it is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Annotated

import typer

from nightrank.cli.options import MaybeConfig, StoreUrl, chosen_store
from nightrank.config.locations import nightrank_home
from nightrank.errors import ClusterError, SettingsError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", help="The HTTP service in the foreground; Ctrl-C stops what it started.")(_serve)


def _serve(
    port: Annotated[int | None, typer.Option(help="Default: as in serve_config.yaml.")] = None,
    config: MaybeConfig = None,
    store: StoreUrl = None,
) -> None:
    from nightrank.service.deploy import deploy, withdraw
    from nightrank.service.places import places
    from nightrank.service.serve_config import load_serve_config

    served = load_serve_config()
    named = config is not None or store is not None
    url = chosen_store(config, store).url if named else served.args.store
    with _dashboard(_kept_port(served.port) if port is None else port) as (dashboard, http_port, ingress):
        try:
            base = deploy(served, dashboard_url=dashboard, port=http_port, store=url)
            typer.echo(places(served, base=base, ingress=ingress, dashboard_url=dashboard, store=url))
            typer.echo("Ctrl-C stops it")
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                threading.Event().wait()
        finally:
            withdraw(served, dashboard_url=dashboard)


def _kept_port(default: int) -> int:
    """The port that `make cluster` keeps free for the service: one of the lines it prints."""
    found = os.environ.get("NIGHTRANK_HTTP_PORT", str(default))
    if not found.isdecimal() or not 0 < int(found) < 2**16:
        raise SettingsError(
            f"NIGHTRANK_HTTP_PORT is {found!r}; expected a port, 1 to 65535, as `make cluster` prints it"
        )
    return int(found)


@contextlib.contextmanager
def _dashboard(port: int) -> Iterator[tuple[str, int, str]]:
    """(dashboard URL, HTTP port, ingress) of the cluster at RAY_ADDRESS, or of one started for this command."""
    from nightrank.cluster.local import applied_env, local_cluster

    joined = [os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    if any(joined):
        url = next((address for address in joined if address.startswith("http")), None)
        if url is None:
            raise ClusterError(
                f"RAY_ADDRESS is {joined[1]}; the service is deployed over the dashboard: set "
                "RAY_API_SERVER_ADDRESS to its address, such as http://127.0.0.1:8265"
            )
        yield url, port, "the ingress that the cluster was started with"
        return
    with local_cluster(home=nightrank_home(), http_port=port) as cluster, applied_env(cluster):
        yield cluster.dashboard_url, cluster.http_port, cluster.ingress
