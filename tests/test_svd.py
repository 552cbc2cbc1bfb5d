"""svd: against numpy's dense decomposition, and the ratings that it predicts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded
from nightrank.data.interactions import Interactions, from_events
from nightrank.models import fit
from nightrank.models.svd import mean_centred


def ratings(*, n_users: int = 40, n_items: int = 25, seed: int = 0) -> Interactions:
    """Random ratings 1 to 5; user 0 gave one, user 1 the same to all."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < 0.4)
    stars = rng.integers(1, 6, len(users)).astype(float)
    stars[users == 1] = 3.0
    keep = users > 0
    table = pa.table(
        {
            "user": np.r_[0, users[keep]],
            "item": np.r_[0, items[keep]],
            "weight": np.r_[4.0, stars[keep]],
        }
    )
    return from_events(coded(table), combine="sum")


def centred(interactions: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Dense, by the definition: each user's ratings less their mean, 0 elsewhere."""
    dense = interactions.user_items.toarray().astype(np.float64)
    means = np.array([row[row > 0].mean() for row in dense])
    return np.where(dense > 0, dense - means[:, None], 0.0), means


def test_ratings_are_centred_per_user() -> None:
    """Protects the mean: over a user's own ratings alone, and the matrix that is given stays as it is."""
    interactions = ratings()
    before = interactions.user_items.copy()
    matrix, means = mean_centred(interactions.user_items)
    dense, expected = centred(interactions)
    np.testing.assert_allclose(matrix.toarray(), dense, atol=1e-12)
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert (interactions.user_items != before).nnz == 0


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
@pytest.mark.parametrize("factors", [1, 5, 24, 25, 60])
def test_it_is_the_best_approximation(shape: tuple[int, int], factors: int) -> None:
    """Protects the decomposition: predictions equal numpy's of the same rank, for any k, also k as large as the
    matrix and beyond, where nothing is left to approximate."""
    interactions = ratings(n_users=shape[0], n_items=shape[1])
    dense, means = centred(interactions)
    u, s, vt = np.linalg.svd(dense, full_matrices=False)
    s[factors:] = 0.0
    model = fit("svd", interactions, params={"factors": factors}, seed=0)
    assert model.user_vectors.shape == (shape[0], factors)
    assert model.link == "identity"
    found = model.user_vectors @ model.item_vectors.T
    np.testing.assert_allclose(found, (u * s) @ vt, atol=1e-5)
    np.testing.assert_allclose(model.user_offset, means, rtol=1e-6)
    assert not model.item_bias.any()


def test_columns_go_by_size_and_users_are_orthonormal() -> None:
    """Protects similar items: item vectors carry the singular values, largest first, and signs are decided."""
    model = fit("svd", ratings(), params={"factors": 6}, seed=0)
    sizes = np.linalg.norm(model.item_vectors, axis=0)
    assert (np.diff(sizes) < 0).all()
    np.testing.assert_allclose(model.user_vectors.T @ model.user_vectors, np.eye(6), atol=1e-6)
    assert (model.item_vectors[np.abs(model.item_vectors).argmax(axis=0), np.arange(6)] > 0).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_seed_moves_the_last_digits_only(seed: int) -> None:
    """Protects comparison across seeds: the decomposition is one, whatever vector the search for it begins with."""
    one, other = (fit("svd", ratings(), params={"factors": 6}, seed=s) for s in (0, seed))
    np.testing.assert_allclose(one.item_vectors, other.item_vectors, atol=1e-5)


def test_a_matrix_of_low_rank_leaves_columns_at_zero() -> None:
    """Protects from noise blown up to directions: two groups of users have one direction, and no more."""
    users, items = np.divmod(np.arange(20 * 6), 6)
    stars = np.where((users % 2 == 0) == (items < 3), 5.0, 1.0)
    table = pa.table({"user": users, "item": items, "weight": stars})
    model = fit("svd", from_events(coded(table), combine="sum"), params={"factors": 4}, seed=0)
    assert model.item_vectors[:, 0].all()
    assert not model.item_vectors[:, 1:].any()
    found = model.user_vectors @ model.item_vectors.T + model.user_offset[:, None]
    np.testing.assert_allclose(found, stars.reshape(20, 6), rtol=1e-6)


def test_a_small_taste_among_very_many_users_is_found() -> None:
    """Protects large data: a direction of 0.3% of the users is real, however long the matrix is."""
    first = np.repeat([[0, 5.0], [1, 1.0]], [1, 1], axis=0)
    n, n_few = 60_000, 200
    users = np.r_[np.repeat(np.arange(n), 2), np.repeat(np.arange(n, n + n_few), 2)]
    items = np.r_[np.tile([0, 1], n), np.tile([2, 3], n_few)]
    table = pa.table({"user": users, "item": items, "weight": np.tile(first[:, 1], n + n_few)})
    model = fit("svd", from_events(coded(table), combine="sum"), params={"factors": 2}, seed=0)
    for user, rated in ((5, [0, 1]), (n + 5, [2, 3])):
        found = model.user_vectors[user] @ model.item_vectors[rated].T + model.user_offset[user]
        np.testing.assert_allclose(found, [5.0, 1.0], rtol=1e-4)
