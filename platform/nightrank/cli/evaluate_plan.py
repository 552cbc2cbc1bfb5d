"""What `nightrank evaluate` is asked, checked before any file is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nightrank.config.events import WeighingConfig
from nightrank.config.job import JobConfig, TrainConfig
from nightrank.config.rules import Rule, parse_rule
from nightrank.config.strict import validate
from nightrank.errors import SettingsError
from nightrank.models import link_of
from nightrank.quality.asked import check_specs
from nightrank.quality.names import MetricSpec, parse_metrics


@dataclass(frozen=True)
class Plan:
    """What the command line asks for, checked before any file is read.

    job: what --config names, for the features of users and items. rules: of train's events. label: the class rule of
    metrics, and of a model that learns classes.
    """

    family: str
    params: dict[str, int | float | str]
    metrics: tuple[MetricSpec, ...]
    label: Rule | None
    relevant: Rule | None
    rules: WeighingConfig | None
    job: JobConfig | None
    seed: int
    threads: int


def plan_of(
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
        rule = parse_rule(label) if label is not None else None if job is None else job.label_rule
    except ValueError as error:
        raise SettingsError(f"evaluate: {error}") from None
    check_specs(specs, rule=rule, link=link_of(model, recipe.params))
    learns_classes = recipe.params.get("task") == "label"
    if learns_classes and rule is None:
        raise SettingsError(
            f"evaluate: {model} with task label learns a class, and nothing says which weights are of it; give the "
            'rule, such as --label "weight>=4"'
        )
    if label is not None and not learns_classes and not any(spec.needs_rule for spec in specs):
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
        job=job,
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
