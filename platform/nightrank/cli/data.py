"""data fetch, synth and check: known data sets, made ones, and what a job's events look like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nightrank.batch.inputs import event_paths, table_paths
from nightrank.cli import synth
from nightrank.cli.data_fits import outlook_of
from nightrank.cli.options import Config, Json, Overrides
from nightrank.config.job import inside_job, load_job
from nightrank.data.datasets import fetch
from nightrank.data.events import read_events
from nightrank.data.metadata import read_metadata
from nightrank.data.metadata_counts import SideCounts
from nightrank.data.report import Report, report_of
from nightrank.errors import DataError
from nightrank.release.store import open_store
from nightrank.release.suppressed import read_suppressed

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


@app.command("check")
def check_command(config: Config, set: Overrides = None, as_json: Json = False) -> None:
    """Read a job's events and features and say what is in them; exit code 2 where training would be meaningless."""
    job = load_job(config, overrides=set or (), inside_job=inside_job())
    suppressed = read_suppressed(open_store(job.store))
    events = suppressed.without(read_events(event_paths(job), **job.events.columns.model_dump()))
    tables = table_paths(job)
    metadata = read_metadata(
        job,
        user_files=tables["users"],
        item_files=tables["items"],
        user_kind=events.user_ids.kind,
        item_kind=events.item_ids.kind,
    )
    report = report_of(
        events,
        job.events,
        how=job.split,
        seed=job.seed,
        defaults=job.combines(job.families),
        has_sweep=job.train.model is None,
        metadata=metadata,
        outlook_of=partial(outlook_of, job, metadata),
    )
    typer.echo(json.dumps(report.as_dict()) if as_json else "\n".join(_lines(report)))
    if report.problems:
        raise DataError("training would be meaningless: " + "; ".join(report.problems))


def _lines(report: Report) -> Iterator[str]:
    counts = report.counts
    yield f"read       {counts.rows:,} rows of {counts.files} file(s), {counts.empty_files} of them empty"
    if counts.suppressed_users > 0:
        yield f"left out   {counts.suppressed_events:,} events of {counts.suppressed_users:,} users who were erased"
    yield (
        f"dropped    {counts.rare_item_events:,} events of {counts.rare_items:,} rare items, "
        f"{counts.rare_user_events:,} of {counts.rare_users:,} rare users; {counts.zero_pairs:,} pairs of weight 0"
    )
    yield f"kept       {report.duplicate_rows:,} rows equal to an earlier one, {counts.zero_weights:,} of weight 0"
    yield (
        f"training   {report.users:,} users x {report.items:,} items, {report.pairs:,} pairs, "
        f"density {report.density:.4%}"
    )
    yield (
        f"test       {report.held_out_pairs:,} pairs of {report.held_out_users:,} users who can be measured; "
        f"{report.unknown_users:,} users have none to train on"
    )
    if report.events_by_type is not None:
        yield "types      " + ", ".join(f"{kind} {n:,}" for kind, n in report.events_by_type.items())
    yield f"weights    of events: {_spread(report.event_weights)}"
    if report.pair_weights is not None:
        yield f"           of pairs:  {_spread(report.pair_weights)}"
    if report.class_share is not None:
        yield f"classes    {report.class_share:.1%} of the pairs are of the class that label names"
    yield f"per user   {_spread(report.events_per_user)} events; {report.single_event_users:.1%} of users have one"
    yield f"per item   {_spread(report.events_per_item)} events; {report.single_event_items:.1%} of items have one"
    if report.first is not None:
        yield f"times      {report.first} to {report.last}, given as {', '.join(counts.time_forms)}"
    if report.metadata is not None:
        yield from _side_lines("users", report.metadata.users)
        yield from _side_lines("items", report.metadata.items)
    for doubt in report.warnings:
        yield f"warning    {doubt.name}: {doubt.text}"


def _side_lines(name: str, side: SideCounts | None) -> Iterator[str]:
    if side is None:
        return
    yield (
        f"{name}      {side.rows:,} rows, {side.without_events:,} of them without events, of which "
        f"{side.nothing_known:,} without a known feature; {side.without_row:,} {name} with events have no row"
    )
    for column in side.columns:
        kind = (
            f"{column.values:,} categories" if column.kind == "categories" else f"{column.values:,} numbers"
        )
        unseen = f", {column.unseen:,} categories without events" if column.unseen else ""
        cut = f", cut in {column.cut:,} rows" if column.cut else ""
        yield f"           {column.name}: {kind}, missing in {column.missing:,} rows{unseen}{cut}"


def _spread(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.6g}" for name, value in numbers.items())
