"""data synth: events that are made, a shop's log or as many as one likes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.data.synth_retail import RetailRecipe, make_retail
from nightrank.data.synth_scale import ScaleRecipe, make_scale

app = typer.Typer(help="Events that are made, the same for the same seed.", no_args_is_help=True)

Users = Annotated[int, typer.Option("--users", help="How many users.")]
Items = Annotated[int, typer.Option("--items", help="How many items.")]
Events = Annotated[int, typer.Option("--events", help="How many events, exactly.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same numbers: the same bytes.")]


@app.callback()
def group() -> None:
    """Events that are made, the same for the same seed."""


@app.command("retail")
def retail(
    users: Users,
    items: Items,
    events: Events,
    out: Annotated[Path, typer.Option("--out", help="The folder for events, users and items .parquet.")],
    seed: Seed = 0,
) -> None:
    """Make a shop's log: views, carts, checkouts and purchases, with users and items."""
    for path in make_retail(out, RetailRecipe(users=users, items=items, events=events, seed=seed)):
        typer.echo(path)


@app.command("scale")
def scale(
    users: Users,
    items: Items,
    events: Events,
    out: Annotated[Path, typer.Option("--out", help="The folder; the files go into its subfolder events.")],
    seed: Seed = 0,
    rank: Annotated[int, typer.Option("--rank", help="How many topics the users' taste has.")] = 16,
    weights: Annotated[bool, typer.Option("--weights", help="Write a column weight, too.")] = False,
) -> None:
    """Make events of any size, in bounded memory."""
    recipe = ScaleRecipe(users=users, items=items, events=events, seed=seed, rank=rank, weights=weights)
    typer.echo(make_scale(out, recipe))
