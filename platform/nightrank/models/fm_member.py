"""One member of fm's ensemble: the variational posterior of a factorization machine of a few factors, by epochs.

Each parameter's posterior is a normal of its own (mean field); a step takes one to the exact optimum given the
others. Priors are normal, with a mean and a precision for every factor and column (the ids are one, too), learned
from the posteriors under a Gamma hyperprior, and so is the variance of the noise: nothing is left to be tuned.

Of the variance of a prediction the part across the sides is counted, Var(P_f Q_f), not that of a row's own pairs.
Labels are learned under the quadratic bound of the logistic function, where an example weighs tanh(z / 2) / (2 z), z
the root of the expected square of its logit, and its residual is that of the target (label - 1/2) / weight.

Source: Rendle, "Factorization machines with libFM", ACM TIST 2012 (coordinate steps, and priors by column, of which
this takes means and variances in place of samples); Lim and Teh, "Variational Bayesian approach to movie rating
prediction", KDD Cup 2007; Jaakkola and Jordan, "Bayesian parameter estimation via variational methods", 2000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.data.features import Features
from nightrank.models.fm_steps import Examples, Layout, Memory, Own, Posterior, Steps, epoch, row_sums

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
# What a factor's prior is before it is learned, and in which spread its items' ids begin. Of targets of variance 1.
PRECISION, SPREAD = 5.0, 0.1
WARM = (
    5.0  # whole steps before priors are learned: from random numbers they would learn that nothing is there
)
_SHAPE, _RATE = 1.0, 0.01  # of the Gamma hyperprior: two more features whose squares have a mean of 0.01


@dataclass(frozen=True)
class Problem:
    """What all members learn from. examples: by user, CSR of targets float32 (n_users, n_items): standardised
    ratings, or labels 0 and 1. users, items: which features the rows have beside their id. is_label: targets are
    labels."""

    examples: csr_matrix
    users: Features | None
    items: Features | None
    is_label: bool


def layout_of(known: Features | None) -> Layout:
    """The features by column of the matrix, a group of priors for every column of metadata."""
    if known is None:
        nothing = np.zeros(0, np.int32)
        return Layout(np.zeros(1, np.int64), nothing, nothing.astype(np.float32), nothing)
    matrix = known.matrix.tocsc()
    groups = np.repeat(np.arange(1, len(known.columns) + 1), [one.n_features for one in known.columns])
    return Layout(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float32),
        groups.astype(np.int32),
    )


class Side:
    """A side's layout and posterior. occurring: bool (n_rows,), the rows that examples are of."""

    def __init__(self, layout: Layout, occurring: NDArray[np.bool_], *, factors: int, start: Floats) -> None:
        n_groups = 1 + int(layout.groups.max(initial=0))
        precisions = np.full((factors + 1, n_groups), PRECISION)
        precisions[0] = 1.0
        shape = (factors + 1, len(layout.groups))
        self.layout, self.occurring = layout, occurring
        self.posterior = Posterior(
            ids=start,
            id_vars=np.full(start.shape, SPREAD**2, np.float32),
            features=np.zeros(shape, np.float32),
            feature_vars=np.full(shape, SPREAD**2, np.float32),
            precisions=precisions,
            means=np.zeros_like(precisions),
        )

    def learn_priors(self, rate: float) -> None:
        """Take every prior `rate` of the way to what the posteriors say."""
        post = self.posterior
        for group in range(post.precisions.shape[1]):
            if group == 0:
                means, variances = post.ids[:, self.occurring], post.id_vars[:, self.occurring]
            else:
                chosen = self.layout.groups == group
                means, variances = post.features[:, chosen], post.feature_vars[:, chosen]
            n = means.shape[1]
            centre = means.sum(axis=1, dtype=np.float64) / (n + 1)
            squares = np.square(means - centre[:, None]).sum(axis=1) + variances.sum(axis=1, dtype=np.float64)
            precision = (n + 2 * _SHAPE) / (squares + 2 * _SHAPE * _RATE)
            post.means[:, group] += rate * (centre - post.means[:, group])
            post.precisions[:, group] **= 1.0 - rate
            post.precisions[:, group] *= precision**rate


class Member:
    """A member under way. rows of everything: linear terms first, then factors."""

    def __init__(self, problem: Problem, *, factors: int, rng: np.random.Generator) -> None:
        matrix = problem.examples
        n_users, n_items = matrix.shape
        starts = np.zeros((factors + 1, n_users), np.float32), np.zeros((factors + 1, n_items), np.float32)
        starts[1][1:] = rng.normal(0.0, SPREAD, (factors, n_items))
        sizes = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=n_items)
        self.users = Side(layout_of(problem.users), sizes[0] > 0, factors=factors, start=starts[0])
        self.items = Side(layout_of(problem.items), sizes[1] > 0, factors=factors, start=starts[1])
        self.user_of = np.repeat(np.arange(n_users), sizes[0])
        self.is_label, self.n = problem.is_label, len(matrix.data)
        self.examples = Examples(
            matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), np.ones(self.n, np.float32)
        )
        self.halves = matrix.data - np.float32(0.5) if self.is_label else None  # label - 1/2
        self.memory = _memory(n_users, n_items)
        # Users begin at 0, and so does every prediction.
        self.residuals = matrix.data.astype(np.float32)
        self.offset, self.noise, self.progress = 0.0, 1.0, 0.0
        if self.halves is not None:
            self._reweigh()

    def epoch(self, *, reg: float, rate: float) -> None:
        """Every coordinate, then noise, priors and the offset."""
        steps = Steps(1.0 / self.noise, reg, rate)
        users, items = self.users, self.items
        epoch(
            self.examples,
            self.residuals,
            users.layout,
            users.posterior,
            items.layout,
            items.posterior,
            self.memory,
            steps,
        )
        self._centre()
        if self.halves is not None:
            self._reweigh()
        else:
            squares = np.square(self.residuals, dtype=np.float64).sum()
            self.noise = float((squares + self.memory.variance.sum()) / self.n)
        self.progress += rate
        if self.progress > WARM:
            users.learn_priors(rate)
            items.learn_priors(rate)

    def sums(self, side: Side) -> Doubles:
        """float64 (factors + 1, n_rows): what each row's features come to."""
        post = side.posterior
        found = np.empty(post.ids.shape)
        row_sums(side.layout, post.ids, post.features, found)
        return found

    def _centre(self) -> None:
        weights = self.examples.weights
        step = float(np.dot(weights, self.residuals.astype(np.float64)) / weights.sum(dtype=np.float64))
        self.offset += step
        self.residuals -= np.float32(step)

    def _reweigh(self) -> None:
        """The bound at the logits as they are now."""
        assert self.halves is not None  # noqa: S101  for labels alone
        weights = self.examples.weights
        if self.progress == 0.0 and not self.memory.variance.any():
            logits = np.zeros(self.n)
        else:
            logits = self.halves / weights - self.residuals
        totals = np.bincount(self.user_of, weights, minlength=len(self.memory.variance))
        variances = (self.memory.variance / np.maximum(totals, 1e-12))[self.user_of]
        spread = np.maximum(np.sqrt(np.square(logits, dtype=np.float64) + variances), 1e-3)
        weights[:] = np.tanh(spread / 2) / (2 * spread)
        self.residuals[:] = self.halves / weights - logits


def _memory(n_users: int, n_items: int) -> Memory:
    def own(n: int) -> Own:
        return Own(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, 6)))

    held = np.zeros((n_items, 4), np.float32)
    return Memory(own(n_users), own(n_items), held, np.zeros(n_users), np.zeros(n_users))
