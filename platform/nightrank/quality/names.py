"""The metrics by name: which there are, which need a cut-off k or a label rule, and how a list of them is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nightrank.config.problems import nearest

Kind = Literal["ranked", "exposure", "order", "values", "labels"]

# ranked, exposure: of the first k, so named with @k; exposure looks at the lists alone. order: of the whole order.
# values: of predictions on the scale of the weights. labels: of predictions against labels, which a rule makes.
KINDS: dict[str, Kind] = {
    "ndcg": "ranked",
    "recall": "ranked",
    "map": "ranked",
    "precision": "ranked",
    "hr": "ranked",
    "mrr": "ranked",
    "coverage": "exposure",
    "gini": "exposure",
    "novelty": "exposure",
    "mean_popularity": "exposure",
    "rank_auc": "order",
    "rmse": "values",
    "mae": "values",
    "auc": "labels",
    "logloss": "labels",
    "accuracy": "labels",
}
LOSSES = ("rmse", "mae", "logloss")  # smaller is better
MAX_K = 10_000  # lists are made for thousands of users at a time
_SHAPE = re.compile(r"(?P<name>[^@]*)(@(?P<k>.*))?", re.DOTALL)
_EXPECTED = 'expected names such as "recall@20,ndcg@20,rmse"'


@dataclass(frozen=True)
class MetricSpec:
    """A metric as it was asked for; k is None where it has none."""

    name: str
    k: int | None = None

    @property
    def kind(self) -> Kind:
        """What it is computed from."""
        return KINDS[self.name]

    @property
    def needs_rule(self) -> bool:
        """Does it need a rule that makes labels of weights?"""
        return self.kind == "labels"

    @property
    def needs_lists(self) -> bool:
        """Is it computed from the first k?"""
        return self.kind in ("ranked", "exposure")

    @property
    def has_users(self) -> bool:
        """Has each user a value of their own?"""
        return self.kind != "labels" and self.name not in ("coverage", "gini")

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


def parse_metrics(text: str) -> tuple[MetricSpec, ...]:
    """The metrics of a list such as `recall@20,ndcg@20,rmse`, in its order; blanks around a name are dropped.

    Raises ValueError, with what was found and expected, for an unknown name (with the nearest known one), a k that is
    missing, out of place or no whole number >= 1, the same metric twice, or an empty list.
    """
    specs: list[MetricSpec] = []
    for part in text.split(","):
        spec = _parsed(part.strip(), text)
        if spec in specs:
            raise ValueError(f'found {spec} twice in "{text}", expected every metric once')
        specs.append(spec)
    return tuple(specs)


def is_loss(metric: str) -> bool:
    """Is a smaller value of this metric (`rmse`, `ndcg@10`) the better one?"""
    return metric in LOSSES


def signed(value: float, *, metric: str) -> float:
    """A value of the metric so that larger is better."""
    return -value if is_loss(metric) else value


def largest_k(specs: Sequence[MetricSpec]) -> int:
    """The longest lists that any of them looks at; 0 where none looks at lists."""
    return max((spec.k for spec in specs if spec.k is not None), default=0)


def _parsed(part: str, text: str) -> MetricSpec:
    match = _SHAPE.fullmatch(part)
    name, given = (part, None) if match is None else (match["name"].strip(), match["k"])
    if name == "":
        raise ValueError(f'found a metric without a name in "{text}", {_EXPECTED}')
    if name not in KINDS:
        raise ValueError(f'found "{part}", which is no metric; {nearest(name, KINDS)}')
    if not MetricSpec(name).needs_lists:
        if given is not None:
            raise ValueError(f'found "{part}", expected {name} without @k: it does not look at the first k')
        return MetricSpec(name)
    if given is None:
        raise ValueError(
            f'found "{part}" without a cut-off, expected {name}@k with k >= 1, such as {name}@20'
        )
    if re.fullmatch("[0-9]{1,9}", given.strip(), re.ASCII) is None or not 1 <= int(given) <= MAX_K:
        raise ValueError(
            f'found "{part}", expected {name}@k with a whole number k from 1 to {MAX_K:,}, such as {name}@20'
        )
    return MetricSpec(name, int(given))
