"""The command line: one Typer application; jobs/ calls the same functions."""

from nightrank.cli.app import main

__all__ = ["main"]
