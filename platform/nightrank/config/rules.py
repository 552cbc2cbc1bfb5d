"""Rules such as `weight>=4`: which events count.

A rule compares one column, `weight`, with one finite number. No arithmetic, no `and`; nothing is run as code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": np.greater_equal,
    ">": np.greater,
    "<=": np.less_equal,
    "<": np.less,
    "==": np.equal,
}
_RULE = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<op>>=|<=|==|>|<)\s*(?P<number>[-+.\w]+)\s*")


@dataclass(frozen=True)
class Rule:
    """`weight <op> threshold`."""

    op: str
    threshold: float

    def holds(self, weights: NDArray[Any]) -> NDArray[np.bool_]:
        """Which weights satisfy the rule: bool, the shape of `weights`; NaN never does.

        The threshold is rounded to the array's own precision first, so that 0.1 equals a float32 0.1.
        """
        return np.asarray(_COMPARE[self.op](np.asarray(weights), self.threshold), dtype=np.bool_)

    def __str__(self) -> str:
        number = int(self.threshold) if self.threshold.is_integer() else self.threshold
        return f"weight{self.op}{number!r}"


def parse_rule(text: str) -> Rule:
    """The rule a text stands for. Raises ValueError with what was found and expected."""
    match = _RULE.fullmatch(text)
    expected = f'expected weight, one of {" ".join(_COMPARE)} and a number, for example "weight>=4"'
    if match is None:
        raise ValueError(f'found "{text}", {expected}')
    if match["name"] != "weight":
        raise ValueError(f'found "{text}", which compares `{match["name"]}`; {expected}')
    try:
        threshold = float(match["number"])
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise ValueError(f'found "{text}", where {match["number"]} is no finite number; {expected}')
    return Rule(op=match["op"], threshold=threshold)
