"""nightly and its stages: on the cluster of RAY_ADDRESS, else on a local one of their own.

Ray is imported where a command needs it: it takes seconds, and most commands only read files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from nightrank.cli.options import ClusterFile, Config, Force, Overrides, RunKey
from nightrank.config.cluster import load_cluster
from nightrank.config.job import inside_job, load_job
from nightrank.config.locations import nightrank_home

log = logging.getLogger("nightrank")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    helps = {
        "nightly": "Every stage of the night that is not done yet: sweep, train, score, publish.",
        "sweep": "Try hyperparameters on Ray Tune; write the leaderboard.",
        "train": "Judge the winner against the recipe in service, then fit it on all events.",
        "score": "Write every user's top-k to Parquet with Ray Data.",
        "publish": "Judge the structure, write the manifest, move CURRENT.",
    }
    for name, text in helps.items():
        stages = None if name == "nightly" else (name,)
        command = _judging(stages) if name in ("nightly", "train") else _command(stages)
        app.command(name, help=text)(command)


def _command(stages: Sequence[str] | None) -> Any:
    def command(
        config: Config, set: Overrides = None, run: RunKey = None, cluster: ClusterFile = None
    ) -> None:
        typer.echo(json.dumps(run_night(config, stages, overrides=set or (), run_key=run, cluster=cluster)))

    return command


def _judging(stages: Sequence[str] | None) -> Any:
    """The same for commands that hold the quality gate."""

    def command(
        config: Config,
        set: Overrides = None,
        run: RunKey = None,
        cluster: ClusterFile = None,
        force: Force = False,
    ) -> None:
        found = run_night(config, stages, overrides=set or (), run_key=run, cluster=cluster, force=force)
        typer.echo(json.dumps(found))

    return command


def run_night(
    config: Path,
    stages: Sequence[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    run_key: str | None = None,
    cluster: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run stages of a job (default: all) and return its summary; what jobs/ and the commands call.

    force: go on where the quality gate refuses.
    """
    from nightrank.batch.nightly import check_order, open_run, run_stages
    from nightrank.batch.run import STAGES

    job = load_job(config, overrides=overrides, inside_job=inside_job())
    actors = load_cluster(cluster)
    stages = STAGES if stages is None else stages
    run = open_run(job, key=run_key, first=stages[0])
    check_order(run, stages)
    with some_cluster():
        return run_stages(run, actors, stages=stages, force=force)


@contextlib.contextmanager
def some_cluster() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS; where none is named, start a local one and stop it at the end."""
    from nightrank.cluster.local import applied_env, local_cluster
    from nightrank.cluster.session import joined

    if os.environ.get("RAY_ADDRESS"):
        with joined():
            yield
        return
    log.info("RAY_ADDRESS is not set: starting a local Ray for this command")
    with local_cluster(home=nightrank_home()) as cluster, applied_env(cluster), joined(cluster.address):
        yield
