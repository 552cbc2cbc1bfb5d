"""data fetch: known data sets; data synth: made ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.cli import synth
from nightrank.data.datasets import fetch

app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(synth.app, name="synth")


@app.callback()
def group() -> None:
    """Data sets."""


@app.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="movielens-100k")],
    out: Annotated[Path, typer.Option("--out", help="The folder for events, items and users .parquet.")],
) -> None:
    """Fetch a known data set where it is missing, and check its digest."""
    for path in fetch(name, out):
        typer.echo(path)
