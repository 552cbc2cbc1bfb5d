"""hybrid: users and items as sums of the vectors of their features, trained for ranking with WARP or BPR.

    score = (sum of the user's features' vectors) . (sum of the item's features' vectors) + sum of the item's biases

Features are the metadata of the interactions, and one more for each user and item, its own (`ids` says on which
sides). A row's own feature carries what sets it apart, metadata what it shares with others. An item without
interactions has none of its own: it ranks by its metadata, and is never drawn as a negative, which would only teach
that nobody has it yet. A new user is the sum of their features (`FactorModel.user_features`). Biases of users order
nothing and are left out.

Beside own features each of a side's c columns weighs 1 / c, so that all of the metadata weighs as much as the own
one, however many columns there are: at full weight a row moves c + 1 times as far in a step, and is regularised as
much less, its sum being made of so many small vectors, which drowns what sets it apart.

An epoch draws as many pairs as there are, each in proportion to its weight (with equal weights each once), so a
weight says how often a pair happened, as in als and ials; its scale changes nothing. To a pair items are drawn,
uniformly among those with interactions, until one is not the user's and

    bpr:  loss = log(1 + e^-gap), gap = score of the pair's item - score of the one drawn;
    warp: gap < 1, at draw t of at most MOST; loss = L(k) / L(n - 1) * (1 - gap), k = max(1, (n - 1) // t), of n items
          with interactions an estimate of how many stand above the pair's, L(k) = 1 + 1/2 + ... + 1/k.

Then a step of stochastic gradient descent (`hybrid_steps`) is made on this, and on reg / 2 times the square of each
coordinate that it touches, so a rare feature is not worn down by others' steps.

Source: Kula, "Metadata embeddings for user and item cold-start recommendations", CBRecSys 2015 (the model; his
library LightFM for the start, the adaptive rates and MOST); Weston, Bengio, Usunier, "WSABIE: Scaling up to large
vocabulary image annotation", IJCAI 2011 (WARP); Rendle et al., "BPR", UAI 2009. We differ: L is divided by its
largest value, so that rates mean the same with both losses; metadata weighs by columns; a feature that two items
share takes no step, where LightFM makes two that all but cancel; weights are drawn by and do not scale steps, so
none is too large for the rate. Neither LightFM nor its forks are used: their threads race, so with two of them no
fit can be repeated.

The model depends on seed and data, not on threads, nor on the order of events. A model trained on samples has no
problem of its own to solve for one user, so there is no fold-in of events; a warm start is for ids alone, since a
model keeps sums. A fit holds 8 bytes a pair beside its input, and the vectors of all features twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array, hstack
from scipy.special import digamma

from nightrank.compiled import read_only
from nightrank.data.features import Features, SideFeatures
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import FactorModel, FeatureVectors, Params, factor_model
from nightrank.models.fittable import check_known
from nightrank.models.fitting import Epoch, Fitting
from nightrank.models.hybrid_steps import Batch, Floats, Pairs, Side, Table, Task, choose, draw, pull
from nightrank.models.products import LANES

MOST = 10  # draws
# The pairs of a batch choose by vectors that are a batch old. Measured 2026-11, 550,000 pairs, 10 epochs: with 256,
# 1,024, 4,096 and 16,384 NDCG@10 is the same to 0.0004, with both losses; threads wait less for each other with more.
BATCH = 16_384
FEWEST = 32  # batches of an epoch, or a small data set would be one
SHARE = 512  # pairs of a batch for a thread; to wake one costs as much as some hundred


def fit_hybrid(interactions: Interactions, params: Params, how: Fitting) -> FactorModel:
    """Fit `factors`, `reg`, `learning_rate`, `epochs`, `loss` (bpr or warp), `ids` (both, items, users or none).

    user_features: the vectors of the users' features, where the interactions have some.
    Raises DataError where a side has neither ids nor features, or for a warm start with features.
    """
    epochs = int(params["epochs"])
    task = _task(interactions, params, how)
    model = partial(_model, interactions, params, task)
    with ThreadPoolExecutor(how.threads) as pool:
        for number in range(1, epochs + 1):
            keys = np.random.SeedSequence([how.seed, number]).generate_state(2, np.uint64).astype(np.uint64)
            loss = partial(float, _epoch(task, pool, keys=keys, threads=how.threads))
            if not how.goes_on(Epoch(number, epochs, model=model, loss=loss)):
                break
    return model()


def _task(interactions: Interactions, params: Params, how: Fitting) -> Task:
    features = interactions.features or SideFeatures()
    matrix, ids, d = interactions.user_items, str(params["ids"]), int(params["factors"])
    occurring = np.flatnonzero(interactions.item_counts).astype(np.int32)
    users = _side("users", features.users, own=np.arange(matrix.shape[0]), n=matrix.shape[0], ids=ids)
    items = _side("items", features.items, own=occurring, n=matrix.shape[1], ids=ids)
    vectors = _start(interactions, how, widths=(d, d + 1), n_features=(users.shape[1], items.shape[1]))
    order = np.empty(matrix.nnz, dtype=np.int32 if matrix.nnz <= np.iinfo(np.int32).max else np.int64)
    size = min(BATCH, 1 + matrix.nnz // FEWEST)
    return Task(
        users=_rows(users),
        items=_rows(items),
        user_table=Table(vectors[0], np.ones_like(vectors[0])),
        item_table=Table(vectors[1], np.ones_like(vectors[1])),
        pairs=Pairs(
            offsets=read_only(matrix.indptr, np.int64),
            items=read_only(matrix.indices, np.int32),
            users=read_only(interactions.pair_users(), np.int32),
            weights=read_only(matrix.data, np.float32),
            order=order,
            pool=read_only(occurring, np.int32),
        ),
        batch=Batch(np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.float32)),
        rank_weights=read_only(rank_weights(len(occurring)), np.float32),
        is_warp=params["loss"] == "warp",
        n_most=int(np.diff(items.indptr).max()),
        rate=np.float32(params["learning_rate"]),
        reg=np.float32(params["reg"]),
    )


def rank_weights(n_items: int) -> NDArray[np.float64]:
    """L(k) / L(n_items - 1) by the draws that it took, from 1: float64 (MOST,), see the module."""
    ranks = np.maximum((n_items - 1) // np.arange(1, MOST + 1), 1)
    sums: NDArray[np.float64] = digamma(ranks + 1.0) + np.euler_gamma
    sums /= sums[0]
    return sums


def _side(name: str, known: Features | None, *, own: NDArray[np.integer], n: int, ids: str) -> csr_matrix:
    """The features of n rows, CSR float32: ids, a column a row that is empty but for the rows `own`, then `known` by
    its weight."""
    columns = np.zeros(n, dtype=np.float32)
    if _has_ids(name, ids):
        columns[own] = 1.0
    else:
        check_known(known, name=name, ids=ids)
    parts = [
        diags_array(columns, format="csr"),
        *([] if known is None else [known.matrix * _weight(name, known, ids)]),
    ]
    matrix = csr_matrix(hstack(parts, format="csr", dtype=np.float32))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def _has_ids(name: str, ids: str) -> bool:
    return ids in ("both", name)


def _weight(name: str, known: Features, ids: str) -> np.float32:
    """What the side's metadata counts: beside ids a share of 1 for each column."""
    return np.float32(1 / max(len(known.columns), 1) if _has_ids(name, ids) else 1)


