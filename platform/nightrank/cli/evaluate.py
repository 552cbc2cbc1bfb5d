"""evaluate: fit a model on one file of events and score it against another."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.sparse import csr_matrix

from nightrank.cli.evaluate_report import check_table, lines_of, report_of, write_users
from nightrank.cli.options import Json
from nightrank.cli.progress import Shown
from nightrank.config.events import WeighingConfig
from nightrank.config.families import FAMILIES
from nightrank.config.job import JobConfig, TrainConfig, inside_job, load_job
from nightrank.config.rules import Rule, parse_rule
from nightrank.config.strict import validate
from nightrank.data.events import event_files, read_events
from nightrank.data.formats import find_files
from nightrank.data.given import Candidates, default_columns, given_split, pairs_in_both, read_candidates
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.splits import Split
from nightrank.errors import DataError, SettingsError
from nightrank.models import FactorModel, fit, link_of
from nightrank.quality.asked import check_specs, relevant_pairs
from nightrank.quality.evaluation import Evaluation, evaluate
from nightrank.quality.names import MetricSpec, parse_metrics

log = logging.getLogger("nightrank")
SAMPLE = 1000  # users whose metric is shown while a fit runs


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, checked before any file is read. rules: of train's events."""

    family: str
    params: dict[str, int | float | str]
    metrics: tuple[MetricSpec, ...]
    label: Rule | None
    relevant: Rule | None
    rules: WeighingConfig | None
    seed: int
    threads: int


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
        Path | None, typer.Option("--config", help="A job file: its columns and rules of events.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="name=value, a parameter of the model; repeats.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="The label of auc, logloss, accuracy: 'weight>=4'.")
    ] = None,
    per_user: Annotated[
        Path | None, typer.Option("--per-user", help="Write each user's metrics: .parquet or .csv.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the job's, else 0.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a model on train, rank for every user of test, and print the metrics with 95% intervals."""
    job = None if config is None else load_job(config, inside_job=inside_job())
    plan = _plan(job, model=model, params=param or [], metrics=metrics, label=label, seed=seed)
    if per_user is not None:
        check_table(per_user, plan.metrics)
    split = _read(plan, train, test)
    chosen = None if candidates is None else _read_candidates(plan, candidates, split)
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


def _plan(
    job: JobConfig | None,
    *,
    model: str,
    params: Sequence[str],
    metrics: str,
    label: str | None,
    seed: int | None,
) -> Plan:
    """Raises SettingsError for whatever cannot be meant."""
    recipe = validate(TrainConfig, {"model": model, "params": _parameters(params)}, source="evaluate")
    try:
        specs = parse_metrics(metrics)
        rule = None if label is None else parse_rule(label)
    except ValueError as error:
        raise SettingsError(f"evaluate: {error}") from None
    check_specs(specs, rule=rule, link=link_of(model, recipe.params))
    if rule is not None and not any(spec.needs_rule for spec in specs):
        raise SettingsError(
            f'evaluate: --label "{rule}" makes labels, and none of {metrics} looks at labels; which pairs are '
            "relevant in a ranking is for objective.relevant of a job file to say (--config)"
        )
    return Plan(
        family=model,
        params=recipe.params,
        metrics=specs,
        label=rule,
        relevant=None if job is None else job.objective.rule,
        rules=None if job is None else job.events,
        seed=seed if seed is not None else 0 if job is None else job.seed,
        threads=len(os.sched_getaffinity(0)),
    )


def _parameters(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or name in found:
            twice = " once for each parameter" if name in found else ""
            raise SettingsError(f'evaluate: --param "{text}": expected name=value{twice}, such as factors=64')
        found[name] = _number(value)
    return found


def _number(text: str) -> Any:
    """A whole number, a number, or the text as it is; not by YAML, to which 1e-3 is a text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read(plan: Plan, train: str, test: str) -> Split:
    """Train by all the rules; of test every event counts, by its weight and type alone."""
    default = FAMILIES[plan.family].combine
    files = event_files(train)
    rules = plan.rules or WeighingConfig(columns=default_columns(files))
    seen = interactions_of(read_events(files, **rules.columns.model_dump()), rules, default=default)
    if seen.n_zero_pairs:
        log.warning("%d pairs of train have weight 0: they say nothing, and are left out", seen.n_zero_pairs)
    return given_split(seen, _truth(plan, event_files(test), default=default))


def _truth(plan: Plan, files: Sequence[Path], *, default: str) -> Interactions:
    """The events of test, pairs of weight 0 among them. Raises DataError where a metric lacks weights to compare."""
    if plan.rules is None:
        rules = WeighingConfig(columns=default_columns(files))
    else:
        whole = {"half_life_days": None, "min_events_per_user": 1, "min_events_per_item": 1}
        rules = plan.rules.model_copy(update=whole)
    wanted = [str(spec) for spec in plan.metrics if spec.kind in ("values", "labels")]
    if wanted and rules.columns.weight is None and not rules.type_weights:
        raise DataError(
            f"test: {', '.join(wanted)} compare predictions with weights, and {files[0]} has no column of weights; "
            "add a column `weight`, or name it in the events.columns of a job file and give that with --config"
        )
    events = read_events(files, **rules.columns.model_dump())
    return interactions_of(events, rules, default=default, keep_zeros=True)


def _read_candidates(plan: Plan, path: str, split: Split) -> Candidates:
    columns = WeighingConfig().columns if plan.rules is None else plan.rules.columns
    files = find_files(path, what="candidates")
    found = read_candidates(files, user=columns.user, item=columns.item, train=split.train)
    if found.n_unknown_users or found.n_unknown_items:
        log.warning(
            "candidates: %d rows of users and %d rows of items that train does not know are left out",
            found.n_unknown_users,
            found.n_unknown_items,
        )
    counted = np.diff(relevant_pairs(split.truth, plan.relevant).indptr) > 0
    without = np.flatnonzero(counted & (np.diff(found.rows.indptr) == 0))
    if len(without):
        raise DataError(
            f"candidates: {len(without)} users of test have no candidate that train knows, the first is "
            f"{split.train.user_ids[int(without[0])]!r}; list some for every user of test, or leave those users out"
        )
    return found


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
