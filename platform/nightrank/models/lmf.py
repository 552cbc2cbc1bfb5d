"""lmf: logistic matrix factorisation by adaptive gradient steps, by the library `implicit`.

Source: Johnson, "Logistic Matrix Factorization for Implicit Feedback Data", NIPS 2014 workshop. A weight is how many
times its pair was observed; against those, some of the other items are drawn by their popularity. Therefore
sigma(score) is no probability of an event in the data, and the link is none.

Always one thread: the library's threads draw from generators of their own, so their number would change the model.
A fit holds one copy of the CSR beside its input, transposed, and as much again as the vectors for its rates.
"""

from __future__ import annotations

import numpy as np
from implicit.cpu.lmf import LogisticMatrixFactorization

from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Epoch, Fitting, Stopped, in_library, writable


def fit_lmf(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `learning_rate`, `epochs`; the library's biases become item_bias and user_offset.

    A warm start keeps vectors and biases; the adaptive rates begin anew.
    """
    factors, epochs = int(params["factors"]), int(params["epochs"])
    model = LogisticMatrixFactorization(
        factors=factors,
        learning_rate=float(params["learning_rate"]),
        regularization=float(params["reg"]),
        iterations=epochs,
        num_threads=1,
        random_state=how.seed,
    )
    start = how.started("lmf", interactions, factors=factors)
    if start is not None:
        users, items, bias, offset = start
        model.user_factors = np.c_[users, np.ones_like(offset), offset]
        model.item_factors = np.c_[items, bias, np.ones_like(bias)]

    def so_far() -> FactorModel:
        users, items = model.user_factors, model.item_factors
        return factor_model(
            "lmf",
            params,
            users=users[:, :factors],
            items=items[:, :factors],
            item_bias=items[:, factors],  # beside a column of ones in the users
            user_offset=users[:, factors + 1],  # and the other way round
        )

    def told(number: int, _: float) -> None:
        if not how.goes_on(Epoch(number + 1, epochs, model=so_far)):
            raise Stopped

    with in_library("lmf", params):
        model.fit(writable(interactions.user_items), show_progress=False, callback=told)
    return so_far()
