"""fm: held against the formula of the paper and a plain loop; what features, labels and negatives do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import expit

from eventfiles import coded
from nightrank.config.rules import parse_rule
from nightrank.data.features import FeatureColumn, Features, SideFeatures
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError
from nightrank.models import FactorModel, fit
from nightrank.models.fm import _model, with_negatives
from nightrank.models.fm_member import Member, Problem, Side
from test_models import assert_same_bits

N_USERS, N_ITEMS, N = 30, 20, 300
PARAMS: dict[str, Any] = {
    "factors": 3,
    "reg": 0.0,
    "learning_rate": 1.0,
    "epochs": 8,
    "task": "rating",
    "negatives": 0,
}
LABEL = PARAMS | {"task": "label"}
RULE = parse_rule("weight>=4")


def features(n: int, *, seed: int) -> Features:
    """A column of three categories, of which a row has none, one or two, and a number."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, 4), np.float32)
    for row in range(n):
        chosen = rng.choice(3, rng.integers(0, 3), replace=False)
        matrix[row, chosen] = 1.0 / max(1, len(chosen))
    matrix[:, 3] = rng.normal(size=n)
    columns = FeatureColumn("kind", ("a", "b", "c")), FeatureColumn("size", None)
    return Features(csr_matrix(matrix), columns)


def data(*, with_features: bool = True, seed: int = 0) -> Interactions:
    """Ratings from 1 to 5 of a low rank and noise; the last user and the last item are in one pair only."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(N_USERS, 2)) @ rng.normal(size=(2, N_ITEMS)) + rng.normal(size=N_ITEMS)
    cells = rng.choice((N_USERS - 1) * (N_ITEMS - 1), N, replace=False)
    users, items = np.r_[cells // (N_ITEMS - 1), N_USERS - 1], np.r_[cells % (N_ITEMS - 1), N_ITEMS - 1]
    weights = np.clip(np.round(3 + truth[users, items] + 0.3 * rng.normal(size=N + 1)), 1, 5)
    found = from_events(coded(pa.table({"user": users, "item": items, "weight": weights})), combine="sum")
    assert found.user_items.shape == (N_USERS, N_ITEMS)
    known = SideFeatures(features(N_USERS, seed=1), features(N_ITEMS, seed=2))
    return replace(found, features=known) if with_features else found


def fitted(interactions: Interactions, **changes: Any) -> FactorModel:
    params = PARAMS | changes
    label = RULE if params["task"] == "label" else None
    return fit("fm", interactions, params=params, seed=7, label=label)


def predicted(model: FactorModel) -> NDArray[np.float64]:
    """score + offset of all users and items, float64."""
    scores = model.user_vectors.astype(np.float64) @ model.item_vectors.T + model.item_bias
    result: NDArray[np.float64] = scores + model.user_offset[:, None]
    return result


def members(interactions: Interactions, *, n: int, epochs: int) -> list[Member]:
    """Members after some epochs, with nothing scaled."""
    known = interactions.features or SideFeatures()
    problem = Problem.of(interactions.user_items, known=known, is_label=False)
    found = [Member(problem, factors=3, rng=np.random.default_rng(seed)) for seed in range(n)]
    for _, member in itertools.product(range(epochs), found):
        member.epoch(reg=0.0, rate=1.0)
    return found


def whole(side: Side, known: Features | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The design of a side, ids first, (n_rows, n), and all its parameters, (1 + factors, n)."""
    post = side.posterior
    n = post.ids.shape[1]
    design = np.eye(n) if known is None else np.c_[np.eye(n), known.matrix.toarray()]
    return design, np.c_[post.ids, post.features].astype(np.float64)


def by_the_formula(member: Member, known: SideFeatures, user: int, item: int) -> float:
    """Rendle's equation 1, with a loop over all pairs of features."""
    parts = [whole(member.users, known.users), whole(member.items, known.items)]
    x = np.r_[parts[0][0][user], parts[1][0][item]]
    parameters = np.c_[parts[0][1], parts[1][1]]
    total = member.offset + float(parameters[0] @ x)
    for i, j in itertools.combinations(np.flatnonzero(x), 2):
        total += float(parameters[1:, i] @ parameters[1:, j]) * x[i] * x[j]
    return total


