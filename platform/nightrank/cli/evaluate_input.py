"""What `nightrank evaluate` reads: train, test and candidates, and the features that a job file names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nightrank.batch.inputs import table_paths
from nightrank.cli.evaluate_plan import Plan
from nightrank.config.events import WeighingConfig
from nightrank.config.families import FAMILIES, learning
from nightrank.data.events import event_files, read_events
from nightrank.data.formats import find_files
from nightrank.data.given import Candidates, default_columns, given_split, read_candidates
from nightrank.data.interactions import Interactions, interactions_of
from nightrank.data.metadata import read_metadata
from nightrank.data.splits import Split, featured
from nightrank.errors import DataError
from nightrank.quality.asked import relevant_pairs

log = logging.getLogger("nightrank")


def read_split(plan: Plan, train: str, test: str) -> Split:
    """Train by all the rules; of test every event counts, by its weight and type alone.

    For a family that learns from features, with those that the job names, and with the items of its table.
    """
    default = FAMILIES[plan.family].combine
    files = event_files(train)
    rules = plan.rules or WeighingConfig(columns=default_columns(files))
    seen = interactions_of(read_events(files, **rules.columns.model_dump()), rules, default=default)
    if seen.n_zero_pairs:
        log.warning("%d pairs of train have weight 0: they say nothing, and are left out", seen.n_zero_pairs)
    split = given_split(seen, _truth(plan, event_files(test), default=default))
    if plan.job is None or not learning([plan.family]):
        return split
    tables = table_paths(plan.job)
    kinds = {"user_kind": seen.user_ids.kind, "item_kind": seen.item_ids.kind}
    found = read_metadata(plan.job, user_files=tables["users"], item_files=tables["items"], **kinds)
    return featured(split, found)


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


def candidates_of(plan: Plan, path: str, split: Split) -> Candidates:
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
