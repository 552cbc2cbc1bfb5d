"""Features that come with a request: those of a user whom the release does not know, as a vector to rank by.

What the model does not know of them is told, in whatever way the request is then answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.service.prepared import Prepared
from nightrank.service.refusal import RequestError

# Vectors are of the order of 1. One that a number far off has made as long as this ranks nothing sensibly any more,
# and scores of longer ones would leave float32.
LONGEST = 1e15


@dataclass(frozen=True)
class GivenFeatures:
    """vector: float32 (d,), the sum of the known features' vectors, None where none is known. unknown: the others."""

    vector: NDArray[np.float32] | None
    unknown: list[str]

    @classmethod
    def of(cls, prepared: Prepared, features: Mapping[str, Any]) -> GivenFeatures:
        """Of a request's features by column. A model without any knows none of them."""
        if prepared.features is None or not features:
            return cls(None, sorted(features))
        with np.errstate(over="ignore", invalid="ignore"):  # `summed` looks at it
            return cls(*prepared.features.vector_of(features))

    def summed(self) -> NDArray[np.float32] | None:
        """The vector to rank by, float32 (1, d). Raises RequestError where a number is beyond all reason."""
        if self.vector is None:
            return None
        if not (np.abs(self.vector) < LONGEST).all():  # nor is NaN
            raise RequestError(
                422,
                "invalid_features",
                "a number among the features is so far from those of training that no vector can be made of it; "
                "expected one in the column's own unit",
            )
        return self.vector[None, :]

    def told(self) -> dict[str, list[str]]:
        """The field of the answer that names what is unknown, left out where nothing is."""
        return {"unknown_features": self.unknown} if self.unknown else {}
