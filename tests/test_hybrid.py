"""hybrid: its steps against a plain loop, its rules for ids, features, weights and draws, rows without events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from eventfiles import coded
from nightrank.data.features import FeatureColumn, Features, SideFeatures
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError
from nightrank.models import FactorModel, fit, hybrid
from nightrank.models.factor_model import FeatureVectors
from nightrank.models.hybrid import MOST, rank_weights
from nightrank.models.hybrid_steps import draw
from test_models import assert_same_bits

PARAMS: dict[str, Any] = {
    "factors": 5,
    "reg": 0.02,
    "learning_rate": 0.1,
    "epochs": 3,
    "loss": "warp",
    "ids": "both",
}
N_USERS, N_ITEMS, N_COLD = 40, 30, 3  # the last items have no events
GOLDEN, BITS = 0x9E3779B97F4A7C15, 2**64 - 1


def features(n: int, n_values: int, *, seed: int, name: str = "genre") -> Features:
    """Up to three values a row, which share a weight of 1, and a number."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((n, n_values + 1), dtype=np.float32)
    for row in dense:
        own = rng.choice(n_values, rng.integers(0, 4), replace=False)
        row[own] = 1.0 / max(len(own), 1)
        row[-1] = rng.normal()
    values = tuple(f"{value:02d}" for value in range(n_values))
    return Features(csr_matrix(dense), (FeatureColumn(name, values), FeatureColumn("number", None)))


