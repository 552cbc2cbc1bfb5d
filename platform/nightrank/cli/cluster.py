"""cluster check, and the local cluster behind `make cluster`; Ray is imported where it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.cli.options import ClusterFile, MaybeConfig, StoreUrl, chosen_store
from nightrank.config.cluster import load_cluster
from nightrank.config.locations import nightrank_home
from nightrank.config.service import service_resources_equal
from nightrank.errors import SettingsError

app = typer.Typer(help="The Ray cluster.", no_args_is_help=True)

ServeFile = Annotated[
    Path | None, typer.Option("--serve-config", help="Default: ./serve_config.yaml, then the package's copy.")
]


@app.command("check")
def check_command(
    cluster: ClusterFile = None,
    serve_config: ServeFile = None,
    config: MaybeConfig = None,
    store: StoreUrl = None,
) -> None:
    """Do cluster.yaml and serve_config.yaml agree, does the live cluster hold them, do all nodes reach the store?"""
    from nightrank.cluster.check import check
    from nightrank.service.serve_config import load_serve_config

    actors = load_cluster(cluster)
    served = load_serve_config(serve_config)
    differences = service_resources_equal(actors, served)
    if differences:
        raise SettingsError("\n".join(differences))
    typer.echo("ok      serve_config.yaml asks for what cluster.yaml declares for the service")
    for line in check(actors, chosen_store(config, store), partitions=served.partition_replicas()):
        typer.echo(line)


@app.command("start")
def start_command(
    http_port: Annotated[int, typer.Option(help="Preferred port of the service.")] = 8000,
    dashboard_port: Annotated[int, typer.Option(help="Preferred port of dashboard and jobs.")] = 8265,
) -> None:
    """A local cluster in the foreground, as production starts one; Ctrl-C stops what it started."""
    from nightrank.cluster.local import run_foreground

    run_foreground(home=nightrank_home(), http_port=http_port, dashboard_port=dashboard_port)
