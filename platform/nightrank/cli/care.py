"""releases prune, releases erase, destroy: what removes things. Prune and destroy only say what, without --yes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nightrank.cli.options import Config, Json, MaybeConfig, StoreUrl, chosen_store
from nightrank.config.job import inside_job, load_job
from nightrank.release import destroy as destruction
from nightrank.release import erase as erasure
from nightrank.release import prune as pruning
from nightrank.release.store import open_store

Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said.")]


def register(root: typer.Typer, releases: typer.Typer) -> None:
    """Add the commands."""
    releases.command(
        "prune", help="Remove old releases and leftovers of runs; without --yes only say which."
    )(_prune)
    releases.command("erase", help="Remove people from every release and run, and keep them out.")(_erase)
    root.command("destroy", help="Remove all that jobs made in a store; without --yes only say what.")(
        _destroy
    )


def _prune(
    config: MaybeConfig = None,
    store: StoreUrl = None,
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest stay.")] = 3,
    days: Annotated[float | None, typer.Option(min=0, help="Younger than this stay, too.")] = None,
    yes: Yes = False,
) -> None:
    chosen = chosen_store(config, store)
    plan = pruning.plan_prune(chosen, keep=keep, days=days)
    for release_id, why in plan.kept.items():
        typer.echo(f"keep    release {release_id}: {why}")
    for key, who in plan.busy.items():
        typer.echo(f"keep    run {key}: at work ({who})")
    gone = [
        *(f"release {one}" for one in plan.releases),
        *(f"unfinished release {one}" for one in plan.unfinished),
    ]
    for what in [*gone, *(f"run {run.key}" for run in plan.runs)]:
        typer.echo(f"remove  {what}")
    if yes:
        pruning.prune(chosen, plan)
    _end(n=len(gone) + len(plan.runs), store=chosen.url, done=yes)


def _erase(
    user: Annotated[list[str], typer.Option("--user", help="The person's user id; repeats.")],
    config: MaybeConfig = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    chosen = chosen_store(config, store)
    receipt = erasure.erase(chosen, user)
    if as_json:
        typer.echo(json.dumps(receipt))
        return
    known = {person for one in receipt["releases"] for person in one["people"]}
    for one in receipt["releases"]:
        typer.echo(
            f"replaced  release {one['release']} by {one['successor']}, without {len(one['people'])} user(s)"
        )
    for key in receipt["runs"]:
        typer.echo(f"removed   run {key}")
    for release_id in receipt["unfinished"]:
        typer.echo(f"removed   unfinished release {release_id}")
    typer.echo(f"kept out  {len(receipt['people'])} user(s), of every later night in {chosen.url}")
    unknown = len(receipt["people"]) - len(known)
    if not receipt["releases"] and not receipt["runs"]:
        typer.echo(
            "unknown   nobody of that id is known here, so nothing was removed; are the ids as in the events?"
        )
    elif unknown > 0:
        typer.echo(f"unknown   {unknown} of them: in no release here; are the ids as in the events?")
    for text in receipt["not_done"]:
        typer.echo(f"not done  {text}")


def _destroy(config: Config, yes: Yes = False) -> None:
    chosen = open_store(load_job(config, inside_job=inside_job()).store)
    plan = destruction.plan_destroy(chosen)
    for name, n_files in plan.folders.items():
        typer.echo(f"remove  {name}/ ({n_files} files)")
    for name in plan.objects:
        typer.echo(f"remove  {name}")
    for name, why in plan.stays.items():
        typer.echo(f"keep    {name}: {why}")
    if yes:
        destruction.destroy(chosen, plan)
    _end(n=len(plan.folders) + len(plan.objects), store=chosen.url, done=yes)


def _end(*, n: int, store: str, done: bool) -> None:
    if n == 0:
        typer.echo(f"nothing to remove in {store}")
    elif done:
        typer.echo(f"done in {store}")
    else:
        typer.echo(f"nothing was removed in {store}; the same command with --yes does it")
