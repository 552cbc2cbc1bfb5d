"""The model families of this version and their parameters, as data.

One table for everybody: the job file is checked against it, `models/` takes what it says, and a sweep with
an empty space (`als: {}`) searches the space given here. Those spaces are generic: wide enough for most
event tables, tuned on none. A family that is not in the table does not exist in this version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Number = int | float
Value = int | float | str


@dataclass(frozen=True)
class Choices:
    """One of a few values; a single one is a fixed parameter."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers if both ends are, uniform in the logarithm if `log`."""

    low: Number
    high: Number
    log: bool = False


Space = Choices | Range


@dataclass(frozen=True)
class Param:
    """One parameter: its type, bounds and default, and the family's own search space for it.

    only_with: another parameter and its word, without which nothing but the default means anything.
    """

    kind: type[int] | type[float]
    minimum: Number
    default: Number
    space: Space
    minimum_allowed: bool = True
    maximum: Number | None = None
    only_with: tuple[str, str] | None = None

    def problem(self, value: object) -> str | None:
        """What was expected, where a value cannot be this parameter; None where it can."""
        kinds = (int,) if self.kind is int else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
            return f"expected {self.expected()}"
        below = value < self.minimum or (value == self.minimum and not self.minimum_allowed)
        above = self.maximum is not None and value > self.maximum
        return f"expected {self.expected()}" if below or above else None

    def expected(self) -> str:
        """The type and bounds in words."""
        noun = "a whole number" if self.kind is int else "a number"
        floor = f"{'at least' if self.minimum_allowed else 'more than'} {self.minimum}"
        return f"{noun}, {floor}" + ("" if self.maximum is None else f", at most {self.maximum}")


@dataclass(frozen=True)
class Word:
    """A parameter that is one of a few words: its default, and the family's own search space for it."""

    words: tuple[str, ...]
    default: str
    space: Choices
    kind: type[str] = str

    def problem(self, value: object) -> str | None:
        """What was expected, where a value cannot be this parameter; None where it can."""
        return None if value in self.words else f"expected {self.expected()}"

    def expected(self) -> str:
        """The words."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"


@dataclass(frozen=True)
class Family:
    """A model family; `searchable` if a sweep may try it.

    combine: what repeated pairs combine by where a job says nothing: sum (they are counts) or last (ratings).
    uses_features: learns from the features of users and items, so its catalogue has the rows of `items` too.
    """

    params: Mapping[str, Param | Word]
    searchable: bool = True
    combine: str = "sum"
    uses_features: bool = False

    def defaults(self) -> dict[str, Value]:
        """Every parameter's default."""
        return {name: param.default for name, param in self.params.items()}

    def own_space(self) -> dict[str, Space]:
        """What a sweep searches where the job file says nothing else."""
        return {name: param.space for name, param in self.params.items()}


_ALS = Family(
    MappingProxyType(
        {
            # Length of the vectors. `implicit` defaults to 100; 64 costs half and rarely ranks worse.
            "factors": Param(int, 1, 64, Choices((16, 32, 64, 96, 128)), maximum=4096),
            # L2 regularisation, as in Hu, Koren, Volinsky (2008); the default is `implicit`'s.
            "reg": Param(float, 0.0, 0.01, Range(1e-3, 1.0, log=True)),
            # Confidence per unit of weight: 1 + alpha * weight in the paper, alpha * weight in `implicit`.
            "alpha": Param(float, 0.0, 1.0, Range(1.0, 40.0, log=True), minimum_allowed=False),
            # Alternations over users and items; the default is `implicit`'s.
            "epochs": Param(int, 1, 15, Choices((10, 15, 20)), maximum=1000),
        }
    )
)

# Rendle, Krichene, Zhang, Koren (RecSys 2022) publish what they found best on four data sets: reg 0.002 to 0.02,
# unobserved_weight 0.007 to 0.3, nu 1, 12 to 16 epochs. The defaults are those of MovieLens 20M, the spaces lie
# around them.
_IALS = Family(
    MappingProxyType(
        {
            # Quality goes on rising with it on large data; cost grows somewhat faster than in proportion.
            "factors": Param(int, 1, 128, Choices((32, 64, 128, 256)), maximum=4096),
            # L2 regularisation, of each row times its frequency ** nu. Above 0: every solve needs it.
            "reg": Param(float, 0.0, 0.003, Range(1e-4, 1e-1, log=True), minimum_allowed=False),
            # What a pair without an interaction weighs, where one of weight 1 weighs 1.
            "unobserved_weight": Param(float, 0.0, 0.1, Range(0.003, 1.0, log=True), minimum_allowed=False),
            # 0: the same reg for every row. The space of reg is meant for 1.
            "nu": Param(float, 0.0, 1.0, Choices((1.0,)), maximum=1.0),
            # Sweeps over users and items.
            "epochs": Param(int, 1, 16, Choices((8, 16)), maximum=1000),
        }
    )
)

_BPR = Family(
    MappingProxyType(
        {
            # Length of the vectors, without the item's bias. `implicit` defaults to 100.
            "factors": Param(int, 1, 64, Choices((16, 32, 64, 96, 128)), maximum=4096),
            # L2 regularisation of a step; the default is `implicit`'s.
            "reg": Param(float, 0.0, 0.01, Range(1e-4, 1e-1, log=True)),
            # Of stochastic gradient descent, constant; the default is `implicit`'s.
            "learning_rate": Param(float, 0.0, 0.01, Range(3e-3, 1e-1, log=True), minimum_allowed=False),
            # One draws as many pairs as there are; the default is `implicit`'s.
            "epochs": Param(int, 1, 100, Choices((50, 100, 200)), maximum=10_000),
        }
    )
)