def data(*, seed: int = 0, weights: bool = True, known: SideFeatures | None = None) -> Interactions:
    """Random pairs; all users and all but the last items have some. The catalogue has those items too."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((N_USERS, N_ITEMS - N_COLD)) < 0.3)
    table = pa.table(
        {
            "user": users,
            "item": items,
            "weight": rng.integers(1, 9, len(users)) if weights else 0.3 + 0 * users,
        }
    )
    found = from_events(coded(table), combine="sum")
    assert found.user_items.shape == (N_USERS, N_ITEMS - N_COLD)
    return found if known is None else with_items(found, known)


def with_items(found: Interactions, known: SideFeatures) -> Interactions:
    """With metadata, and the items that it is of but nobody has."""
    matrix = found.user_items
    wider = csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], N_ITEMS))
    ids = from_events(coded(pa.table({"user": [0] * N_ITEMS, "item": np.arange(N_ITEMS)})), combine="sum")
    return replace(found, user_items=wider, item_ids=ids.item_ids, features=known)


def both_sides() -> SideFeatures:
    return SideFeatures(users=features(N_USERS, 4, seed=1, name="job"), items=features(N_ITEMS, 6, seed=2))


def fitted(interactions: Interactions, *, seed: int = 3, threads: int = 1, **change: Any) -> FactorModel:
    return fit("hybrid", interactions, params=PARAMS | change, seed=seed, threads=threads)


# The steps against a loop


def mixed(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & BITS
    return state ^ (state >> 31)


def dense_sides(interactions: Interactions, *, ids: str) -> list[np.ndarray]:
    """Of users and of items all features: own ones, where a row has events, then metadata by its weight."""
    known, sides = interactions.features or SideFeatures(), []
    occurs = (interactions.user_items.toarray() > 0).any(axis=0)
    for name, own, one in (("users", np.ones(N_USERS), known.users), ("items", occurs, known.items)):
        has_ids = ids in ("both", name)
        parts = [np.diag(own.astype(float) if has_ids else np.zeros(len(own)))]
        share = 1 / len(one.columns) if has_ids else 1
        sides.append(np.hstack([*parts, one.matrix.toarray().astype(float) * share]))
    return sides


def looped(interactions: Interactions, *, seed: int, size: int, **change: Any) -> tuple[np.ndarray, ...]:
    """Users, items and biases by plain loops over pairs and dense features, in float64, with the same draws."""
    params = PARAMS | change
    d, matrix = params["factors"], interactions.user_items
    held = matrix.toarray() > 0
    pool = np.flatnonzero(held.any(axis=0))
    sides = dense_sides(interactions, ids=params["ids"])
    rng = np.random.default_rng(seed)
    tables = [
        ((rng.random((side.shape[1], d), dtype=np.float32) - 0.5) / np.float32(d)).astype(float)
        for side in sides
    ]
    tables[1] = np.hstack([tables[1], np.zeros((len(tables[1]), 1))])
    squares = [np.ones_like(table) for table in tables]
    order, owners = np.empty(matrix.nnz, np.int32), interactions.pair_users()

    def move(side: int, slopes: np.ndarray, values: np.ndarray) -> None:
        for feature in np.flatnonzero(values):
            table, sums = tables[side][feature], squares[side][feature]
            slope = params["reg"] * table - slopes * values[feature]
            sums += slope**2
            table -= params["learning_rate"] * slope / np.sqrt(sums)

    for number in range(1, params["epochs"] + 1):
        keys = np.random.SeedSequence([seed, number]).generate_state(2, np.uint64)
        draw(matrix.data, order, keys[0])
        for start in range(0, len(order), size):
            chosen = []
            for place in range(start, min(start + size, len(order))):
                user, item = owners[order[place]], matrix.indices[order[place]]
                vector = np.r_[sides[0][user] @ tables[0], 1.0]
                scores = sides[1] @ tables[1] @ vector
                state = mixed((int(keys[1]) + place * GOLDEN) & BITS)
                for n_draws in range(1, MOST + 1):
                    state = (state + GOLDEN) & BITS
                    other = pool[((mixed(state) >> 32) * len(pool)) >> 32]
                    gap = scores[item] - scores[other]
                    if held[user, other] or (params["loss"] == "warp" and gap >= 1):
                        continue
                    pull = 1 / (1 + np.exp(gap))
                    if params["loss"] == "warp":
                        rank = max(1, (len(pool) - 1) // n_draws)
                        pull = (1 / np.arange(1, rank + 1)).sum() / (1 / np.arange(1, len(pool))).sum()
                    chosen.append((user, item, other, pull))
                    break
            for user, item, other, pull in chosen:
                vector = np.r_[sides[0][user] @ tables[0], 1.0]
                gap = sides[1][item] - sides[1][other]
                between = gap @ tables[1]
                move(1, pull * vector, gap)
                move(0, pull * between[:d], sides[0][user])
    users, items = sides[0] @ tables[0], sides[1] @ tables[1]
    return users, items[:, :d], items[:, d], tables[0][N_USERS:]


@pytest.mark.parametrize("loss", ["bpr", "warp"])
@pytest.mark.parametrize("ids", ["both", "items", "users", "none"])
@pytest.mark.parametrize("size", [1, 64])
def test_a_fit_equals_plain_loops(loss: str, ids: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the meaning of everything: features and ids, both losses, draws, rates, regularisation, batches."""
    monkeypatch.setattr(hybrid, "BATCH", size)
    monkeypatch.setattr(hybrid, "FEWEST", 1)
    interactions = data(known=both_sides())
    model = fitted(interactions, loss=loss, ids=ids)
    users, items, biases, of_features = looped(interactions, seed=3, size=size, loss=loss, ids=ids)
    np.testing.assert_allclose(model.user_vectors, users, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.item_vectors, items, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(model.item_bias, biases, rtol=1e-3, atol=1e-5)
    of_new_users = of_features / (2 if ids in ("both", "users") else 1)  # two columns share 1
    np.testing.assert_allclose(model.user_features.vectors, of_new_users, rtol=1e-3, atol=1e-5)
    assert np.abs(biases).max() > 0.05  # it has moved


@pytest.mark.parametrize("n_items", [1, 2, 5, 1000])
def test_rank_weights_are_sums_of_fractions(n_items: int) -> None:
    """Protects WARP's estimate of a rank: 1 + 1/2 + ... + 1/k, the first draw weighs 1, and none weighs nothing."""
    found = rank_weights(n_items)
    wanted = [sum(1 / i for i in range(1, max(1, (n_items - 1) // t) + 1)) for t in range(1, MOST + 1)]
    np.testing.assert_allclose(found, np.array(wanted) / wanted[0], rtol=1e-12)
    assert (found > 0).all()


# Threads, draws and weights


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("loss", ["bpr", "warp"])
def test_threads_that_share_a_batch_give_the_same_bits(
    threads: int, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects fits on machines of different size: pairs and columns are shared, and 40 columns do not divide evenly.
    Batches of this size would be one thread's, so threads are let in on any."""
    interactions = data(known=both_sides())
    alone = fitted(interactions, loss=loss, factors=40)
    monkeypatch.setattr(hybrid, "SHARE", 1)
    assert_same_bits(fitted(interactions, loss=loss, factors=40, threads=threads), alone)


def drawn(weights: list[float], *, key: int) -> np.ndarray:
    order = np.full(len(weights), -1, dtype=np.int32)
    draw(np.array(weights, dtype=np.float32), order, np.uint64(key))
    return order


def test_equal_weights_draw_every_pair_once_in_random_order() -> None:
    """Protects plain events: an epoch is a permutation, another with another key, and each place is as likely."""
    places = np.array([drawn([0.3] * 50, key=key) for key in range(400)])
    assert (np.sort(places, axis=1) == np.arange(50)).all()
    assert len({row.tobytes() for row in places}) == 400
    means = places.mean(axis=0)
    assert np.abs(means - 24.5).max() < 5 * np.sqrt(50**2 / 12 / 400)


def test_weights_are_how_often_a_pair_is_drawn() -> None:
    """Protects the meaning of a weight: n w / (sum of w) times, rounded up or down, and on average exactly."""
    weights = [1.0, 2.0, 3.0, 0.5, 1e-6, 13.5]
    wanted = np.array(weights) / sum(weights) * len(weights)
    counts = np.array([np.bincount(drawn(weights, key=key), minlength=6) for key in range(500)])
    assert (counts >= np.floor(wanted)).all()
    assert (counts <= np.ceil(wanted)).all()
    np.testing.assert_allclose(counts.mean(axis=0), wanted, atol=0.1)


def test_the_scale_of_weights_changes_nothing() -> None:
    """Protects from weights in other units: shares of draws stay what they were."""
    interactions = data()
    scaled = replace(interactions, user_items=interactions.user_items * np.float32(4))
    assert_same_bits(fitted(scaled), fitted(interactions))
    assert fitted(data(weights=False)).item_bias.tobytes() != fitted(interactions).item_bias.tobytes()


def test_who_has_everything_teaches_nothing_and_ends() -> None:
    """Protects the search for a negative where there is none: the start stays, for either loss."""
    users, items = np.nonzero(np.ones((4, 6)))
    full = from_events(coded(pa.table({"user": users, "item": items})), combine="sum")
    for loss in ("bpr", "warp"):
        model = fitted(full, loss=loss)
        assert not model.item_bias.any()
        assert np.abs(model.user_vectors).max() <= 0.5 / PARAMS["factors"]


# Items and users without events


def test_an_item_without_events_is_the_sum_of_its_features() -> None:
    """Protects new items: vector and bias are those of their metadata alone, which others' events have taught."""
    known = both_sides()
    model = fitted(data(known=known), epochs=10)
    of_features = known.items.matrix.toarray()
    assert model.item_vectors.shape == (N_ITEMS, 5)
    # one genre after the other, each as an item that nobody has: the sums of its own rows are linear in them
    alone = [
        Features(csr_matrix(np.vstack([of_features[:-1], row])), known.items.columns)
        for row in np.eye(of_features.shape[1], dtype=np.float32)
    ]
    models = [fitted(data(known=replace(known, items=one)), epochs=10) for one in alone]
    vectors, biases = (
        np.array([getattr(one, name)[-1] for one in models]) for name in ("item_vectors", "item_bias")
    )
    for row in range(N_ITEMS - N_COLD, N_ITEMS):
        np.testing.assert_allclose(model.item_vectors[row], of_features[row] @ vectors, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.item_bias[row], of_features[row] @ biases, rtol=1e-4, atol=1e-5)


def test_items_without_events_are_never_negatives() -> None:
    """Protects new items from being taught as bad: what only they have keeps its start, with a bias of 0."""
    dense = np.zeros((N_ITEMS, 2), dtype=np.float32)
    dense[: N_ITEMS - N_COLD : 2, 0] = 1.0
    dense[-N_COLD:, 1] = 1.0
    known = SideFeatures(items=Features(csr_matrix(dense), (FeatureColumn("genre", ("new", "old")),)))
    model = fitted(data(known=known), epochs=10)
    assert (model.item_bias[-N_COLD:] == 0).all()
    assert np.abs(model.item_vectors[-N_COLD:]).max() <= 0.5 / PARAMS["factors"]
    assert model.item_bias[: N_ITEMS - N_COLD].all()


def grouped() -> Interactions:
    """Users of two kinds, who have items of two kinds, 6 of 13 each; of each kind one more item that nobody has."""
    rng = np.random.default_rng(5)
    user_kinds, item_kinds = np.arange(N_USERS) % 2, np.arange(N_ITEMS) % 2
    likes = user_kinds[:, None] == item_kinds[: N_ITEMS - N_COLD]
    users, items = np.nonzero(likes & (rng.random(likes.shape) < 0.45))
    found = from_events(coded(pa.table({"user": users, "item": items})), combine="sum")
    assert found.user_items.shape == likes.shape
    sides = [
        Features(csr_matrix(np.eye(2, dtype=np.float32)[kinds]), (FeatureColumn("kind", ("even", "odd")),))
        for kinds in (user_kinds, item_kinds)
    ]
    return with_items(found, SideFeatures(*sides))


@pytest.mark.parametrize("loss", ["bpr", "warp"])
@pytest.mark.parametrize("ids", ["both", "none"])
def test_new_items_and_new_users_are_placed_by_their_kind(loss: str, ids: str) -> None:
    """Protects the point of it: everybody ranks a new item of their own kind above one of the other, and a new user
    ranks all items of their kind, new ones too, above the others."""
    model = fitted(grouped(), loss=loss, ids=ids, epochs=40)
    kinds, scores = np.arange(N_USERS) % 2, model.user_vectors @ model.item_vectors.T + model.item_bias
    even, odd = scores[:, 28], scores[:, 29]  # the last two of the catalogue
    assert (np.where(kinds == 0, even - odd, odd - even) > 0).all()
    assert model.user_features is not None
    for kind, name in enumerate(("even", "odd")):
        vector, unknown = model.user_features.vector_of({"kind": name})
        assert unknown == []
        of_user = model.item_vectors @ vector + model.item_bias
        assert of_user[kind::2].min() > of_user[1 - kind :: 2].max()


def test_user_features_are_the_table_of_the_users_metadata() -> None:
    """Protects who is unknown from vectors of another row: without ids a known user is the sum of their features,
    and a new one with the same features is too."""
    known = both_sides()
    model = fitted(data(known=known), ids="none")
    assert model.user_features.columns == known.users.columns
    sums = known.users.matrix @ model.user_features.vectors
    np.testing.assert_allclose(sums, model.user_vectors, rtol=1e-5, atol=1e-6)
    rows, row = known.users.matrix, int(np.flatnonzero(np.diff(known.users.matrix.indptr) == 3)[0])
    given = {"job": [f"{value:02d}" for value in rows[row].indices[:-1]], "number": float(rows[row].data[-1])}
    vector, unknown = model.user_features.vector_of(given)
    assert unknown == []
    np.testing.assert_allclose(vector, model.user_vectors[row], rtol=1e-5, atol=1e-6)
    assert isinstance(fitted(data(known=known)).user_features, FeatureVectors)
    assert fitted(data()).user_features is None
    assert fitted(data(known=SideFeatures(items=known.items))).user_features is None


def tastes(seed: int) -> tuple[Interactions, np.ndarray]:
    """Of 150 users the 20 items of 80 that suit them, by three tastes; and which of them are held out."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(150, 3)) @ rng.normal(size=(3, 80)) + 0.7 * rng.normal(size=80)
    scores += 0.7 * rng.gumbel(size=scores.shape)
    likes = scores >= np.sort(scores, axis=1)[:, [-20]]
    held = likes & (rng.random(likes.shape) < 0.3)
    users, items = np.nonzero(likes & ~held)
    found = from_events(coded(pa.table({"user": users, "item": items})), combine="sum")
    return found, held[:, found.item_ids.array.to_numpy()]


def auc(model: FactorModel, interactions: Interactions, held: np.ndarray) -> float:
    """Of a user's held-out and other unseen items, how often the former are above."""
    scores = model.user_vectors @ model.item_vectors.T + model.item_bias
    others = (interactions.user_items.toarray() == 0) & ~held
    users = np.flatnonzero(held.any(axis=1))
    return np.mean([(scores[u][held[u]][:, None] > scores[u][others[u]]).mean() for u in users])


@pytest.mark.parametrize(("loss", "reg"), [("warp", 0.05), ("bpr", 0.01)])
def test_metadata_that_says_nothing_costs_nothing(loss: str, reg: float) -> None:
    """Protects who names many columns: six of random values leave lists as good; at full weight they cost 0.02."""
    change = {"loss": loss, "reg": reg, "learning_rate": 0.05, "factors": 16, "epochs": 30}
    differences = []
    for seed in range(3):
        interactions, held = tastes(seed)
        values = np.random.default_rng(seed).integers(0, 8, (150, 6))
        columns = tuple(FeatureColumn(f"noise{i}", tuple("abcdefgh")) for i in range(6))
        noise = Features(csr_matrix(np.eye(8, dtype=np.float32)[values].reshape(150, 48)), columns)
        featured = replace(interactions, features=SideFeatures(users=noise))
        with_noise, without = (auc(fitted(x, **change), x, held) for x in (featured, interactions))
        differences.append(with_noise - without)
    assert np.mean(differences) > -0.005


# What is refused


@pytest.mark.parametrize(
    ("ids", "side", "known"),
    [
        ("items", "users", None),
        ("users", "items", None),
        ("none", "users", SideFeatures(items=features(N_ITEMS, 6, seed=2))),
        ("none", "items", SideFeatures(users=features(N_USERS, 4, seed=1))),
    ],
)
def test_a_side_with_neither_ids_nor_features_is_refused(
    ids: str, side: str, known: SideFeatures | None
) -> None:
    """Protects from a model in which all users or all items are one."""
    with pytest.raises(
        DataError, match=rf"ids={ids}: found no features of {side}, .*{side}\.features, or use"
    ):
        fitted(data(known=known), ids=ids)


def test_a_warm_start_with_features_is_refused() -> None:
    """Protects from going on with sums in place of the vectors that they are made of."""
    interactions = data(known=both_sides())
    with pytest.raises(DataError, match=r"hybrid with features cannot go on .*leave the warm start out"):
        fit("hybrid", interactions, params=PARAMS, seed=3, start=fitted(interactions))
