"""bpr: Bayesian personalised ranking by stochastic gradient descent, by the library `implicit`.

Source: Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit Feedback",
UAI 2009. A step draws an observed pair and an item of another observed pair, so popular items are drawn often; where
the user has that item too, the step is skipped. Weights play no part: a pair is there or not.

Always one thread: the library's threads write to the same vectors without a lock, so with two of them no fit can be
repeated. A fit holds 12 bytes a pair beside its input for a moment, then 4.
"""

from __future__ import annotations

import numpy as np
from implicit.cpu.bpr import BayesianPersonalizedRanking

from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Epoch, Fitting, Stopped, in_library, writable


def fit_bpr(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `learning_rate`, `epochs`; the library's item bias becomes item_bias."""
    factors, epochs = int(params["factors"]), int(params["epochs"])
    model = BayesianPersonalizedRanking(
        factors=factors,
        learning_rate=float(params["learning_rate"]),
        regularization=float(params["reg"]),
        iterations=epochs,
        num_threads=1,
        random_state=how.seed,
    )
    start = how.started("bpr", interactions, factors=factors)
    if start is not None:
        users, items, bias, _ = start
        model.user_factors = np.c_[users, np.ones_like(users[:, :1])]
        model.item_factors = np.c_[items, bias]

    def so_far() -> FactorModel:
        users, items = model.user_factors, model.item_factors
        return factor_model(
            "bpr", params, users=users[:, :factors], items=items[:, :factors], item_bias=items[:, factors]
        )

    def told(number: int, _: float, n_right: int, n_skipped: int) -> None:
        n_drawn = interactions.user_items.nnz - n_skipped
        wrong = (n_drawn - n_right) / n_drawn if n_drawn else 0.0
        if not how.goes_on(Epoch(number + 1, epochs, model=so_far, loss=lambda: wrong)):
            raise Stopped

    with in_library("bpr", params):
        model.fit(writable(interactions.user_items), show_progress=False, callback=told)
    return so_far()
