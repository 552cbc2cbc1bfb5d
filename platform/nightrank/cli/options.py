"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.config.job import inside_job, load_job
from nightrank.config.locations import default_store
from nightrank.release.store import Store, open_store

Config = Annotated[Path, typer.Option("--config", help="The job file.")]
MaybeConfig = Annotated[Path | None, typer.Option("--config", help="The job file whose store to read.")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="The store; default $NIGHTRANK_HOME/store.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key.path=value, in place of the job file's; repeats.")
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="The file with metadata.actors; default ./cluster.yaml.")
]
RunKey = Annotated[str | None, typer.Option("--run", help="A run key, or `latest`; default: by the inputs.")]
Force = Annotated[bool, typer.Option("--force", help="Go on where the quality gate refuses; it is recorded.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def chosen_store(config: Path | None, store: str | None) -> Store:
    """The store that a reading command was given: by job file, by URL, or the default."""
    if config is not None and store is not None:
        raise typer.BadParameter("give --config or --store, not both")
    if config is not None:
        return open_store(load_job(config, inside_job=inside_job()).store)
    if store is not None and "://" not in store:
        store = str(Path(store).expanduser().absolute())  # nodes have other working directories
    return open_store(default_store() if store is None else store)
