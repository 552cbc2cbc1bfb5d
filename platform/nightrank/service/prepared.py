"""All that answers come from, for one release: built aside, once, then shared by every request."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.ranking.topk import TopK


class Index(Protocol):
    """The catalogue, ready to be ranked; blocks, so it is asked in a thread that may wait."""

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """As `nightrank.ranking.ItemIndex.top_k`, to the bit."""
