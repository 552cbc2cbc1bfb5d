"""data check's look at the models that a job names: what of them could not be fitted on its events.

It asks the fits' own conditions (`models.fittable`) of all pairs; a night trains on part of them. It fits nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from nightrank.config.families import Choices, Space, Value, learning
from nightrank.config.job import JobConfig
from nightrank.data.doubts import Doubt, items_without_events, unfittable
from nightrank.data.features import with_features
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata
from nightrank.data.metadata_counts import MetadataCounts
from nightrank.data.report import Outlook
from nightrank.errors import DataError
from nightrank.models.fittable import check_fit

DECISIVE = ("task", "negatives", "ids")  # parameters that decide whether there is anything to learn


def outlook_of(
    job: JobConfig, metadata: Metadata, pairs: Mapping[str, Interactions], counts: MetadataCounts | None
) -> Outlook:
    """For `report_of`. A problem where nothing that the job may fit can be; a doubt where a sweep has trials left.

    The share of the class is by the weights of families of ratings and classes: the last of a pair's events.
    """
    first = next(iter(pairs.values()))
    reasons: dict[str, list[str]] = {}
    n_fitting = 0
    for family, params in _recipes(job):
        (how,) = job.combines([family])
        found = pairs.get(how, first)
        if params.get("ids", "both") != "both":
            found = with_features(found, metadata)
        try:
            check_fit(family, found, params=params, label=job.label_rule)
            n_fitting += 1
        except DataError as error:
            reasons.setdefault(family, []).append(str(error))
    doubts: list[Doubt] = []
    if learning(job.families) and counts is not None and counts.items is not None:
        doubts += items_without_events(counts.items.rows, counts.items.with_events)
    distinct = {family: list(dict.fromkeys(said)) for family, said in reasons.items()}
    rule, weights = job.label_rule, pairs.get("last", first).user_items.data
    share = None if rule is None else float(np.mean(rule.holds(weights)))
    if n_fitting == 0:
        return Outlook(share, doubts, list(itertools.chain.from_iterable(distinct.values())))
    doubts += [unfittable(family, "; ".join(said)) for family, said in distinct.items()]
    return Outlook(share, doubts)


def _recipes(job: JobConfig) -> Iterator[tuple[str, dict[str, Value]]]:
    """Family and decisive parameters of whatever the job may fit; of a range its two ends."""
    if job.train.model is not None:
        yield job.train.model, job.train.params
        return
    for family, space in job.sweep.models.items():
        values = {name: _values(space[name]) for name in DECISIVE if name in space}
        for chosen in itertools.product(*values.values()):
            yield family, dict(zip(values, chosen, strict=True))


def _values(space: Space) -> tuple[Value, ...]:
    return space.values if isinstance(space, Choices) else (space.low, space.high)