def _start(
    interactions: Interactions, how: Fitting, *, widths: tuple[int, int], n_features: tuple[int, int]
) -> list[Floats]:
    """The vectors to begin with: uniform within 0.5 / d of 0 as in LightFM, biases 0; or those of a warm start."""
    start = how.started("hybrid", interactions, factors=widths[0])
    if start is not None:
        if interactions.features is not None:
            raise DataError(
                "hybrid with features cannot go on from a model, which holds sums and not the vectors of the items' "
                "features; leave the warm start out"
            )
        return [start[0], np.c_[start[1], start[2]]]
    rng, tables = np.random.default_rng(how.seed), []
    for width, n in zip(widths, n_features, strict=True):
        table = np.zeros((n, width), dtype=np.float32)
        table[:, : widths[0]] = (rng.random((n, widths[0]), dtype=np.float32) - 0.5) / widths[0]
        tables.append(table)
    return tables


def _epoch(task: Task, pool: ThreadPoolExecutor, *, keys: NDArray[np.uint64], threads: int) -> float:
    """Improve the tables by one pass, in place; the mean loss of the pairs, each at the vectors it was drawn by.

    keys: uint64 (2,), of the order of pairs and of the negatives.
    """
    pairs, losses, total = task.pairs, task.batch.losses, 0.0
    draw(pairs.weights, pairs.order, keys[0])
    size = len(losses)
    threads = max(min(threads, size // SHARE), 1)
    columns = _parts(task.item_table.vectors.shape[1], threads, step=LANES)
    for start in range(0, len(pairs.order), size):
        n = min(size, len(pairs.order) - start)
        _all(pool, [partial(choose, task, keys[1], start, *part) for part in _parts(n, threads)])
        _all(pool, [partial(pull, task, start, n, *part) for part in columns])
        total += float(losses[:n].sum(dtype=np.float64))
    return total / len(pairs.order)


def _all(pool: ThreadPoolExecutor, calls: Sequence[Callable[[], None]]) -> None:
    """Make the calls, the first by this thread itself."""
    rest = [pool.submit(call) for call in calls[1:]]
    calls[0]()
    for one in rest:
        one.result()


def _parts(n: int, threads: int, *, step: int = 1) -> list[tuple[int, int]]:
    """Up to `threads` ranges of about the same length that make up n, ends at multiples of `step`."""
    length = -(-n // (threads * step)) * step
    return [(first, min(first + length, n)) for first in range(0, n, length)]


def _model(interactions: Interactions, params: Params, task: Task) -> FactorModel:
    d = task.user_table.vectors.shape[1]
    items = _sums(task.items, task.item_table.vectors)
    known = interactions.features.users if interactions.features is not None else None
    model = factor_model(
        "hybrid",
        params,
        users=_sums(task.users, task.user_table.vectors),
        items=items[:, :d],
        item_bias=items[:, d],
    )
    if known is None:
        return model
    n = interactions.user_items.shape[0]
    vectors = task.user_table.vectors[n:] * _weight("users", known, str(params["ids"]))
    return replace(model, user_features=FeatureVectors(known.columns, vectors))


def _sums(side: Side, vectors: Floats) -> Floats:
    shape = len(side.offsets) - 1, len(vectors)
    sums: Floats = csr_matrix((side.values, side.features, side.offsets), shape=shape) @ vectors
    return sums


def _rows(matrix: csr_matrix) -> Side:
    return Side(
        read_only(matrix.indptr, np.int64),
        read_only(matrix.indices, np.int32),
        read_only(matrix.data, np.float32),
    )
