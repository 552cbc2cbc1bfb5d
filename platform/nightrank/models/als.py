"""als: implicit-feedback alternating least squares, by the library `implicit` (conjugate gradient).

Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008; Takacs,
Pilaszy, Tikk, "Applications of the conjugate gradient method for implicit feedback collaborative filtering",
RecSys 2011. Confidence is alpha x weight. A fit holds two copies of the CSR beside its input: one scaled by alpha,
one transposed by the library.
"""

from __future__ import annotations

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.recommender_base import ModelFitError
from threadpoolctl import threadpool_limits

from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import FactorModel, Params


def fit_als(interactions: Interactions, params: Params, *, seed: int, threads: int) -> FactorModel:
    """Fit `factors`, `reg`, `alpha`, `epochs`; the result depends on seed and data, not on `threads`."""
    with threadpool_limits(
        limits=1, user_api="blas"
    ):  # the library threads over rows; BLAS must not fight it
        model = AlternatingLeastSquares(
            factors=int(params["factors"]),
            regularization=float(params["reg"]),
            alpha=1.0,
            iterations=int(params["epochs"]),
            num_threads=threads,
            random_state=seed,
        )
        # Scaled here, by the same product, since at alpha 1 the library takes the input as it is, and it
        # refuses the read-only arrays that memory maps and Ray's object store hand out.
        try:
            model.fit(float(params["alpha"]) * interactions.user_items, show_progress=False)
        except ModelFitError as error:
            raise DataError(
                f"als with {dict(params)} diverged ({error}); use a larger reg or a smaller alpha"
            ) from None
    return FactorModel(
        family="als",
        params=dict(params),
        user_vectors=np.ascontiguousarray(model.user_factors, dtype=np.float32),
        item_vectors=np.ascontiguousarray(model.item_factors, dtype=np.float32),
        item_bias=np.zeros(len(interactions.item_ids), dtype=np.float32),
    )
