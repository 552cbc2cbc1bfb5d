"""The one law: every model ends as vectors and a bias, score = u . v + item_bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.config.families import Link as Link  # part of what a model is
from nightrank.data.features import FeatureColumn, encoded
from nightrank.errors import DataError

Params = Mapping[str, int | float | str]
ARRAYS = ("user_vectors", "item_vectors", "item_bias", "user_offset")
CURE = "use a larger reg, a smaller learning_rate or smaller weights (alpha)"


@dataclass(frozen=True)
class FeatureVectors:
    """Vectors of the users' features, for who is in no event: a new user is the sum of their features' vectors.

    columns: what the features are, in their order. vectors: float32 (n_features, d), finite.
    """

    columns: tuple[FeatureColumn, ...]
    vectors: NDArray[np.float32]

    def vector_of(self, features: Mapping[str, Any]) -> tuple[NDArray[np.float32] | None, list[str]]:
        """float32 (d,), the float64 sum rounded once, and the features that say nothing here, in sorted order.

        features: by column name, as in a request: a text, number, boolean, a list of texts, or None. What says
        nothing is told by the column's name, or by name=value where the column is known and the value is not.
        None where nothing of it is known.
        """
        rows, weights, unknown = encoded(self.columns, features)
        if not len(rows):
            return None, unknown
        return (weights @ self.vectors[rows].astype(np.float64)).astype(np.float32), unknown


@dataclass(frozen=True)
class FactorModel:
    """What a fit returns; nothing downstream knows how it was trained.

    user_vectors: float32 (n_users, d). item_vectors: float32 (n_items, d). item_bias: float32 (n_items,).
    user_offset: float32 (n_users,); it is in predictions only, never in a ranking.
    All finite, C-contiguous, rows as in the interactions that it was fitted on. d may be 0.
    link: what score + user_offset is. `identity`: a rating, on the scale of the weights. `logistic`: the logit of a
    probability. `none`: on no scale, it only orders.
    bounds: a prediction is cut to this range (a rating model that is meant to); None: it is not.
    user_features: for who is in no event; None where the family has none or the job names none.

    Raises DataError where a value is not finite: the fit diverged.
    """

    family: str
    params: Params
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    item_bias: NDArray[np.float32]
    user_offset: NDArray[np.float32]
    link: Link = "none"
    bounds: tuple[float, float] | None = None
    user_features: FeatureVectors | None = None

    def __post_init__(self) -> None:
        for name in ARRAYS:
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(
                    f"{self.family} with {dict(self.params)} diverged: {name} holds values that are not finite; "
                    + CURE
                )


def factor_model(
    family: str,
    params: Params,
    *,
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    item_bias: NDArray[np.float32] | None = None,
    user_offset: NDArray[np.float32] | None = None,
    link: Link = "none",
) -> FactorModel:
    """The model of vectors as a fit leaves them, float32 without a copy; a bias or offset that is None is 0."""

    def own(values: NDArray[np.float32] | None, n: int) -> NDArray[np.float32]:
        return np.zeros(n, dtype=np.float32) if values is None else np.ascontiguousarray(values, np.float32)

    return FactorModel(
        family=family,
        params=dict(params),
        user_vectors=np.ascontiguousarray(users, np.float32),
        item_vectors=np.ascontiguousarray(items, np.float32),
        item_bias=own(item_bias, len(items)),
        user_offset=own(user_offset, len(users)),
        link=link,
    )
