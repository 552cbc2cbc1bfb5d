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

from nightrank.compiled import read_only
from nightrank.data.features import Features, SideFeatures
from nightrank.data.grouping import occurrences
from nightrank.models.fm_steps import Examples, Layout, Memory, Own, Posterior, Steps, add_features, epoch

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
# What a factor's prior is before it is learned, and in which spread its items' ids begin. Of targets of variance 1.
PRECISION, SPREAD = 5.0, 0.1
# Whole steps before priors are learned: from random numbers they would learn that nothing is there.
WARM = 5.0
_SHAPE, _RATE = 1.0, 0.01  # of the Gamma hyperprior: two more features whose squares have a mean of 0.01


@dataclass(frozen=True)
class Problem:
    """What all members learn from, and share. examples: by user; of labels, weights are those to begin with.
    targets: float32 (n,), standardised ratings, or labels 0 and 1. n_items: with and without examples. users, items:
    which features the rows have beside their id. is_label: targets are labels."""

    examples: Examples
    targets: Floats
    n_items: int
    users: Layout
    items: Layout
    is_label: bool

    @classmethod
    def of(cls, matrix: csr_matrix, *, known: SideFeatures, is_label: bool) -> Problem:
        """matrix: CSR of targets (n_users, n_items). known: features of both sides."""
        weights = np.ones(len(matrix.data), np.float32)
        examples = Examples(
            read_only(matrix.indptr, np.int64), read_only(matrix.indices, np.int32), read_only(weights)
        )
        layouts = layout_of(known.users), layout_of(known.items)
        return cls(examples, matrix.data, matrix.shape[1], *layouts, is_label)


def layout_of(known: Features | None) -> Layout:
    """The features by column of the matrix, a group of priors for every column of metadata."""
    if known is None:
        nothing = read_only(np.zeros(0, np.int32))
        return Layout(read_only(np.zeros(1, np.int64)), nothing, read_only(nothing, np.float32), nothing)
    matrix = known.matrix.tocsc()
    groups = np.repeat(np.arange(1, len(known.columns) + 1), [one.n_features for one in known.columns])
    return Layout(
        read_only(matrix.indptr, np.int64),
        read_only(matrix.indices, np.int32),
        read_only(matrix.data, np.float32),
        read_only(groups, np.int32),
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

    def feature_sums(self) -> Doubles:
        """float64 (factors + 1, n_rows): what each row's features come to, the id left out."""
        post = self.posterior
        found = np.zeros(post.ids.shape)
        add_features(self.layout, post.features, found)
        return found

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
        offsets, items, _ = problem.examples
        n_users, n_items = len(offsets) - 1, problem.n_items
        start = np.zeros((factors + 1, n_items), np.float32)
        start[1:] = rng.normal(0.0, SPREAD, (factors, n_items))
        nobody = np.zeros((factors + 1, n_users), np.float32)
        occurring = np.diff(offsets) > 0, occurrences(items, n_items) > 0
        self.users = Side(problem.users, occurring[0], factors=factors, start=nobody)
        self.items = Side(problem.items, occurring[1], factors=factors, start=start)
        self.problem, self.weights = problem, problem.examples.weights
        self.memory = _memory(n_users, n_items)
        # Users begin at 0, and so does every prediction.
        self.residuals = problem.targets.astype(np.float32)
        self.offset, self.noise, self.progress = 0.0, 1.0, 0.0
        if problem.is_label:
            self._reweigh(np.zeros(len(self.residuals)))

    def epoch(self, *, reg: float, rate: float) -> None:
        """Every coordinate, then noise, priors and the offset."""
        steps = Steps(1.0 / self.noise, reg, rate)
        users, items = self.users, self.items
        epoch(
            self.problem.examples._replace(weights=read_only(self.weights)),
            self.residuals,
            users.layout,
            users.posterior,
            items.layout,
            items.posterior,
            self.memory,
            steps,
        )
        self._centre()
        if self.problem.is_label:
            self._reweigh(((self.problem.targets - 0.5) / self.weights - self.residuals).astype(np.float64))
        else:
            squares = np.einsum("i,i->", self.residuals, self.residuals, dtype=np.float64)
            self.noise = float((squares + self.memory.variance.sum()) / len(self.residuals))
        self.progress += rate
        if self.progress > WARM:
            users.learn_priors(rate)
            items.learn_priors(rate)

    def _centre(self) -> None:
        weights, residuals = self.weights, self.residuals
        total = weights.sum(dtype=np.float64)
        step = float(np.einsum("i,i->", weights, residuals, dtype=np.float64) / total)
        self.offset += step
        self.residuals -= np.float32(step)

    def _reweigh(self, logits: Doubles) -> None:
        """Take the bound at these logits, float64 (n,): new weights, and residuals of the targets that go with it."""
        users = np.repeat(np.arange(len(self.memory.variance)), np.diff(self.problem.examples.offsets))
        totals = np.bincount(users, self.weights, minlength=len(self.memory.variance))
        variances = self.memory.variance / np.maximum(totals, np.finfo(np.float64).tiny)
        spread = np.maximum(np.sqrt(np.square(logits) + variances[users]), 1e-3)
        self.weights = (np.tanh(spread / 2) / (2 * spread)).astype(np.float32)
        self.residuals = ((self.problem.targets - 0.5) / self.weights - logits).astype(np.float32)


def _memory(n_users: int, n_items: int) -> Memory:
    def own(n: int) -> Own:
        return Own(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, 6)))

    held = np.zeros((n_items, 4), np.float32)
    return Memory(own(n_users), own(n_items), held, np.zeros(n_users), np.zeros(n_users))
