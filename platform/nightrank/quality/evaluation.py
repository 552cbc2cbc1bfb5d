"""Evaluation: a model against held-out pairs, by any metrics, each user ranked and each pair predicted once.

Ranked is the whole catalogue less what train has seen, unless the caller hands over candidates: then exactly those,
and nothing is left out for having been seen. Nothing is ever sampled here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.rules import Rule
from nightrank.data.grouping import occurrences
from nightrank.data.splits import Split
from nightrank.models import FactorModel
from nightrank.quality.asked import (
    Held,
    check_shapes,
    check_specs,
    checked_candidates,
    distinct,
    held_out,
    relevant_pairs,
)
from nightrank.quality.exposure import coverage, exposure, gini, mean_popularity, novelty
from nightrank.quality.intervals import Estimate, UserSums, estimates
from nightrank.quality.lists import Lists
from nightrank.quality.metrics import METRICS
from nightrank.quality.names import MetricSpec, largest_k
from nightrank.quality.values import error_sums, held_out_pairs, label_value
from nightrank.ranking import ItemIndex, TopK

Values = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """metrics: by name as asked (`recall@20`), in that order. n_counted: users with a held-out pair that some metric
    counts; n_without_truth: the others. per_user: the metrics that a single user has, float64 (n_users,), NaN for
    users in whom they are not defined."""

    metrics: dict[str, Estimate]
    n_counted: int
    n_without_truth: int
    per_user: dict[str, Values]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: {"metrics": {name: {"value", "low", "high"}}, "users": {"counted", "without_truth"}}."""
        return {
            "metrics": {name: estimate.as_dict() for name, estimate in self.metrics.items()},
            "users": {"counted": self.n_counted, "without_truth": self.n_without_truth},
        }


