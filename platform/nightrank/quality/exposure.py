"""What the lists look like, whatever the truth: how much of the catalogue they show, and how popular it is.

Computed from counts of who is shown what (`exposure`), gathered in chunks of users, and from the users per item of
the train data. Nothing here looks at relevance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightrank.ranking.topk import TopK

Values = NDArray[np.float64]


def exposure(topk: TopK, n_items: int) -> NDArray[np.int64]:
    """In how many lists each item of the catalogue is: int64 (n_items,). Those of chunks add up."""
    return np.bincount(topk.item_rows[topk.item_rows >= 0], minlength=n_items).astype(np.int64)


def coverage(shown: NDArray[np.int64]) -> float:
    """The share of the catalogue that is in anybody's list; NaN for an empty catalogue.

    shown: int64 (n_items,), as of `exposure`. Catalogue coverage of Ge, Delgado-Battenfeld and Jannach, RecSys 2010.
    """
    return float(np.count_nonzero(shown) / len(shown)) if len(shown) else float("nan")


def gini(shown: NDArray[np.int64]) -> float:
    """The Gini index of how often each item of the catalogue is shown; NaN where nothing is shown.

    shown: int64 (n_items,), as of `exposure`, zeros included. 0: all equally often; (n - 1) / n: one item alone
    (the index of a whole population, without the correction n / (n - 1) for samples).
    Source: Fleder and Hosanagar, "Blockbuster Culture's Next Rise or Fall", Management Science 2009; in the form
    sum over i of (2 i - n - 1) x_i / (n sum x), x ascending.
    """
    n, total = len(shown), int(shown.sum())
    if total == 0:
        return float("nan")
    places = 2 * np.arange(1, n + 1) - n - 1
    return float(np.dot(places, np.sort(shown)) / (n * total))


def novelty(topk: TopK, item_users: NDArray[np.int64], *, n_train_users: int) -> Values:
    """Per user the mean of -log2(users of the item / users) over the list, float64 (n,); NaN for an empty list.

    item_users: int64 (n_items,), train users of each item. An item without any, which a model with item features may
    list, counts as if it had one, since its own value would be infinite.
    The mean self-information, in bits: Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender
    systems", PNAS 2010; Castells, Hurley and Vargas, "Novelty and Diversity in Recommender Systems", 2015.
    """
    return _mean_of(np.log2(n_train_users) - np.log2(np.maximum(item_users, 1)), topk)


def mean_popularity(topk: TopK, item_users: NDArray[np.int64]) -> Values:
    """Per user the mean number of train users of the listed items, float64 (n,); NaN for an empty list.

    A count, not a share: the average recommendation popularity (ARP) of Abdollahpouri, Burke and Mobasher, "Managing
    Popularity Bias in Recommender Systems with Personalized Re-ranking", FLAIRS 2019. item_users: as in `novelty`.
    """
    return _mean_of(item_users.astype(np.float64), topk)


def _mean_of(item_values: Values, topk: TopK) -> Values:
    """The mean over what is really in a list: a list shorter than k is divided by its own length."""
    is_there = topk.item_rows >= 0
    values = np.zeros(topk.item_rows.shape)
    values[is_there] = item_values[topk.item_rows[is_there]]
    counts = np.where(topk.counts > 0, topk.counts, np.nan)
    result: Values = values.sum(axis=1) / counts
    return result
