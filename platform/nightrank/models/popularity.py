"""popularity: everybody gets the items that most users interacted with; the oracle and the last fallback."""

from __future__ import annotations

import numpy as np

from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Fitting


def fit_popularity(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Vectors of no columns; item_bias = users per item as float32 (exact up to 2**24 users)."""
    return factor_model(
        "popularity",
        params,
        users=np.zeros((len(interactions.user_ids), 0), dtype=np.float32),
        items=np.zeros((len(interactions.item_ids), 0), dtype=np.float32),
        item_bias=interactions.item_counts.astype(np.float32),
    )