def evaluate(  # noqa: PLR0913  one name for everything that `nightrank evaluate` can be asked
    model: FactorModel,
    *,
    train: csr_matrix,
    truth: csr_matrix,
    metrics: Sequence[MetricSpec],
    rule: Rule | None = None,
    relevant: Rule | None = None,
    candidates: csr_matrix | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The metrics of a model on held-out pairs, with 95% bootstrap intervals over users.

    train: CSR (n_users, n_items), what the model was fitted on; stored cells are seen, and are left out of rankings.
    truth: CSR (n_users, n_items + n_new) of held-out weights, no pair twice; items at and beyond n_items are unknown
    to the model: missed in rankings, predicted by the user's offset alone.
    metrics: as of `parse_metrics`. rule: makes labels of weights, for auc, logloss and accuracy. relevant: which
    held-out pairs are relevant in rankings, by weight; None: all. It does not touch the metrics of values.
    candidates: CSR (n_users, n_items), stored cells count, whatever their value. Exactly those are ranked then, items
    of train among them too; one that is listed twice counts once. seed: of the bootstrap. threads: None for the CPUs
    of this process. progress: called with users ranked so far, and how many there will be.

    Users without relevant pairs are not ranked, so coverage and gini are of the lists of those who have some. Lists
    are ranked once, for the largest k. Intervals are None for coverage, gini, auc, logloss and accuracy, which are no
    means over users here. Memory: some columns per user and metric; nothing of users x items.

    Raises SettingsError for a metric that the model or the missing rule does not allow; DataError for shapes that do
    not fit, no users to count, a counted user without any candidate, or candidates without any held-out item.
    """
    check_specs(metrics, rule=rule, link=model.link)
    check_shapes(model, train=train, truth=truth)
    held, train = held_out(truth, specs=metrics, relevant=relevant), distinct(train, name="train")
    if candidates is not None:
        candidates = checked_candidates(candidates, held=held, n_items=train.shape[1])
    columns, totals = _of_values(model, metrics, held=held, rule=rule)
    if len(held.ranked):
        lists = Lists(
            index=ItemIndex(model.item_vectors, model.item_bias, threads=threads),
            user_vectors=model.user_vectors,
            users=held.ranked,
            seen=train,
            candidates=candidates,
        )
        step = _steps(metrics, n_users=len(held.ranked), progress=progress)
        shown = _Shown(
            item_users=occurrences(train.indices, train.shape[1]), n_users=train.shape[0], truth=held.relevant
        )
        more, exposed = _of_lists(lists, metrics, shown=shown, step=step)
        columns, totals = columns | more | _of_orders(lists, metrics, held=held, step=step), totals | exposed
    found = estimates(columns, held.users, seed=seed) | {name: Estimate(x) for name, x in totals.items()}
    return Evaluation(
        metrics={str(spec): found[str(spec)] for spec in metrics},
        n_counted=len(held.users),
        n_without_truth=train.shape[0] - len(held.users),
        per_user={str(spec): columns[str(spec)].values() for spec in metrics if str(spec) in columns},
    )


def relevant_truth(split: Split, rule: Rule | None) -> csr_matrix:
    """The held-out pairs of a split that count, see `relevant_pairs`."""
    return relevant_pairs(split.truth, rule)


def per_user(
    model: FactorModel, split: Split, *, metric: str, k: int, truth: csr_matrix, threads: int
) -> Values:
    """metric@k of every user of the split, float64 (n_train_users,), NaN for users without truth."""
    lists = Lists(
        index=ItemIndex(model.item_vectors, model.item_bias, threads=threads),
        user_vectors=model.user_vectors,
        users=np.flatnonzero(np.diff(truth.indptr)),
        seen=split.train.user_items,
    )
    values = np.full(len(model.user_vectors), np.nan)
    for users, topk in lists.top_k(k):
        values[users] = METRICS[metric](topk, truth[users])
    return values


@dataclass(frozen=True)
class _Shown:
    """What lists are held against. item_users: int64 (n_items,), train users of each item. truth: the relevant."""

    item_users: NDArray[np.int64]
    n_users: int
    truth: csr_matrix

    def values(self, spec: MetricSpec, topk: TopK, users: NDArray[np.int64]) -> Values:
        """A metric of each of these users' lists."""
        if spec.name == "novelty":
            return novelty(topk, self.item_users, n_train_users=self.n_users)
        if spec.name == "mean_popularity":
            return mean_popularity(topk, self.item_users)
        return METRICS[spec.name](topk, self.truth[users])


_OF_ALL_LISTS = {"coverage": coverage, "gini": gini}


def _of_lists(
    lists: Lists, specs: Sequence[MetricSpec], *, shown: _Shown, step: Callable[[int], None]
) -> tuple[dict[str, UserSums], dict[str, float]]:
    """Every metric of the first k, by user and of all lists together, from one ranking for the largest k."""
    wanted = [spec for spec in specs if spec.needs_lists]
    if not wanted:
        return {}, {}
    n_items = len(shown.item_users)
    values = {spec: np.full(shown.n_users, np.nan) for spec in wanted if spec.name not in _OF_ALL_LISTS}
    exposed = {spec.k: np.zeros(n_items, np.int64) for spec in wanted if spec.name in _OF_ALL_LISTS}
    for users, topk in lists.top_k(largest_k(wanted)):
        for spec, column in values.items():
            column[users] = shown.values(spec, topk.cut(spec.k or 0), users)
        for k, counts in exposed.items():
            counts += exposure(topk.cut(k or 0), n_items)
        step(len(users))
    totals = {spec: _OF_ALL_LISTS[spec.name](exposed[spec.k]) for spec in wanted if spec not in values}
    return (
        {str(spec): UserSums.of_values(column) for spec, column in values.items()},
        {str(spec): total for spec, total in totals.items()},
    )


def _of_orders(
    lists: Lists, specs: Sequence[MetricSpec], *, held: Held, step: Callable[[int], None]
) -> dict[str, UserSums]:
    """The metrics of the whole order."""
    if not any(spec.kind == "order" for spec in specs):
        return {}
    values = np.full(len(lists.user_vectors), np.nan)
    for users, found in lists.rank_auc(held.relevant):
        values[users] = found
        step(len(users))
    return {"rank_auc": UserSums.of_values(values)}


def _of_values(
    model: FactorModel, specs: Sequence[MetricSpec], *, held: Held, rule: Rule | None
) -> tuple[dict[str, UserSums], dict[str, float]]:
    """The metrics of predictions of the held-out pairs, by user and of all pairs together."""
    wanted = {spec.name for spec in specs if spec.kind in ("values", "labels")}
    if not wanted:
        return {}, {}
    pairs = held_out_pairs(model, held.pairs)
    squared, absolute, counts = error_sums(pairs, n_users=len(model.user_vectors))
    columns = {"rmse": UserSums(squared, counts, is_root=True), "mae": UserSums(absolute, counts)}
    totals = {}
    if rule is not None:
        totals = {
            name: label_value(name, pairs, rule=rule, link=model.link) for name in wanted - columns.keys()
        }
    return {name: column for name, column in columns.items() if name in wanted}, totals


def _steps(specs: Sequence[MetricSpec], *, n_users: int, progress: Progress | None) -> Callable[[int], None]:
    """Counts users through all rankings, and tells `progress` how many are done of how many."""
    n_passes = any(spec.needs_lists for spec in specs) + any(spec.kind == "order" for spec in specs)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, n_passes * n_users)

    return step
