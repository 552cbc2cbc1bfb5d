"""Features that come with a request: those of a user whom the release does not know, as a vector to rank by.

What the model does not know of them is told, in whatever way the request is then answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.data.features import encoded
from nightrank.service.feature_schema import MOST_UNKNOWN
from nightrank.service.prepared import Prepared

MOST_LETTERS = 80  # of a name that is told


@dataclass(frozen=True)
class GivenFeatures:
    """vector: float32 (d,), the sum of the known features' vectors, None where none is known. unknown: the others."""

    vector: NDArray[np.float32] | None
    unknown: list[str]

    @classmethod
    def of(cls, prepared: Prepared, features: Mapping[str, Any]) -> GivenFeatures:
        """Of a request's features by column. A model without any knows none of them."""
        if prepared.features is None:
            return cls(None, encoded((), features)[2])
        return cls(*prepared.features.vector_of(features))

    def summed(self) -> NDArray[np.float32] | None:
        """The vector to rank by, float32 (1, d); None where nothing is known."""
        return None if self.vector is None else self.vector[None, :]

    def told(self) -> dict[str, Any]:
        """The fields of the answer that name what is unknown and count what is not named, left out where none is.

        Bounded, so that no answer is longer than what was asked by much.
        """
        fields: dict[str, Any] = {}
        if self.unknown:
            fields["unknown_features"] = [name[:MOST_LETTERS] for name in self.unknown[:MOST_UNKNOWN]]
        if len(self.unknown) > MOST_UNKNOWN:
            fields["more_unknown_features"] = len(self.unknown) - MOST_UNKNOWN
        return fields
