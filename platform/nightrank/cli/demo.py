"""The demonstration behind `make demo`: the whole product on MovieLens 100K, on this machine, in minutes.

Everything is kept in one folder; the cluster that it starts is stopped at the end.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.releases import item_lines
from nightrank.config.cluster import load_cluster
from nightrank.config.job import load_job
from nightrank.release.manifest import read_manifest, release_key

if TYPE_CHECKING:  # Ray is imported where it is needed
    from nightrank.batch.run import Run
    from nightrank.cluster.local import LocalCluster

log = logging.getLogger("nightrank")

USER = "42"


def register(app: typer.Typer) -> None:
    """Add the command; hidden, since `make demo` is how it is meant to be called."""
    app.command("demo", hidden=True, help="The whole product on MovieLens 100K.")(demo)


def demo(
    home: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(".nightrank"),
    config: Annotated[Path, typer.Option(help="The job file.")] = Path("jobs/nightly.yaml"),
) -> None:
    """Fetch, sweep, train, score, publish, serve, ask; then stop what was started."""
    from nightrank.batch.nightly import open_run, run_stages
    from nightrank.cluster.local import applied_env, local_cluster
    from nightrank.cluster.session import joined

    home = home.absolute()
    os.environ["NIGHTRANK_HOME"] = str(home)
    os.environ.pop("RAY_ADDRESS", None)  # a demonstration never uses somebody's cluster
    logging.getLogger("nightrank.leaderboard").setLevel(logging.WARNING)  # it is printed below
    job, actors = load_job(config), load_cluster()
    run = open_run(job)
    with local_cluster(home=home) as cluster, applied_env(cluster):
        log.info("local Ray: dashboard %s, ingress %s", cluster.dashboard_url, cluster.ingress)
        with joined(cluster.address):
            swept = run_stages(run, actors, stages=("sweep",))
            _print_leaderboard(run)
            done = run_stages(run, actors, stages=("train", "score", "publish"))
        _print_gates(run)
        _ask(cluster, store=run.store.url)
    _print_end(run, done, skipped=[*swept["skipped"], *done["skipped"]])
    typer.echo(f"To ask it more: NIGHTRANK_HOME={home} make serve")


def _heading(text: str) -> None:
    typer.echo(f"\n{text}")


def _print_leaderboard(run: Run) -> None:
    from nightrank.batch.leaderboard import lines
    from nightrank.batch.sweep_outcome import judged_records

    outcome, min_change = run.finished("sweep"), run.job.gate.min_change
    records = judged_records(run)
    _heading(f"Leaderboard: {outcome['metric']} on the validation split")
    for line in lines(records, metric=outcome["metric"], min_change=min_change, test=outcome["test"]):
        typer.echo(line)


def _print_gates(run: Run) -> None:
    gates = read_manifest(run.store, run.record.release).gates
    quality, structure = gates["quality"], gates["structure"]
    _heading("Gates")
    typer.echo(
        f"  quality, on the test split that no trial saw: {quality['metric']} {quality['candidate']:.4f} against "
        f"{quality['baseline']:.4f} of\n  {quality['baseline_recipe']['family']}, mean paired difference "
        f"{quality['change']:+.4f} on {quality['n_users']} users, at least {quality['min_change']:+.4f} asked "
        f"for: {_passed(quality)}"
    )
    typer.echo(
        f"  structure: {structure['users']} users, {structure['empty_users']} of them with an empty list, "
        f"{structure['coverage']:.0%} of the catalogue shown,\n  at least {structure['min_coverage']:.0%} asked "
        f"for: {_passed(structure)}"
    )


def _passed(decision: dict[str, Any]) -> str:
    return "passed" if decision["passed"] else "refused"


def _ask(cluster: LocalCluster, *, store: str) -> None:
    from nightrank.service.deploy import deploy
    from nightrank.service.serve_config import load_serve_config

    url = deploy(
        load_serve_config(), dashboard_url=cluster.dashboard_url, port=cluster.http_port, store=store
    )
    _heading(f"The service on {url} ({cluster.ingress})")
    history = _get(f"{url}/v1/users/{USER}/history?k=10")
    _heading(f"User {USER}: history, strongest first  (GET /v1/users/{USER}/history?k=10)")
    for line in item_lines(history["items"]):
        typer.echo(line)
    answer = _get(f"{url}/v1/users/{USER}/recommendations?k=10")
    _heading(f"User {USER}: top 10  (GET /v1/users/{USER}/recommendations?k=10)")
    for line in item_lines(answer["items"]):
        typer.echo(line)
    typer.echo(f"  source {answer['source']}, release {answer['release']}")
    asked = f"/v1/users/{USER}/recommendations?k=5&category=Comedy"
    answer = _get(url + asked)
    _heading(f"User {USER}: top 5 comedies  (GET {asked})")
    for line in item_lines(answer["items"]):
        typer.echo(line)
    typer.echo(f"  source {answer['source']}: ranked when it was asked for")


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own http URL
        body: dict[str, Any] = json.load(answer)
    return body


def _print_end(run: Run, done: dict[str, Any], *, skipped: list[str]) -> None:
    folder = Path(run.store.url) / release_key(run.record.release, "recommendations")
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    _heading(f"Parquet: {done['counts']['recommendations']} rows in {folder}")
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in done["seconds"].items())
    again = f" (done before: {', '.join(skipped)})" if skipped else ""
    typer.echo(f"Seconds: {seconds}{again}")
