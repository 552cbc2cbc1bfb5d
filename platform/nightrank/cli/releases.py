"""releases list | show | verify | activate, and recommend, similar: what a store holds, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from nightrank.cli.options import Json, MaybeConfig, StoreUrl, chosen_store
from nightrank.errors import DataError
from nightrank.release import open_release
from nightrank.release.diff import Difference, Side, diff
from nightrank.release.manifest import pointer
from nightrank.release.publish import activate, catalogue, verify
from nightrank.release.titles import item_row_of
from nightrank.service import answers
from nightrank.service.answers import parse_id
from nightrank.service.prepared import prepare
from nightrank.service.recommend import asked_in_url, recommend
from nightrank.service.refusal import RequestError
from nightrank.service.schemas import RecommendationsQuery

app = typer.Typer(help="Published releases.", no_args_is_help=True)

ReleaseId = Annotated[str | None, typer.Argument(help="A release id; default: the one in service.")]
Count = Annotated[int, typer.Option("-k", min=1, help="How many.")]


@app.command("list")
def list_command(config: MaybeConfig = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """All releases, oldest first; * is in service, ! cannot be read."""
    chosen = chosen_store(config, store)
    in_service, _ = pointer(chosen)
    manifests, broken = catalogue(chosen)
    if as_json:
        fields = {"release", "created", "run_key", "family", "params", "metrics", "counts"}
        listed = [one.model_dump(include=fields) for one in manifests]
        typer.echo(json.dumps({"current": in_service, "releases": listed, "broken": broken}))
        return
    for one in manifests:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in one.metrics.items())
        mark = "*" if one.release == in_service else " "
        typer.echo(f"{mark} {one.release}  {one.family}  {metrics}  {one.counts['users']} users")
    for release_id, problem in broken.items():
        typer.echo(f"! {release_id}  {problem}")
    if not manifests and not broken:
        typer.echo(f"nothing is published in {chosen.url}", err=True)


@app.command("show")
def show_command(release: ReleaseId = None, config: MaybeConfig = None, store: StoreUrl = None) -> None:
    """The manifest of a release, as JSON."""
    chosen = chosen_store(config, store)
    typer.echo(open_release(chosen, release).manifest.model_dump_json(indent=1))


@app.command("verify")
def verify_command(release: ReleaseId = None, config: MaybeConfig = None, store: StoreUrl = None) -> None:
    """Re-read every file of a release against its manifest; exit code 1 where anything differs."""
    chosen = chosen_store(config, store)
    release_id = release if release is not None else open_release(chosen).id
    manifest = verify(chosen, release_id)
    typer.echo(f"{release_id}: {len(manifest.files)} files, all as the manifest says")


@app.command("activate")
def activate_command(
    release: Annotated[str, typer.Argument(help="A release id.")],
    config: MaybeConfig = None,
    store: StoreUrl = None,
) -> None:
    """Verify a release and put it in service; services that follow CURRENT change within seconds."""
    before = activate(chosen_store(config, store), release)
    typer.echo(f"in service: {release} (before: {before or 'nothing'})")


@app.command("diff")
def diff_command(
    a: Annotated[str, typer.Argument(help="A release id.")],
    b: Annotated[str, typer.Argument(help="Another: what changed from A to B.")],
    config: MaybeConfig = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """How much the lists changed between two releases: users, overlap@k, items, coverage."""
    chosen = chosen_store(config, store)
    found = diff(open_release(chosen, a), open_release(chosen, b))
    typer.echo(json.dumps(found.as_dict()) if as_json else "\n".join(_difference_lines(found)))


def _difference_lines(found: Difference) -> list[str]:
    users, items = found.users, found.items
    lists = [f"{name} {value:.4f}" for name, value in found.lists.items() if value is not None]
    return [
        *(f"{name}  {_side_line(side)}" for name, side in (("A", found.a), ("B", found.b))),
        f"users     {users['both']} in both, {users['a_only']} only in A, {users['b_only']} only in B",
        f"lists     {', '.join(lists)}" if users["both"] else "lists     nobody is in both",
        f"items     {items['kept']} recommended in both, {items['new']} only in B, {items['gone']} only in A",
        f"coverage  A {_coverage(found.a)}, B {_coverage(found.b)}",
    ]


def _coverage(side: Side) -> str:
    return f"{side.coverage:.4f} of {side.items} items"


def _side_line(side: Side) -> str:
    params = " ".join(f"{name}={value}" for name, value in side.params.items())
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in side.metrics.items())
    return "  ".join(part for part in (side.release, side.family, params, metrics, f"k={side.k}") if part)


def register(root: typer.Typer) -> None:
    """Add the commands that ask the release in service."""
    root.command("recommend", help="A user's top k, from the release in service.")(_recommend)
    root.command("similar", help="The items closest to one, from the release in service.")(_similar)


def _recommend(
    user: str, k: Count = 10, config: MaybeConfig = None, store: StoreUrl = None, as_json: Json = False
) -> None:
    release = open_release(chosen_store(config, store))

    def answer() -> dict[str, Any]:
        asked = asked_in_url(release, user, RecommendationsQuery())
        return recommend(prepare(release), asked, k=k)

    _print(_asked(answer), as_json=as_json)


def _similar(
    item: Annotated[str | None, typer.Argument(help="An item's id.")] = None,
    title: Annotated[
        str | None, typer.Option("--title", help="Its title, or a part that no other has.")
    ] = None,
    k: Count = 10,
    config: MaybeConfig = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    if (item is None) == (title is None):
        raise typer.BadParameter("give the item's id or --title, one of them")
    release = open_release(chosen_store(config, store))
    row = None if title is None else item_row_of(release, title)

    def answer() -> dict[str, Any]:
        ids = release.model.item_ids
        item_id = parse_id(str(item), ids, what="item_id") if row is None else ids[row]
        return answers.similar(release, item_id, k=k)

    found = _asked(answer)
    if row is not None and not as_json:
        typer.echo(f"similar to {found['item_id']}  {release.title(row)}")
    _print(found, as_json=as_json)


def _asked(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return question()
    except RequestError as error:
        raise DataError(str(error)) from None


def _print(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    source = f", {answer['source']}" if "source" in answer else ""
    typer.echo(f"release {answer['release']}{source}")
    for line in item_lines(answer["items"]):
        typer.echo(line)


def item_lines(items: Sequence[dict[str, Any]]) -> list[str]:
    """One line per item: rank, score or weight, id and title."""
    lines = []
    for place, item in enumerate(items, start=1):
        value = item["score"] if "score" in item else item["weight"]
        lines.append(f"{place:4d}  {value:8.4f}  {item['item_id']!s:>8}  {item.get('title', '')}".rstrip())
    return lines
