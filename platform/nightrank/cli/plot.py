"""plot map: the items of the release in service on a plane, as a picture and as a page.

What draws is imported when something is drawn, so that no other command waits for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nightrank.cli.options import MaybeConfig, StoreUrl, chosen_store
from nightrank.config.job import inside_job, load_job
from nightrank.errors import DataError
from nightrank.release import open_release
from nightrank.release.item_map import ItemMap, item_map
from nightrank.release.publish import published
from nightrank.release.reader import Release

PICTURE, PAGE = "map.png", "map.html"
CATEGORIES = "categories"  # what a release calls them, whatever the job's column is
app = typer.Typer(help="Pictures of a release.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Pictures of a release."""


@app.command("map")
def map_command(
    config: MaybeConfig = None,
    store: StoreUrl = None,
    release: Annotated[str | None, typer.Option("--release", help="Default: the one in service.")] = None,
    color: Annotated[
        str | None, typer.Option("--color", help="The column of categories to colour by.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="So many, those with the most users.")] = 2000,
    out: Annotated[Path, typer.Option("--out", help="The folder for map.png and map.html.")] = Path(),
) -> None:
    """Draw the items of a release on a plane, near where their vectors are near: map.png and map.html."""
    chosen = chosen_store(config, store)
    if release is not None and release not in published(chosen):
        raise DataError(
            f"found --release {release}, expected a release of store {chosen.url}: `nightrank releases list` shows "
            "what is there; without --release it is the one in service"
        )
    opened = open_release(chosen, release)
    by_category = color is not None
    if color is not None:
        _check_colour(color, opened, job_column=_job_column(config))
    _check_folder(out)
    drawn = _computed(opened, n=items)
    from nightrank.cli.map_page import told, write_page  # with matplotlib's colours
    from nightrank.cli.map_png import write_png

    write_png(out / PICTURE, drawn, by_category=by_category)
    write_page(out / PAGE, drawn, by_category=by_category)
    typer.echo(f"release {drawn.release}: {told(drawn)}", err=True)
    typer.echo(out / PICTURE)
    typer.echo(out / PAGE)


def _computed(release: Release, *, n: int) -> ItemMap:
    """The map, with a bar on a terminal."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bars:
        task = bars.add_task("laying out the items", total=None)
        return item_map(
            release, n=n, on_iteration=lambda done, of: bars.update(task, completed=done, total=of)
        )


def _check_folder(out: Path) -> None:
    """Make the folder; DataError where the files cannot go into it, before anything is laid out."""
    expected = f"expected a folder for {PICTURE} and {PAGE}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"found --out {out}, {expected}: {error.strerror or error}; name another, or make room for it"
        ) from None
    for name in (PICTURE, PAGE):
        if (out / name).is_dir():
            raise DataError(f"found a folder of the name {name} in --out {out}, {expected}; name another")
    if not os.access(out, os.W_OK | os.X_OK):
        raise DataError(f"found --out {out}, {expected} that may be written to; name another")


def _job_column(config: Path | None) -> str | None:
    """What the job file calls its column of categories."""
    if config is None:
        return None
    job = load_job(config, inside_job=inside_job())
    if job.items is None and job.events.dataset is not None:
        from nightrank.batch.inputs import DATASET_ITEMS  # what the night publishes of it

        return DATASET_ITEMS["categories"]
    return None if job.items is None else job.items.categories


def _check_colour(color: str, release: Release, *, job_column: str | None) -> None:
    """DataError where the release has nothing under this name to colour by."""
    if not release.categories:
        raise DataError(
            f"found --color {color}, but release {release.id} has no categories; name their column in "
            "items.categories of the job file and publish again, or leave --color out"
        )
    names = list(dict.fromkeys([CATEGORIES] if job_column is None else [job_column, CATEGORIES]))
    if color not in names:
        raise DataError(
            f"found --color {color}, expected {' or '.join(names)}: a release keeps the titles and the categories "
            "of its items, and the job file says which column the categories come from (items.categories)"
        )
