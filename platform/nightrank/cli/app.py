"""`nightrank`: the commands, and how errors become exit codes.

0 done, 2 bad usage or bad input, 3 refused by a gate, 1 anything else. Results go to stdout, progress and
logs to stderr.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import typer

from nightrank.cli import care, cluster, data, demo, evaluate, keys, night, plot, releases, service
from nightrank.errors import NightrankError

INTERRUPTED = 130

app = typer.Typer(
    name="nightrank",
    help="Exact nightly top-k recommendations on Ray, in Parquet and over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(releases.app, name="releases")
app.add_typer(keys.app, name="keys")
app.add_typer(cluster.app, name="cluster")
app.add_typer(plot.app, name="plot")
night.register(app)
evaluate.register(app)
releases.register(app)
care.register(app, releases.app)
service.register(app)
demo.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `nightrank` command and of jobs/; arguments default to the process's own."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("nightrank").setLevel(logging.INFO)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="nightrank")
    except NightrankError as error:
        typer.echo(f"nightrank: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # Typer's own answer to Ctrl-C, which says nothing
            typer.echo(
                "nightrank: stopped; nothing half done is visible, the same command makes it whole", err=True
            )
        raise