# Where nothing else is said, the defaults are those of LightFM, or of its examples.
_HYBRID = Family(
    MappingProxyType(
        {
            # Length of the vectors, without the item's bias; as bpr's. LightFM defaults to 10.
            "factors": Param(int, 1, 64, Choices((16, 32, 64, 96, 128)), maximum=4096),
            # L2 regularisation of a step, whose pull is at most 1; LightFM has none. Measured 2026-11 on six logs of
            # 9,000 to 80,000 pairs, by precision@5: of 0.003 to 0.1 warp is best about 0.05; bpr, whose pull fades as
            # pairs come apart, at 0.01 or less, as the family bpr. The default lies between.
            "reg": Param(float, 0.0, 0.03, Range(1e-3, 2e-1, log=True)),
            # Of adaptive steps (AdaGrad), constant.
            "learning_rate": Param(float, 0.0, 0.05, Range(1e-2, 2e-1, log=True), minimum_allowed=False),
            # One draws as many pairs as there are.
            "epochs": Param(int, 1, 30, Choices((15, 30, 60)), maximum=10_000),
            # warp looks at the top of a list, bpr at all of it.
            "loss": Word(("bpr", "warp"), "warp", Choices(("bpr", "warp"))),
            # Whose rows have a feature of their own. Without, metadata alone says who or what they are.
            "ids": Word(("both", "items", "users", "none"), "both", Choices(("both",))),
        }
    ),
    uses_features=True,
)

_LMF = Family(
    MappingProxyType(
        {
            # Length of the vectors, without the two biases; the default is `implicit`'s.
            "factors": Param(int, 1, 30, Choices((16, 32, 64, 96)), maximum=4096),
            # L2 regularisation of a row; the default is `implicit`'s.
            "reg": Param(float, 0.0, 0.6, Range(0.1, 10.0, log=True)),
            # Of adaptive steps (AdaGrad), whose length it is at the start; the default is `implicit`'s.
            "learning_rate": Param(float, 0.0, 1.0, Range(0.1, 2.0, log=True), minimum_allowed=False),
            # Steps over users and items; the default is `implicit`'s.
            "epochs": Param(int, 1, 30, Choices((15, 30, 60)), maximum=10_000),
        }
    )
)

# 10 to 200 covers what is published for ratings (Sarwar et al. 2000 found 14 best on MovieLens); more fits the noise.
_SVD = Family(
    MappingProxyType(
        {"factors": Param(int, 1, 50, Choices((10, 20, 50, 100, 200)), maximum=4096)},
    ),
    combine="last",
)

# Priors and rates are learned (models/fm_member), so the defaults are those of no data set.
_FM = Family(
    MappingProxyType(
        {
            # Length of the vectors, shared by up to 8 members of 16 or more.
            "factors": Param(int, 1, 64, Choices((32, 64, 128)), maximum=4096),
            # L2 regularisation on top of the priors that are learned; ratings are standardised.
            "reg": Param(float, 0.0, 0.0, Choices((0.0, 0.3, 1.0))),
            # The part of the way to its optimum that a coordinate goes in the first epoch, doubled with every epoch.
            "learning_rate": Param(float, 0.0, 0.1, Choices((0.1,)), minimum_allowed=False, maximum=1.0),
            # Rounds over all coordinates.
            "epochs": Param(int, 1, 30, Choices((20, 30)), maximum=10_000),
            # A rating, or the probability of the class that the job's `label` makes of the weight.
            "task": Word(("rating", "label"), "rating", Choices(("rating",))),
            # Of task label: pairs nobody has, drawn for each pair, as examples of what is not of the class.
            "negatives": Param(int, 0, 0, Choices((0,)), maximum=100, only_with=("task", "label")),
        }
    ),
    combine="last",
    uses_features=True,
)

# The oracle for metrics of values, as popularity is for rankings.
_MEAN = Family(
    MappingProxyType(
        {
            # Whether it predicts a weight, or the probability of a class that the job's `label` makes of it.
            "task": Word(("rating", "label"), "rating", Choices(("rating",))),
        }
    ),
    searchable=False,
    combine="last",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "als": _ALS,
        "bpr": _BPR,
        "fm": _FM,
        "hybrid": _HYBRID,
        "ials": _IALS,
        "lmf": _LMF,
        "mean": _MEAN,
        "popularity": Family(MappingProxyType({}), searchable=False),
        "svd": _SVD,
    }
)

# The families that a sweep does not search: what its trials are held against.
BASELINES = frozenset(name for name, family in FAMILIES.items() if not family.searchable)

Link = Literal["none", "identity", "logistic"]
# By family and task; the link is `none` where they are not here.
LINKS: Mapping[tuple[str, object], Link] = MappingProxyType(
    {
        ("fm", "label"): "logistic",
        ("fm", "rating"): "identity",
        ("mean", "label"): "logistic",
        ("mean", "rating"): "identity",
        ("svd", None): "identity",
    }
)


def learning(families: Iterable[str]) -> tuple[str, ...]:
    """Those of the families that learn from the features of users and items."""
    return tuple(name for name in families if FAMILIES[name].uses_features)


def combines(families: Iterable[str]) -> tuple[str, ...]:
    """The distinct defaults of `combine` of these families, sum first.

    A baseline takes what the others do, so that it is held against them on the same weights, and alone its own.
    """
    names = set(families)
    found = {FAMILIES[name].combine for name in (names - BASELINES) or names} or {"sum"}
    return tuple(how for how in ("sum", "last") if how in found)
