"""mean: every pair is predicted from the overall mean and the item's own: the oracle for metrics of values.

task `rating` (link `identity`): user_offset is the mean of all weights, item_bias the item's distance from it,
`sum over its n weights of (weight - mean) / (DAMPING + n)`. task `label` (link `logistic`): the same of a class, in
logits: user_offset is the logit of the share of pairs that the label rule accepts, item_bias the logit of the item's
own share, damped by as many pairs of the overall one, less that.

Source: Koren, "Factor in the Neighbors", TKDD 2010, section 2.1 (baseline estimates, of which this is the item's; its
lambda is the 25 here). Half a pair of either class is added to the overall share (Haldane 1955), so that its logit is
finite where all pairs are of one class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import FactorModel, Link, Params, factor_model
from nightrank.models.fitting import Fitting

DAMPING = 25.0  # pairs; the value of the paper, found on the Netflix data


def fit_mean(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Vectors of no columns, one offset for all users. Raises DataError for task label without a label rule."""
    n_users, n_items = interactions.user_items.shape
    weights = interactions.user_items.data
    if params["task"] == "rating":
        link: Link = "identity"
        values = weights.astype(np.float64)
        overall = values.mean()
        offset, bias = overall, _item_means(interactions, values - overall)
    elif how.label is None:
        raise DataError("mean with task label learns a class; give its rule, such as label: weight>=4")
    else:
        link = "logistic"
        values = how.label.holds(weights).astype(np.float64)
        overall = (values.sum() + 0.5) / (len(values) + 1.0)
        shares = overall + _item_means(interactions, values - overall)
        offset, bias = logit(overall), logit(shares) - logit(overall)
    return factor_model(
        "mean",
        params,
        users=np.zeros((n_users, 0), dtype=np.float32),
        items=np.zeros((n_items, 0), dtype=np.float32),
        item_bias=bias.astype(np.float32),
        user_offset=np.full(n_users, offset, dtype=np.float32),
        link=link,
    )


def _item_means(interactions: Interactions, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The damped mean of each item's pairs, float64 (n_items,)."""
    sums = np.bincount(interactions.user_items.indices, weights=values, minlength=len(interactions.item_ids))
    means: NDArray[np.float64] = sums / (DAMPING + interactions.item_counts)
    return means
