"""fm: a second-order factorization machine over user id, item id and the features of both.

    prediction = w0 + sum of w_j x_j + sum over all pairs of features <v_i, v_j> x_i x_j

x holds a 1 for the user, a 1 for the item, and their features (`Interactions.features`). With P the sum of x_j v_j
over the user's features and Q that over the item's, the pairs are P.Q and those within either side, which are half
of (|P|^2 - the sum of |x_j v_j|^2). So a prediction is a score P.Q + item_bias plus a user_offset, to the letter:
what is constant for a user goes to the offset. Ids are counted from the mean of their prior, and what that mean
brings is in item_bias and user_offset, so that a new user is the sum of their features' vectors and nothing else.

task rating: square loss on the weights of the interactions, standardised while fitting; a prediction is cut to the
range of training's weights (`bounds`). task label: log loss on the classes that a rule makes of the weights, and
`negatives` more pairs of label 0 for every pair, drawn once, uniformly among the items that somebody has and this
user does not; a prediction is a logit.

What is fitted is the mean of up to 8 machines with a share of the factors each, begun at different random vectors:
the mean of their predictions is the prediction of one machine that has all their factors side by side. Each is the
mean of a variational posterior whose priors are learned from the data (`fm_member`), so there is no regularisation
to be tuned: `reg` is added to what is learned. A whole step takes a coordinate to its optimum, that is by slope /
curvature: every coordinate has a rate of its own. The first epoch goes `learning_rate` of that way, each one after it
twice as far as the last, up to all of it.

Source: Rendle, "Factorization machines", ICDM 2010. Members are fitted by a thread each, so threads beyond those have
nothing to do; the model does not depend on how many there are. Beside its input a fit holds 8 bytes a pair, every
member 4 more (8 for labels), and 8 bytes for each factor of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from nightrank.data.features import SideFeatures
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import FactorModel, FeatureVectors, Params, factor_model
from nightrank.models.fittable import check_classes, rating_scale
from nightrank.models.fitting import Epoch, Fitting
from nightrank.models.fm_member import Member, Problem, Side

Doubles = NDArray[np.float64]
CHUNK_DRAWS = 1 << 20  # of negatives at a time, about 60 MB
MEMBERS, WIDTH = 8, 16  # at most; factors of a member at least, where there are as many


def fit_fm(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `learning_rate`, `epochs`, `task`, `negatives`; how.label makes the classes of task
    label.

    Raises DataError where there is nothing to tell apart (all weights equal, all of one class), for task label
    without a rule, and for a warm start."""
    if how.start is not None:
        raise DataError(
            "a warm start needs the whole posterior of fm, of which a model keeps sums: found a model, expected "
            "none; start afresh"
        )
    problem, low, scale = _problem(interactions, params, how)
    epochs, d = int(params["epochs"]), int(params["factors"])
    n_members = max(1, min(MEMBERS, d // WIDTH))
    seeds = np.random.SeedSequence(how.seed).spawn(n_members)
    members = [
        Member(problem, factors=len(share), rng=np.random.default_rng(seed))
        for share, seed in zip(np.array_split(np.arange(d), n_members), seeds, strict=True)
    ]
    model = partial(_model, interactions, params, members, low=low, scale=scale)
    rate = float(params["learning_rate"])
    with ThreadPoolExecutor(how.threads) as pool:
        for number in range(1, epochs + 1):
            list(pool.map(partial(Member.epoch, reg=float(params["reg"]), rate=rate), members))
            rate = min(1.0, 2.0 * rate)
            if not how.goes_on(Epoch(number, epochs, model=model)):
                break
    return model()


def _problem(interactions: Interactions, params: Params, how: Fitting) -> tuple[Problem, float, float]:
    """The examples, and what a target of 0 and of 1 more is on the scale of predictions."""
    features = interactions.features or SideFeatures()
    matrix = interactions.user_items
    is_label = params["task"] == "label"
    low, scale = 0.0, 1.0
    if is_label:
        if how.label is None:
            raise DataError(
                'fm with task=label needs the rule that makes labels of weights; give label: "weight>=4" in the job '
                "file, or --label"
            )
        targets = how.label.holds(matrix.data).astype(np.float32)
        examples = csr_matrix((targets, matrix.indices, matrix.indptr), shape=matrix.shape)
        if params["negatives"]:
            examples = with_negatives(examples, int(params["negatives"]), seed=how.seed)
        check_classes(examples.data, rule=how.label)
    else:
        low, scale = rating_scale(matrix.data)
        targets = (matrix.data - np.float32(low)) / np.float32(scale)
        examples = csr_matrix((targets, matrix.indices, matrix.indptr), shape=matrix.shape)
    return Problem.of(examples, known=features, is_label=is_label), low, scale


def with_negatives(examples: csr_matrix, n: int, *, seed: int) -> csr_matrix:
    """The same labels, and for each pair n pairs of label 0 that are not among them, fewer where a draw repeats one.

    Uniform over the items that occur. Columns stay sorted. Working memory is that of CHUNK_DRAWS draws.
    """
    n_users, n_items = examples.shape
    occurring = np.flatnonzero(np.bincount(examples.indices, minlength=n_items))
    rng = np.random.default_rng([seed, n])
    ends = np.searchsorted(
        examples.indptr, np.arange(0, examples.nnz, max(1, CHUNK_DRAWS // n)), side="right"
    )
    bounds = np.unique(np.r_[0, ends, n_users])
    parts = [
        _drawn(examples[first:last], n, occurring=occurring, rng=rng)
        for first, last in itertools.pairwise(bounds)
    ]
    whole = vstack(parts, format="csr", dtype=np.float32)
    return csr_matrix((whole.data, whole.indices, whole.indptr), shape=examples.shape)


def _drawn(
    examples: csr_matrix, n: int, *, occurring: NDArray[np.int64], rng: np.random.Generator
) -> csr_matrix:
    """`with_negatives` of some users."""
    n_users, n_items = examples.shape
    users = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(examples.indptr))
    keys = users * n_items + examples.indices
    drawn = np.repeat(users, n) * n_items + occurring[rng.integers(len(occurring), size=n * len(users))]
    negatives = np.setdiff1d(drawn, keys)
    merged = np.r_[keys, negatives]
    order = np.argsort(merged)
    labels = np.r_[examples.data, np.zeros(len(negatives), np.float32)][order]
    rows, columns = np.divmod(merged[order], n_items)
    ends = np.r_[0, np.cumsum(np.bincount(rows, minlength=n_users))]
    return csr_matrix((labels, columns.astype(np.int32), ends), shape=examples.shape)


def _model(
    interactions: Interactions, params: Params, members: Sequence[Member], *, low: float, scale: float
) -> FactorModel:
    """The mean of the members as one model: vectors side by side, everything else added up."""
    share = scale / len(members)
    root = np.sqrt(share)  # either side's part of it
    users, items, feature_vectors = [], [], []
    item_bias, user_offset = (
        np.zeros(interactions.user_items.shape[1]),
        np.full(interactions.user_items.shape[0], low),
    )
    for member in members:
        p, own_users = _counted_from_prior(member.users)
        q, own_items = _counted_from_prior(member.items)
        means = member.users.posterior.means[1:, 0], member.items.posterior.means[1:, 0]
        users.append(root * p.T)
        items.append(root * q.T)
        typical = member.items.posterior.means[0, 0]  # of an item that the model does not know, too
        item_bias += share * (own_items - typical + means[0] @ q)
        user_offset += share * (member.offset + typical + own_users + means[1] @ p + means[0] @ means[1])
        feature_vectors.append(root * member.users.posterior.features[1:].T)
    is_rating = params["task"] == "rating"
    weights = interactions.user_items.data
    known = None if interactions.features is None else interactions.features.users
    model = factor_model(
        "fm",
        params,
        users=np.concatenate(users, axis=1),
        items=np.concatenate(items, axis=1),
        item_bias=item_bias,
        user_offset=user_offset,
        link="identity" if is_rating else "logistic",
    )
    if known is not None:
        vectors = np.concatenate(feature_vectors, axis=1).astype(np.float32)
        model = replace(model, user_features=FeatureVectors(known.columns, vectors))
    return replace(model, bounds=(float(weights.min()), float(weights.max()))) if is_rating else model


def _counted_from_prior(side: Side) -> tuple[Doubles, Doubles]:
    """Vectors less the mean of the ids' prior, float64 (factors, n_rows); linear terms and pairs of a row's own
    features, float64 (n_rows,). A row without examples has its id at that mean."""
    post, layout = side.posterior, side.layout
    means = post.means[:, :1]
    own = np.where(
        side.occurring, post.ids - means, 0.0
    )  # exactly 0 without examples: such a vector points nowhere
    vectors = own + side.feature_sums()
    squares = np.square(own[1:] + means[1:])
    if len(layout.groups):
        by_feature = csr_matrix(
            (np.square(layout.values, dtype=np.float64), layout.rows, layout.starts),
            shape=(len(layout.groups), own.shape[1]),
        )
        squares += np.square(post.features[1:], dtype=np.float64) @ by_feature
    pairs = 0.5 * (np.square(vectors[1:] + means[1:]) - squares).sum(axis=0)
    return vectors[1:], vectors[0] + means[0] + pairs
