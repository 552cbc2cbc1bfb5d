"""serve: the service on the release in service, in the foreground; Ray is imported where it is needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from nightrank.cli.options import MaybeConfig, StoreUrl, chosen_store
from nightrank.config.locations import nightrank_home
from nightrank.errors import ClusterError, SettingsError

if TYPE_CHECKING:
    from nightrank.cluster.local import LocalCluster


@dataclass(frozen=True)
class _Ground:
    """Where the service goes. stay: returns never, and raises ClusterError when that cluster is gone."""

    dashboard: str
    port: int
    ingress: str
    is_own: bool
    stay: Callable[[], object]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", help="The HTTP service in the foreground; Ctrl-C stops what it started.")(_serve)


def _serve(
    port: Annotated[
        int | None, typer.Option(min=1, max=2**16 - 1, help="Default: as in serve_config.yaml.")
    ] = None,
    config: MaybeConfig = None,
    store: StoreUrl = None,
) -> None:
    from nightrank.cluster.local import signals_interrupt
    from nightrank.service.deploy import deploy, withdraw
    from nightrank.service.places import places
    from nightrank.service.serve_config import load_serve_config

    served = load_serve_config()
    named = config is not None or store is not None
    url = chosen_store(config, store).url if named else served.args.store
    with (
        contextlib.suppress(KeyboardInterrupt),
        signals_interrupt(),
        _ground(_kept_port(served.port) if port is None else port, is_asked=port is not None) as ground,
    ):
        try:
            base = deploy(served, dashboard_url=ground.dashboard, port=ground.port, store=url)
            typer.echo(
                places(served, base=base, ingress=ground.ingress, dashboard_url=ground.dashboard, store=url)
            )
            typer.echo("Ctrl-C stops it")
            ground.stay()
        finally:
            with contextlib.suppress(OSError):  # the terminal may be gone
                last = (
                    "" if ground.is_own else ": the replicas give their last answers, which may take a minute"
                )
                typer.echo(f"stopping{last}")
            if not ground.is_own:  # one of our own is ended as a whole
                withdraw(served, dashboard_url=ground.dashboard)


def _kept_port(default: int) -> int:
    """The port that `make cluster` keeps free for the service: one of the lines it prints."""
    found = os.environ.get("NIGHTRANK_HTTP_PORT", str(default))
    if not found.isdecimal() or not 0 < int(found) < 2**16:
        raise SettingsError(
            f"NIGHTRANK_HTTP_PORT is {found!r}; expected a port, 1 to 65535, as `make cluster` prints it"
        )
    return int(found)


@contextlib.contextmanager
def _ground(port: int, *, is_asked: bool) -> Iterator[_Ground]:
    """The cluster at RAY_ADDRESS, or one started for this command. is_asked: on this port or not at all."""
    from nightrank.cluster.local import applied_env, local_cluster
    from nightrank.cluster.ports import is_available
    from nightrank.cluster.watch import watch

    joined = [os.environ.get(name, "") for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")]
    if any(joined):
        url = next((address for address in joined if address.startswith("http")), None)
        if url is None:
            raise ClusterError(
                f"RAY_ADDRESS is {joined[1]}; the service is deployed over the dashboard: set "
                "RAY_API_SERVER_ADDRESS to its address, such as http://127.0.0.1:8265"
            )
        yield _Ground(url, port, "the ingress that the cluster was started with", False, partial(watch, url))
        return
    if is_asked and not is_available(port):
        raise _taken(port)
    with local_cluster(home=nightrank_home(), http_port=port) as cluster, applied_env(cluster):
        if cluster.http_port != port:
            if is_asked:  # somebody was faster
                raise _taken(port)
            typer.echo(f"port {port} is taken: the service is on {cluster.http_port}")
        yield _Ground(
            cluster.dashboard_url, cluster.http_port, cluster.ingress, True, partial(_stay, cluster)
        )


def _stay(cluster: LocalCluster) -> None:
    while True:
        cluster.wait(timeout_s=60.0)


def _taken(port: int) -> ClusterError:
    return ClusterError(
        f"port {port} is taken, expected a free one: see who listens there (ss -ltnp), or name another with --port"
    )
