"""The one law: every model ends as vectors and a bias, score = u . v + item_bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import DataError

Params = Mapping[str, int | float]


@dataclass(frozen=True)
class FactorModel:
    """What a fit returns; nothing downstream knows how it was trained.

    user_vectors: float32 (n_users, d). item_vectors: float32 (n_items, d). item_bias: float32 (n_items,).
    All finite, C-contiguous, rows as in the interactions that it was fitted on. d may be 0.

    Raises DataError where a vector is not finite: the fit diverged.
    """

    family: str
    params: Params
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    item_bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("user_vectors", "item_vectors", "item_bias"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(
                    f"{self.family} with {dict(self.params)} diverged: {name} holds values that are not finite; "
                    "use a larger reg or smaller weights (alpha)"
                )
