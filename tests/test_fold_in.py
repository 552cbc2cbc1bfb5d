"""Fold-in: the vector of a new user is the dense float64 solution of training's half-step, and ranks like it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.errors import DataError
from nightrank.models import FactorModel, FoldIn, fit, fold_in
from nightrank.models.families import FITS
from nightrank.models.ials import Objective, cells_of, gramian, solve
from test_models import N_ITEMS, PARAMS, data, fitted

HAVE = ("als", "ials", "svd")
have = pytest.mark.parametrize("family", HAVE)


def strangers(n: int = 12, *, seed: int = 5) -> csr_matrix:
    """Users never seen: weights of 0.3 to 4, the first has no events, the second has all items, the third one."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, N_ITEMS)) < 0.2, rng.uniform(0.3, 4.0, (n, N_ITEMS)), 0.0)
    dense[0], dense[1], dense[2] = 0.0, 1.5, 0.0
    dense[2, 7] = 2.0
    return csr_matrix(dense.astype(np.float32))


def folding(model: FactorModel) -> FoldIn:
    found = fold_in(model.family, params=model.params, item_vectors=model.item_vectors)
    assert found is not None
    return found


def dense_solution(model: FactorModel, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The minimiser of one user's loss as the family states it, all cells written out, in float64."""
    V, params = model.item_vectors.astype(np.float64), model.params
    observed, eye = weights > 0, np.eye(model.item_vectors.shape[1])
    if not observed.any():
        return np.zeros(V.shape[1])
    if model.family == "svd":
        target = np.where(observed, weights - weights[observed].mean(), 0.0)
        return np.linalg.lstsq(V, target, rcond=None)[0]
    if model.family == "als":
        confidence = np.where(observed, params["alpha"] * weights, 1.0)
        reg = params["reg"]
    else:
        confidence = np.where(observed, weights + params["unobserved_weight"], params["unobserved_weight"])
        reg = params["reg"] * (observed.sum() + params["unobserved_weight"] * len(V)) ** params["nu"]
    pull = params["alpha"] * weights if model.family == "als" else weights
    return np.linalg.solve(V.T @ (confidence[:, None] * V) + reg * eye, V.T @ pull)


@have
def test_it_is_the_dense_solution(family: str) -> None:
    """Protects the minimiser: each user's vector solves the family's own half-step, written out cell by cell."""
    model = fitted(family, data())
    users = strangers()
    found = folding(model)(users)
    expected = np.array([dense_solution(model, row) for row in users.toarray().astype(np.float64)])
    assert found.vectors.dtype == found.offsets.dtype == np.float32
    np.testing.assert_allclose(found.vectors, expected, rtol=2e-5, atol=2e-6)
    assert not found.vectors[0].any()


@have
def test_offsets_are_those_of_training(family: str) -> None:
    """Protects predictions for a new user: the mean of their ratings with svd, 0 elsewhere and without events."""
    users = strangers()
    found = folding(fitted(family, data()))(users)
    dense = users.toarray().astype(np.float64)
    means = [row[row > 0].mean() if row.any() else 0.0 for row in dense]
    np.testing.assert_allclose(found.offsets, means if family == "svd" else np.zeros(len(means)), rtol=1e-6)


@have
def test_one_user_alone_equals_the_batch(family: str) -> None:
    """Protects the service: nobody else in a request changes an answer."""
    fold, users = folding(fitted(family, data())), strangers()
    whole = fold(users)
    for row in range(users.shape[0]):
        alone = fold(users[row])
        np.testing.assert_allclose(alone.vectors[0], whole.vectors[row], rtol=1e-6, atol=1e-7)


@have
def test_a_user_of_training_gets_nearly_their_own_vector(family: str) -> None:
    """Protects that it is training's problem and no other: after enough epochs a user folded in anew is back where
    training left them."""
    interactions = data()
    params = PARAMS[family] | ({"epochs": 60} if "epochs" in PARAMS[family] else {})
    model = fit(family, interactions, params=params, seed=7)
    found = folding(model)(interactions.user_items)
    scores, again = (users @ model.item_vectors.T for users in (model.user_vectors, found.vectors))
    assert np.abs(scores - again).max() < 0.05 * np.abs(scores).max()
    np.testing.assert_allclose(found.offsets, model.user_offset, rtol=1e-6)


def test_ials_equals_its_own_solve() -> None:
    """Protects one loss for training and fold-in: `solve`, repeated, comes to the same vectors."""
    model, users = fitted("ials", data()), strangers()
    objective = Objective(0.003, 0.1, 1.0)
    cells, squares = cells_of(users), gramian(model.item_vectors)
    rows = np.zeros((users.shape[0], 8), dtype=np.float32)
    for _ in range(20):
        rows = solve(cells, rows, model.item_vectors, gramian=squares, objective=objective)
    np.testing.assert_allclose(folding(model)(users).vectors, rows, rtol=1e-4, atol=1e-5)


def test_svd_gives_its_own_users_back() -> None:
    """Protects the scale of the vectors: the half-step of a user of training is their row of U, to rounding."""
    interactions = data()
    model = fitted("svd", interactions)
    found = folding(model)(interactions.user_items)
    np.testing.assert_allclose(found.vectors, model.user_vectors, atol=1e-5)


def test_svd_columns_beyond_the_rank_stay_0() -> None:
    """Protects from a division by nothing: factors beyond the rank leave vectors finite, and 0 there."""
    model = fitted("svd", data())
    wide = np.pad(model.item_vectors, ((0, 0), (0, 3)))
    fold = fold_in("svd", params={"factors": 11}, item_vectors=wide)
    assert fold is not None
    vectors = fold(strangers()).vectors
    assert np.isfinite(vectors).all()
    assert not vectors[:, 8:].any()


@pytest.mark.parametrize("family", sorted(FITS.keys() - set(HAVE)))
def test_the_others_have_none(family: str) -> None:
    """Protects callers: a family without the problem says so with None, and is not approximated."""
    model = fitted(family, data())
    assert fold_in(family, params=model.params, item_vectors=model.item_vectors) is None


@have
def test_a_catalogue_of_another_size_is_refused(family: str) -> None:
    """Protects rows from standing for other items: found and expected sizes are said."""
    with pytest.raises(DataError, match=rf"catalogue of 9 items, expected the model's {N_ITEMS};"):
        folding(fitted(family, data()))(csr_matrix((1, 9), dtype=np.float32))


def test_als_without_regularisation_says_what_is_wrong() -> None:
    """Protects from a vector of noise: a system that has no one solution is refused, with the cure."""
    fold = fold_in("als", params={"reg": 0.0, "alpha": 1.0}, item_vectors=np.zeros((5, 2), dtype=np.float32))
    assert fold is not None
    with pytest.raises(DataError, match=r"als with .*not positive definite; use a larger reg"):
        fold(csr_matrix(np.ones((1, 5), dtype=np.float32)))