@pytest.mark.parametrize("with_features", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_score_and_offset_are_the_whole_formula(n: int, *, with_features: bool) -> None:
    """Protects exactness: all pairs of features count, within a side too, and a mean of machines is one machine."""
    interactions = data(with_features=with_features)
    known = interactions.features or SideFeatures()
    found = members(interactions, n=n, epochs=7)
    model = _model(interactions, PARAMS, found, low=0.0, scale=1.0)
    assert model.user_vectors.shape[1] == 3 * n
    values = predicted(model)
    for user, item in itertools.product(range(0, N_USERS, 7), range(0, N_ITEMS, 3)):
        expected = np.mean([by_the_formula(one, known, user, item) for one in found])
        assert values[user, item] == pytest.approx(expected, abs=2e-5)


def test_residuals_stay_what_is_left_of_the_ratings() -> None:
    """Protects the steps that are settled later: what the compiled code keeps is target less prediction."""
    interactions = data()
    (member,) = members(interactions, n=1, epochs=9)
    values = predicted(_model(interactions, PARAMS, [member], low=0.0, scale=1.0))
    users = interactions.pair_users()
    left = interactions.user_items.data - values[users, interactions.user_items.indices]
    np.testing.assert_allclose(member.residuals, left, atol=3e-5)


# A plain loop


class Plain:
    """One epoch by the book: every parameter in turn, all examples looked at for each, in float64."""

    def __init__(self, member: Member, known: SideFeatures, matrix: csr_matrix) -> None:
        self.sides = []
        for side, features_of in ((member.users, known.users), (member.items, known.items)):
            design, means = whole(side, features_of)
            post = side.posterior
            variances = np.c_[post.id_vars, post.feature_vars].astype(np.float64)
            groups = np.r_[np.zeros(post.ids.shape[1], int), side.layout.groups]
            order = np.r_[post.ids.shape[1] : design.shape[1], : post.ids.shape[1]]  # features before ids
            self.sides.append((design, means.copy(), variances, groups, order, post))
        users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        self.rows = users, matrix.indices
        self.targets, self.noise, self.offset = matrix.data.astype(np.float64), member.noise, member.offset

    def sums(self, side: int, f: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        design, means, variances, *_ = self.sides[side]
        rows = self.rows[side]
        return (design @ means[f])[rows], (design**2 @ variances[f])[rows]

    def predictions(self) -> NDArray[np.float64]:
        total = np.full(len(self.targets), self.offset)
        for side in (0, 1):
            total += self.sums(side, 0)[0]
        for f in range(1, len(self.sides[0][1])):
            p, q = self.sums(0, f)[0], self.sums(1, f)[0]
            total += p * q
            for side, s in ((0, p), (1, q)):
                design, means, *_ = self.sides[side]
                total += 0.5 * (s**2 - ((design * means[f]) ** 2).sum(axis=1)[self.rows[side]])
        return total

    def epoch(self) -> None:
        for f, side in itertools.product(range(len(self.sides[0][1])), (0, 1)):
            design, means, variances, groups, order, post = self.sides[side]
            others, spreads = self.sums(1 - side, f)
            for j in order:
                x = design[self.rows[side], j]
                residuals = self.targets - self.predictions()
                own = self.sums(side, f)[0]
                if f == 0:
                    slope, curvature = x @ residuals, x @ x
                else:
                    h = x * (others + own - x * means[f, j])
                    slope = h @ residuals - (x * own) @ spreads
                    curvature = h @ h + (x * x) @ spreads
                precision = post.precisions[f, groups[j]]
                sharp = curvature / self.noise + precision
                step = slope / self.noise - (means[f, j] - post.means[f, groups[j]]) * precision
                means[f, j] += step / sharp
                variances[f, j] = 1.0 / sharp

    def variance(self) -> NDArray[np.float64]:
        """Of every prediction, as `fm_member` counts it."""
        total = self.sums(0, 0)[1] + self.sums(1, 0)[1]
        for f in range(1, len(self.sides[0][1])):
            (p, of_p), (q, of_q) = self.sums(0, f), self.sums(1, f)
            total += p**2 * of_q + q**2 * of_p + of_p * of_q
        return total


@pytest.mark.parametrize("before", [0, 6])
def test_an_epoch_is_that_of_a_plain_loop(before: int) -> None:
    """Protects the compiled steps, before and after priors are learned: means and variances of all parameters."""
    interactions = data()
    known = interactions.features or SideFeatures()
    (member,) = members(interactions, n=1, epochs=before)
    plain = Plain(member, known, interactions.user_items)
    plain.epoch()
    member.epoch(reg=0.0, rate=1.0)
    for side, (_, means, variances, *_) in zip((member.users, member.items), plain.sides, strict=True):
        post = side.posterior
        np.testing.assert_allclose(np.c_[post.ids, post.features], means, atol=2e-5)
        np.testing.assert_allclose(np.c_[post.id_vars, post.feature_vars], variances, rtol=2e-4)


# Quality and settings


def test_a_low_rank_is_found() -> None:
    """Protects learning itself: held-out ratings are predicted far better than by the means of users and items."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(80, 2)) @ rng.normal(size=(2, 60))
    users, items = np.nonzero(rng.random(truth.shape) < 0.5)
    seen = from_events(
        coded(pa.table({"user": users, "item": items, "weight": 10 + truth[users, items]})), combine="sum"
    )
    model = fitted(seen, factors=16, epochs=20)
    held_out = np.ones(truth.shape, bool)
    held_out[users, items] = False
    errors = (predicted(model) - 10 - truth)[held_out]
    assert np.sqrt(np.mean(errors**2)) < 0.15 * truth.std()


def test_predictions_of_ratings_have_the_range_of_training() -> None:
    """Protects the cut: bounds are the least and the largest weight; labels have none."""
    assert fitted(data()).bounds == (1.0, 5.0)
    assert fitted(data(), task="label").bounds is None


def test_reg_shrinks_and_a_small_rate_arrives_too() -> None:
    """Protects reg and learning_rate: more reg, shorter vectors; a rate as of gradient descent arrives too."""
    sizes = [np.linalg.norm(fitted(data(), reg=reg).item_vectors) for reg in (0.0, 1.0, 10.0, 1000.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.01 * sizes[0]
    whole = predicted(fitted(data(), epochs=20))
    for rate in (0.1, 0.001):
        slow = predicted(fitted(data(), learning_rate=rate, epochs=30))
        assert 0 < np.sqrt(np.mean((slow - whole) ** 2)) < 0.25


@pytest.mark.parametrize("task", ["rating", "label"])
def test_threads_and_seeds(task: str) -> None:
    """Protects equal answers: with several members and any number of threads the same bits, another seed others."""
    params = PARAMS | {"task": task, "factors": 33, "epochs": 3}
    interactions = data()
    models = [
        fit("fm", interactions, params=params, seed=seed, threads=threads, label=RULE)
        for seed, threads in ((1, 1), (1, 3), (2, 1))
    ]
    assert models[0].user_vectors.shape == (N_USERS, 33)
    assert_same_bits(models[0], models[1])
    assert models[0].item_vectors.tobytes() != models[2].item_vectors.tobytes()


# Who is new


def test_an_item_that_nobody_can_say_anything_of_is_a_typical_one() -> None:
    """Protects what an item outside the catalogue is predicted as, the offset alone: new items have no bias."""
    interactions = data(with_features=False)
    matrix = interactions.user_items.copy()
    matrix.resize((N_USERS, N_ITEMS + 1))
    model = fitted(replace(interactions, user_items=matrix))
    assert model.item_bias[-1] == pytest.approx(0.0, abs=1e-5)
    assert not model.item_vectors[-1].any()
    assert abs(np.median(model.item_bias[:-1])) < 0.5


def test_a_new_user_is_the_sum_of_their_features() -> None:
    """Protects cold start: by vectors alone, and a user without anything known is at nobody's place."""
    model = fitted(data())
    assert model.user_features is not None
    vector, unknown = model.user_features.vector_of({"kind": ["a", "c"], "size": 2.0, "shoe": 44})
    vectors = model.user_features.vectors
    np.testing.assert_allclose(vector, 0.5 * vectors[0] + 0.5 * vectors[2] + 2.0 * vectors[3], rtol=1e-5)
    assert unknown == ["shoe"]
    assert fitted(data(with_features=False)).user_features is None


def test_users_are_their_features_and_what_sets_them_apart() -> None:
    """Protects the sum: users without an example of their own would stand where their features do."""
    interactions = data()
    empty = csr_matrix(
        (interactions.user_items.data, interactions.user_items.indices, interactions.user_items.indptr)
    )
    empty.resize((N_USERS + 1, N_ITEMS + 1))
    known = SideFeatures(features(N_USERS + 1, seed=1), features(N_ITEMS + 1, seed=2))
    model = fitted(replace(interactions, user_items=empty, features=known))
    assert known.users is not None
    assert model.user_features is not None
    expected = known.users.matrix[-1].toarray()[0] @ model.user_features.vectors
    np.testing.assert_allclose(model.user_vectors[-1], expected, atol=1e-5)
    assert np.isfinite(predicted(model)).all()


def test_features_say_something_of_who_is_new() -> None:
    """Protects learning of features: what a group likes is expected of an item and a user that nobody has seen."""
    rng = np.random.default_rng(0)
    n = 60
    groups = np.eye(2)[np.arange(n) % 2].astype(np.float32)
    users, items = np.nonzero(rng.random((n - 2, n - 2)) < 0.4)
    likes = np.where(users % 2 == items % 2, 5.0, 1.0)
    seen = from_events(coded(pa.table({"user": users, "item": items, "weight": likes})), combine="sum")
    matrix = seen.user_items
    matrix.resize((n, n))
    column = (FeatureColumn("group", ("even", "odd")),)
    known = SideFeatures(Features(csr_matrix(groups), column), Features(csr_matrix(groups), column))
    values = predicted(fitted(replace(seen, user_items=matrix, features=known), epochs=15))
    assert values[n - 2, n - 2] > 4.5
    assert values[n - 2, n - 1] < 1.5


# Labels


def test_labels_are_learned_as_probabilities() -> None:
    """Protects the label task: the link, and probabilities that are high where the rule holds and low elsewhere."""
    interactions = data()
    model = fitted(interactions, task="label", epochs=20)
    assert model.link == "logistic"
    found = expit(predicted(model)[interactions.pair_users(), interactions.user_items.indices])
    is_so = interactions.user_items.data >= 4
    assert found[is_so].mean() > found[~is_so].mean() + 0.15
    assert found.mean() == pytest.approx(is_so.mean(), abs=0.03)


def test_negatives_are_pairs_that_nobody_has() -> None:
    """Protects sampled negatives: of label 0, none of them a pair of the data, items nobody has are never drawn."""
    interactions = data()
    matrix = interactions.user_items.copy()
    matrix.data[:] = 1.0
    matrix.resize((N_USERS, N_ITEMS + 1))
    more = with_negatives(matrix, 2, seed=3)
    assert more.has_sorted_indices
    known, drawn = matrix.toarray(), more.toarray()
    assert (drawn[known > 0] == 1).all()
    assert drawn[known == 0].sum() == 0
    assert more.nnz > 1.5 * matrix.nnz
    assert not more[:, -1].nnz
    assert (more != with_negatives(matrix, 2, seed=3)).nnz == 0
    without, with_some = (fitted(interactions, task="label", negatives=n) for n in (0, 2))
    assert expit(predicted(with_some)).mean() < expit(predicted(without)).mean()


def test_what_cannot_be_learned_is_refused() -> None:
    """Protects from models of nothing: no rule, one class alone, equal weights, and a start that would be dropped."""
    interactions = data()
    with pytest.raises(DataError, match=r"needs the rule that makes labels.*--label"):
        fit("fm", interactions, params=LABEL, seed=0)
    with pytest.raises(DataError, match=r"every one of 301 pairs has the label True by the rule weight>=0"):
        fit("fm", interactions, params=LABEL, seed=0, label=parse_rule("weight>=0"))
    same = replace(interactions, user_items=interactions.user_items.copy())
    same.user_items.data[:] = 3.0
    with pytest.raises(
        DataError, match=r"all 301 weights are 3, so there is nothing to predict; use task=label"
    ):
        fit("fm", same, params=PARAMS, seed=0)
    with pytest.raises(DataError, match=r"found a model, expected none; start afresh"):
        fit("fm", interactions, params=PARAMS, seed=0, start=fitted(interactions))
    all_positive = fit("fm", same, params=LABEL | {"negatives": 3}, seed=0, label=parse_rule("weight>=1"))
    assert all_positive.item_vectors.any() or all_positive.item_bias.any()
