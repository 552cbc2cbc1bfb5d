"""als: implicit-feedback alternating least squares, by the library `implicit` (conjugate gradient).

Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008; Takacs,
Pilaszy, Tikk, "Applications of the conjugate gradient method for implicit feedback collaborative filtering",
RecSys 2011. Confidence is alpha x weight; a pair without an interaction has 1, so its loss is

    sum over all pairs of c (p - u.v)^2 + reg * (sum of |u|^2 + sum of |v|^2),   c = alpha w and p = 1 where observed

A fit holds two copies of the CSR beside its input: one scaled by alpha, one transposed by the library.
"""

from __future__ import annotations

from implicit.cpu import als as library
from threadpoolctl import threadpool_limits

from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Epoch, Fitting, Stopped, in_library


def fit_als(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `alpha`, `epochs`; the result depends on seed and data, not on threads."""
    # The library threads over rows; BLAS must not fight it.
    with threadpool_limits(limits=1, user_api="blas"):
        return _fit(interactions, params, how)


def _fit(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    factors, epochs = int(params["factors"]), int(params["epochs"])
    model = library.AlternatingLeastSquares(
        factors=factors,
        regularization=float(params["reg"]),
        alpha=1.0,
        iterations=epochs,
        num_threads=how.threads,
        random_state=how.seed,
    )
    start = how.started("als", interactions, factors=factors)
    if start is not None:
        model.user_factors, model.item_factors = start[:2]
    # Scaled here, by the same product, since at alpha 1 the library takes the input as it is, and it
    # refuses the read-only arrays that memory maps and Ray's object store hand out.
    confidence = float(params["alpha"]) * interactions.user_items

    def loss() -> float:
        vectors = model.user_factors, model.item_factors
        return float(
            library._als.calculate_loss(confidence, *vectors, model.regularization, num_threads=how.threads)
        )

    def so_far() -> FactorModel:
        vectors = model.user_factors.copy(), model.item_factors.copy()
        return factor_model("als", params, users=vectors[0], items=vectors[1])

    def told(iteration: int, *_: object) -> None:
        if not how.goes_on(Epoch(iteration + 1, epochs, model=so_far, loss=loss)):
            raise Stopped

    with in_library("als", params):
        model.fit(confidence, show_progress=False, callback=told)
    return factor_model("als", params, users=model.user_factors, items=model.item_factors)
