"""keys add | revoke | list: the API keys of the service. A key is printed once, alone on stdout, where it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.config.locations import nightrank_home
from nightrank.service.key_file import Role, add, listed, revoke

app = typer.Typer(help="API keys of the service.", no_args_is_help=True)

KeyFile = Annotated[
    Path | None,
    typer.Option("--file", help="Default: args.keys of serve_config.yaml, else $NIGHTRANK_HOME/keys.json."),
]


@app.command("add")
def add_command(
    role: Annotated[Role, typer.Option(help="read: answers. admin: also activates releases, runs jobs.")],
    name: Annotated[str, typer.Option(help="Whom or what it is for; shown by list.")] = "",
    file: KeyFile = None,
) -> None:
    """Make a key and print it on stdout, this once; only its digest is kept."""
    path, is_named = _chosen(file)
    record, key = add(path, role=role, name=name)
    typer.echo(key)
    typer.echo(f"added {record.id} ({record.role}) to {path}; the key is not shown again", err=True)
    if not is_named:
        typer.echo(f"serve_config.yaml does not name this file yet: write args.keys: {path}", err=True)


@app.command("revoke")
def revoke_command(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="An id, as list shows it.")],
    file: KeyFile = None,
) -> None:
    """Take a key back; services refuse it within seconds, without a restart."""
    path, _ = _chosen(file)
    record = revoke(path, key_id)
    typer.echo(f"revoked {record.id} ({record.role}) in {path}", err=True)


@app.command("list")
def list_command(file: KeyFile = None) -> None:
    """Id, role, time and name of every key, oldest first; never a key."""
    path, _ = _chosen(file)
    records = listed(path)
    for one in records:
        typer.echo(f"{one.id}  {one.role:5}  {one.created}  {one.name}".rstrip())
    if not records:
        typer.echo(f"{path} holds no key", err=True)


def _chosen(file: Path | None) -> tuple[Path, bool]:
    """The key file that is meant, and whether the caller or serve_config.yaml names it."""
    if file is not None:
        return file.expanduser().absolute(), True
    from nightrank.service.serve_config import (
        read_serve_config,  # brings Ray's schema in, which takes a second
    )

    named = read_serve_config().args.keys
    return (nightrank_home() / "keys.json", False) if named is None else (Path(named), True)
