"""svd: the truncated singular value decomposition of the ratings, mean-centred per user, by scipy.

A user's mean is over their own ratings; a pair that is not observed counts as 0 once centred, that is as the mean.
With U S V' the `factors` largest singular triplets, user_vectors = U and item_vectors = V S: a score is the predicted
distance from the mean, and the cosine of two item vectors is that of the items' columns in the matrix of rank
`factors`. user_offset is the mean, so score + user_offset is a rating (link `identity`).

Source: Sarwar, Karypis, Konstan, Riedl, "Application of Dimensionality Reduction in Recommender System", 2000;
Lehoucq, Sorensen, Yang, "ARPACK Users' Guide", 1998. There are no more triplets than the shorter side of the matrix
has rows; columns beyond those, and beyond its numerical rank, are 0.

A fit holds the centred matrix and vectors in float64: 12 bytes a pair, 16 bytes a row and factor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from nightrank.data.interactions import Interactions
from nightrank.models.factor_model import FactorModel, Params, factor_model
from nightrank.models.fitting import Fitting

Doubles = NDArray[np.float64]
# Of the largest singular value. What is 0 comes out at up to about 1e-8 of it: both ways go by squares, in float64.
_SMALLEST = 1e-7


def fit_svd(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`. The sign of a column is that of its largest item; nothing depends on threads.

    The seed chooses the vector that ARPACK begins with, and moves the last digits only.
    """
    centred, means = mean_centred(interactions.user_items)
    factors = int(params["factors"])
    with threadpool_limits(limits=1, user_api="blas"):  # the same sums for any number of threads
        users, items = _triplets(centred, min(factors, *centred.shape), seed=how.seed)
    missing = (0, 0), (0, factors - users.shape[1])
    return factor_model(
        "svd",
        params,
        users=np.pad(users, missing),
        items=np.pad(items, missing),
        user_offset=means.astype(np.float32),
        link="identity",
    )


def mean_centred(user_items: csr_matrix) -> tuple[csr_matrix, Doubles]:
    """The matrix less each user's mean where there is a weight, float64 CSR, and the means, float64 (n_users,)."""
    sizes = np.diff(user_items.indptr)
    weights = user_items.data.astype(np.float64)
    user_of = np.repeat(np.arange(len(sizes)), sizes)
    means = np.bincount(user_of, weights, minlength=len(sizes)) / np.maximum(sizes, 1)
    centred = csr_matrix(
        (weights - means[user_of], user_items.indices, user_items.indptr), shape=user_items.shape
    )
    return centred, means


def _triplets(matrix: csr_matrix, k: int, *, seed: int) -> tuple[Doubles, Doubles]:
    """U (n_users, k) and V S (n_items, k) of the k largest singular values, largest first, 0 beyond the rank."""
    if not matrix.data.any():
        return np.zeros((matrix.shape[0], k)), np.zeros((matrix.shape[1], k))
    if k < min(matrix.shape):
        start = np.random.default_rng(seed).uniform(-1.0, 1.0, min(matrix.shape))
        users, sizes, items = svds(matrix, k=k, v0=start)
    else:
        users, sizes, items = _all_triplets(matrix)
    order = np.argsort(-sizes, kind="stable")
    users, sizes, items = users[:, order], sizes[order], items[order].T
    signs = np.where(items[np.abs(items).argmax(axis=0), np.arange(k)] < 0, -1.0, 1.0)
    kept = sizes > sizes[0] * _SMALLEST
    return users * (signs * kept), items * (signs * kept * sizes)


def _all_triplets(matrix: csr_matrix) -> tuple[Doubles, Doubles, Doubles]:
    """Every singular triplet, by the eigenvectors of the smaller Gramian, since ARPACK leaves the last one out."""
    if matrix.shape[0] > matrix.shape[1]:
        items, sizes, users = _all_triplets(matrix.T.tocsr())
        return users.T, sizes, items.T
    squares, users = eigh((matrix @ matrix.T).toarray())
    sizes = np.sqrt(np.maximum(squares, 0.0))
    items = matrix.T @ users / np.where(sizes > 0, sizes, 1.0)
    return users, sizes, items.T
