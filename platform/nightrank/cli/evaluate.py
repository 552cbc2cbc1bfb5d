"""evaluate: fit a model on one file of events and score it against another."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.sparse import csr_matrix

from nightrank.cli.evaluate_input import candidates_of, read_split
from nightrank.cli.evaluate_plan import Plan, plan_of
from nightrank.cli.evaluate_report import check_table, lines_of, report_of, write_users
from nightrank.cli.options import Json
from nightrank.cli.progress import Shown
from nightrank.config.job import inside_job, load_job
from nightrank.config.rules import Rule
from nightrank.data.given import Candidates, pairs_in_both
from nightrank.data.splits import Split
from nightrank.errors import DataError
from nightrank.models import FactorModel, fit
from nightrank.quality.asked import relevant_pairs
from nightrank.quality.evaluation import Evaluation, evaluate
from nightrank.quality.names import MetricSpec

log = logging.getLogger("nightrank")
SAMPLE = 1000  # users whose metric is shown while a fit runs


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    train: Annotated[str, typer.Option("--train", help="Events to fit on: a file, folder or glob.")],
    test: Annotated[str, typer.Option("--test", help="Held-out events, the truth.")],
    model: Annotated[str, typer.Option("--model", help="The model family.")],
    metrics: Annotated[str, typer.Option("--metrics", help="Such as recall@20,ndcg@20.")],
    candidates: Annotated[
        str | None, typer.Option("--candidates", help="The (user, item) rows to rank, in place of all items.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="A job file: columns and rules of events, tables of features."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="name=value, a parameter of the model; repeats.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="The class of auc, logloss, accuracy, and fm: 'weight>=4'."),
    ] = None,
    per_user: Annotated[
        Path | None, typer.Option("--per-user", help="Write each user's metrics: .parquet or .csv.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the job's, else 0.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a model on train, rank for every user of test, and print the metrics with 95% intervals."""
    job = None if config is None else load_job(config, inside_job=inside_job())
    plan = plan_of(job, model=model, params=param or [], metrics=metrics, label=label, seed=seed)
    if per_user is not None:
        check_table(per_user, plan.metrics)
    split = read_split(plan, train, test)
    chosen = None if candidates is None else candidates_of(plan, candidates, split)
    n_both = pairs_in_both(split) if chosen is None else 0
    if n_both:
        log.warning("%d pairs of test are in train, too: lists leave them out, so they are missed", n_both)
    with Shown() as shown:
        fitted, fit_s = _fit(plan, split, chosen, shown=shown)
        started = time.monotonic()
        found = _measure(plan, fitted, split, chosen, metrics=plan.metrics, progress=shown.on_ranked)
        seconds = {"fit": fit_s, "rank": time.monotonic() - started}
    if per_user is not None:
        write_users(per_user, split, found)
    report = report_of(plan.family, plan.params, found=found, split=split, seconds=seconds)
    typer.echo(json.dumps(report) if as_json else "\n".join(lines_of(report)))


def _fit(
    plan: Plan, split: Split, candidates: Candidates | None, *, shown: Shown
) -> tuple[FactorModel, float]:
    """The model and its seconds. On a terminal, progress has the first ranked metric of a sample of users."""
    first = next((spec for spec in plan.metrics if spec.needs_lists), None)
    sample = _sampled(split, plan.relevant)

    def measure(model: FactorModel) -> str:
        if first is None or not sample.truth.nnz:
            return ""
        try:
            found = _measure(plan, model, sample, candidates, metrics=(first,))
        except DataError:  # the sample alone cannot be measured; what is shown never ends a fit
            return ""
        return f"{first} {found.metrics[str(first)].value:.4f}"

    started = time.monotonic()
    model = fit(
        plan.family,
        split.train,
        params=plan.params,
        seed=plan.seed,
        threads=plan.threads,
        label=plan.label,
        on_epoch=partial(shown.on_epoch, measure=measure),
    )
    spent_s = time.monotonic() - started - shown.spent_s
    if not (model.item_vectors.any() or model.item_bias.any()):
        log.warning(
            "every score is 0, so items are ranked by id: do the weights of train differ within a user?"
        )
    return model, spent_s


def _sampled(split: Split, rule: Rule | None) -> Split:
    """The same split with the relevant truth of SAMPLE users at most, evenly spread over those who have one."""
    truth = relevant_pairs(split.truth, rule)
    sizes = np.diff(truth.indptr)
    users = np.flatnonzero(sizes)
    is_chosen = np.zeros(len(sizes), dtype=np.bool_)
    is_chosen[users[np.linspace(0, len(users) - 1, min(len(users), SAMPLE)).astype(np.int64)]] = True
    kept = np.repeat(is_chosen, sizes)
    ends = np.r_[0, np.cumsum(np.where(is_chosen, sizes, 0))]
    return replace(split, truth=csr_matrix((truth.data[kept], truth.indices[kept], ends), shape=truth.shape))


def _measure(
    plan: Plan,
    model: FactorModel,
    split: Split,
    candidates: Candidates | None,
    *,
    metrics: Sequence[MetricSpec],
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    return evaluate(
        model,
        train=split.train.user_items,
        truth=split.truth,
        metrics=metrics,
        rule=plan.label,
        relevant=plan.relevant,
        candidates=None if candidates is None else candidates.rows,
        seed=plan.seed,
        threads=plan.threads,
        progress=progress,
    )
