"""What keeps a family from being fitted on given interactions, as far as it shows before the first epoch.

The fits ask it, and so does whoever wants to know before a night: both raise the same errors. It fits nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.config.rules import Rule
from nightrank.data.features import Features, SideFeatures
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import Params


def check_fit(family: str, interactions: Interactions, *, params: Params, label: Rule | None) -> None:
    """Raises the DataError that the fit of a recipe would end with. label: the rule of the classes."""
    if family == "fm" and params["task"] == "rating":
        rating_scale(interactions.user_items.data)
    elif family == "fm" and label is not None:
        classes = label.holds(interactions.user_items.data)
        if not (params["negatives"] and classes.any()):  # negatives are of the other class
            check_classes(classes, rule=label)
    elif family == "hybrid":
        known = interactions.features or SideFeatures()
        for name, features in (("users", known.users), ("items", known.items)):
            if params["ids"] not in ("both", name):
                check_known(features, name=name, ids=str(params["ids"]))


def rating_scale(weights: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of ratings, for fm. Raises DataError where all are the same."""
    low, scale = float(weights.mean(dtype=np.float64)), float(weights.std(dtype=np.float64))
    if scale <= 1e-6 * abs(low):
        raise DataError(
            f"fm with task=rating: all {len(weights)} weights are {low:g}, so there is nothing to predict; use "
            "task=label with negatives above 0, or a family for implicit feedback such as ials"
        )
    return low, scale


def check_classes(classes: NDArray[Any], *, rule: Rule) -> None:
    """Raises DataError where all examples of fm are of one class, 0 or 1."""
    if classes.min() == classes.max():
        raise DataError(
            f"fm with task=label: every one of {len(classes)} pairs has the label {bool(classes[0])} by the rule "
            f"{rule}, so there is nothing to tell apart; use another rule, or negatives above 0"
        )


def check_known(known: Features | None, *, name: str, ids: str) -> None:
    """Raises DataError where a side of hybrid has neither ids nor features. name: users or items."""
    if known is None or known.matrix.shape[1] == 0:
        raise DataError(
            f"hybrid with ids={ids}: found no features of {name}, expected some, since {name} have no vectors of "
            f"their own then; name columns in {name}.features, or use ids=both"
        )
