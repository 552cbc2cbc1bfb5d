"""Fold-in: the vector of a user who was not in training, from their own events, against the final item vectors.

It is the exact minimiser of what training minimises over one user with the items fixed, in float64:

    als     sum over all items of c (p - u.v)^2 + reg |u|^2; training itself only goes some steps of conjugate
            gradient towards it
    ials    the user's part of its loss, as `ials.project` solves it; n_row is the number of the user's items
    svd     sum over all items of (r - u.v)^2, r the ratings less their mean, 0 where there is none

A user without events gets a vector of zeros. bpr, lmf and hybrid have no such problem to solve; that of fm needs its
priors and its noise, which a model does not keep: no fold-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import pinvh
from scipy.sparse import csr_matrix

from nightrank.errors import DataError
from nightrank.models.factor_model import Params
from nightrank.models.ials import cells_of, gramian, objective_of, project
from nightrank.models.least_squares import minimiser
from nightrank.models.svd import mean_centred

Doubles = NDArray[np.float64]
Items = NDArray[np.float32]


class Folded(NamedTuple):
    """vectors: float32 (n, d). offsets: float32 (n,), user_offset of these users."""

    vectors: NDArray[np.float32]
    offsets: NDArray[np.float32]


FoldIn = Callable[[csr_matrix], Folded]


def fold_in(family: str, *, params: Params, item_vectors: Items, threads: int = 1) -> FoldIn | None:
    """The fold-in of a fitted model, prepared once; None where the family has none.

    item_vectors: float32 (n_items, d), of the model, and params its own. The result takes CSR float32 (n, n_items),
    weights above 0 combined as those of training, and answers n users; it may be called from any thread.
    Preparing costs n_items d^2 / 2 multiplications, a user items * d^2 + d^3 / 3.
    """
    if family not in _FOLDS:
        return None
    squares = gramian(item_vectors, threads=threads)
    fold = _FOLDS[family](params, item_vectors, squares)

    def folded(user_items: csr_matrix) -> Folded:
        if user_items.shape[1] != len(item_vectors):
            raise DataError(
                f"found events on a catalogue of {user_items.shape[1]} items, expected the model's "
                f"{len(item_vectors)}; name items by their rows in the model"
            )
        vectors, offsets = fold(user_items)
        return Folded(vectors.astype(np.float32), offsets.astype(np.float32))

    return folded


def _als(params: Params, items: Items, squares: Doubles) -> Callable[[csr_matrix], tuple[Doubles, Doubles]]:
    base = squares + float(params["reg"]) * np.eye(len(squares))
    alpha = float(params["alpha"])

    def fold(user_items: csr_matrix) -> tuple[Doubles, Doubles]:
        vectors = np.zeros((user_items.shape[0], items.shape[1]))
        for row in np.flatnonzero(np.diff(user_items.indptr)):
            cells = slice(user_items.indptr[row], user_items.indptr[row + 1])
            confidence = alpha * user_items.data[cells].astype(np.float64)
            columns = user_items.indices[cells]
            try:
                vectors[row] = minimiser(items, columns, base=base, left=confidence - 1.0, right=confidence)
            except np.linalg.LinAlgError:
                raise DataError(
                    f"als with {dict(params)}: the system of a user with {len(columns)} items is not positive "
                    "definite; use a larger reg"
                ) from None
        return vectors, np.zeros(len(vectors))

    return fold


def _ials(params: Params, items: Items, squares: Doubles) -> Callable[[csr_matrix], tuple[Doubles, Doubles]]:
    objective = objective_of(params)

    def fold(user_items: csr_matrix) -> tuple[Doubles, Doubles]:
        vectors = project(cells_of(user_items), items, gramian=squares, objective=objective)
        return vectors, np.zeros(len(vectors))

    return fold


def _svd(params: Params, items: Items, squares: Doubles) -> Callable[[csr_matrix], tuple[Doubles, Doubles]]:
    # Columns of zeros, beyond the rank of the ratings, have no say: the pseudo-inverse leaves them at 0.
    inverse = pinvh(squares)

    def fold(user_items: csr_matrix) -> tuple[Doubles, Doubles]:
        centred, means = mean_centred(user_items)
        return centred @ items.astype(np.float64) @ inverse, means

    return fold


_FOLDS = {"als": _als, "ials": _ials, "svd": _svd}
