"""Compiled: one epoch of coordinate steps over a factorization machine's variational posterior (see `fm`).

Everything goes factor by factor, so that what is gathered by row is a few numbers and stays in cache. Of one factor
(the first stands for the linear terms) with P and Q the sums of the users' and the items' feature values, a pass over
the examples takes what all features of a user need: with e the residual and w the weight of an example, the sums of
w e, w e q, w, w q, w q^2 and w var(q). A feature's curvature and slope then are sums over the rows that have it, and
not over examples. Two passes a factor: the first settles what the items have become and gathers for the users, the
second settles what the users have become and gathers for the items.

Sums are float64, stored numbers float32. A member of the ensemble is done by one thread, so nothing depends on how
many there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled, inner

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
Rows = NDArray[np.int32]
ERROR, SLOPE, WEIGHT, SUM, SQUARES, SPREAD = range(6)  # columns of the gathered sums
NEW, SPREAD_OF, STEP, SHIFT = range(4)  # columns of what the items hold while a pass goes by


class Examples(NamedTuple):
    """By user. offsets: int64 (n_users + 1,). items: int32 (n,). weights: float32 (n,), of the squared residual."""

    offsets: Counts
    items: Rows
    weights: Floats


class Layout(NamedTuple):
    """Which features the rows of a side have beside their id: by feature (starts, rows, values), and the group that
    each feature's prior is of; group 0 is the ids'. starts: int64 (n_features + 1,). groups: int32 (n_features,)."""

    starts: Counts
    rows: Rows
    values: Floats
    groups: Rows


class Posterior(NamedTuple):
    """Of one side. ids, features: float32 (k + 1, n_rows) and (k + 1, n_features), means of the linear weight, then
    of the factors. id_vars, feature_vars: their variances. precisions, means: float64 (k + 1, n_groups), of the
    priors."""

    ids: Floats
    id_vars: Floats
    features: Floats
    feature_vars: Floats
    precisions: Doubles
    means: Doubles


class Own(NamedTuple):
    """Of one side and the factor in hand, float64 (n_rows,): sums and spreads, means and variances of what a row's
    features come to; before (the sums as they were, then how far they have gone); pairs (the interactions of a row's
    own features, likewise). gathered: float64 (n_rows, 6)."""

    sums: Doubles
    spreads: Doubles
    before: Doubles
    pairs: Doubles
    gathered: Doubles


class Memory(NamedTuple):
    """A member's own. held: float32 (n_items, 4). last: float64 (n_users,), the users' sums of the factor before.
    variance: float64 (n_users,), of all factors, the sum over a user's examples of weight * variance of the
    prediction."""

    users: Own
    items: Own
    held: Floats
    last: Doubles
    variance: Doubles


class Steps(NamedTuple):
    """inverse_noise: 1 / the variance of an example of weight 1. reg: added to every prior's precision. rate: the
    part of the way to a coordinate's minimiser that a step goes."""

    inverse_noise: float
    reg: float
    rate: float


@compiled
def epoch(  # noqa: PLR0913  what a member is made of
    examples: Examples,
    residuals: Floats,
    user_layout: Layout,
    users: Posterior,
    item_layout: Layout,
    items: Posterior,
    memory: Memory,
    steps: Steps,
) -> None:
    """Every coordinate once; residuals float32 (n,) are kept up to date."""
    held, of_users, of_items = memory.held, memory.users, memory.items
    memory.variance[:] = 0.0
    held[:] = np.float32(0.0)  # no steps of items are left to be settled
    for f in range(users.ids.shape[0]):
        _sum_up(item_layout, items, f, of_items)
        for i in range(held.shape[0]):
            held[i, NEW] = of_items.sums[i] if f else 1.0
            held[i, SPREAD_OF] = of_items.spreads[i]
        _settle_items(examples, residuals, memory)
        _sum_up(user_layout, users, f, of_users)
        _add_variance(memory, f)
        _begin(user_layout, users, f, of_users)
        _move(user_layout, users, f, of_users, steps)
        _end(user_layout, users, f, of_users)
        _sum_up(user_layout, users, f, of_users)
        _settle_users(examples, residuals, memory, f)
        _begin(item_layout, items, f, of_items)
        _move(item_layout, items, f, of_items, steps)
        _end(item_layout, items, f, of_items)
        for i in range(held.shape[0]):
            held[i, STEP] = of_items.before[i] if f else 0.0
            held[i, SHIFT] = of_items.pairs[i]
        for u in range(memory.last.shape[0]):
            memory.last[u] = of_users.sums[u]
    _settle_items(examples, residuals, memory)


@inner
def _sum_up(layout: Layout, side: Posterior, f: int, own: Own) -> None:
    """Of every row, what its features come to, and the variance of that."""
    for row in range(own.sums.shape[0]):
        own.sums[row] = side.ids[f, row]
        own.spreads[row] = side.id_vars[f, row]
    for j in range(layout.groups.shape[0]):
        mean, variance = np.float64(side.features[f, j]), np.float64(side.feature_vars[f, j])
        for place in range(layout.starts[j], layout.starts[j + 1]):
            value = np.float64(layout.values[place])
            own.sums[layout.rows[place]] += value * mean
            own.spreads[layout.rows[place]] += value * value * variance


@inner
def _take_pairs(layout: Layout, side: Posterior, f: int, sums: Doubles, pairs: Doubles) -> None:
    """Take the interactions of every row's own features off `pairs`: half of (sum^2 - the sum of squares). Linear:
    the sum."""
    if f == 0:
        for row in range(sums.shape[0]):
            pairs[row] -= sums[row]
        return
    for row in range(sums.shape[0]):
        own = np.float64(side.ids[f, row])
        pairs[row] -= 0.5 * (sums[row] * sums[row] - own * own)
    for j in range(layout.groups.shape[0]):
        mean = np.float64(side.features[f, j])
        for place in range(layout.starts[j], layout.starts[j + 1]):
            part = np.float64(layout.values[place]) * mean
            pairs[layout.rows[place]] += 0.5 * part * part


@inner
def _begin(layout: Layout, side: Posterior, f: int, own: Own) -> None:
    """Note what the rows are before a side's steps."""
    for row in range(own.sums.shape[0]):
        own.before[row] = own.sums[row]
        own.pairs[row] = 0.0
    _take_pairs(layout, side, f, own.sums, own.pairs)


@inner
def _end(layout: Layout, side: Posterior, f: int, own: Own) -> None:
    """before: how far the sums have gone. pairs: how far the rows' own interactions have."""
    for row in range(own.sums.shape[0]):
        own.before[row] = own.sums[row] - own.before[row]
        own.pairs[row] = -own.pairs[row]
    _take_pairs(layout, side, f, own.sums, own.pairs)
    for row in range(own.sums.shape[0]):
        own.pairs[row] = -own.pairs[row]


@inner
def _settle_items(examples: Examples, residuals: Floats, memory: Memory) -> None:
    """Take the items' last steps off the residuals, and gather what the users need of the factor in hand."""
    held, gathered = memory.held, memory.users.gathered
    for user in range(examples.offsets.shape[0] - 1):
        was = np.float32(memory.last[user])
        error = slope = weight = total = squares = spread = 0.0
        for place in range(examples.offsets[user], examples.offsets[user + 1]):
            item = examples.items[place]
            residual = residuals[place] - was * held[item, STEP] - held[item, SHIFT]
            residuals[place] = residual
            w = examples.weights[place]
            q = held[item, NEW]
            wq = w * q
            error += w * residual
            slope += wq * residual
            weight += w
            total += wq
            squares += wq * q
            spread += w * held[item, SPREAD_OF]
        gathered[user, ERROR] = error
        gathered[user, SLOPE] = slope
        gathered[user, WEIGHT] = weight
        gathered[user, SUM] = total
        gathered[user, SQUARES] = squares
        gathered[user, SPREAD] = spread


@inner
def _settle_users(examples: Examples, residuals: Floats, memory: Memory, f: int) -> None:
    """Take the users' steps off the residuals, and gather what the items need."""
    held, gathered, own = memory.held, memory.items.gathered, memory.users
    gathered[:] = 0.0
    for user in range(examples.offsets.shape[0] - 1):
        step = np.float32(own.before[user]) if f else np.float32(0.0)
        shift = np.float32(own.pairs[user])
        p = np.float32(own.sums[user]) if f else np.float32(1.0)
        spread = np.float32(own.spreads[user])
        for place in range(examples.offsets[user], examples.offsets[user + 1]):
            item = examples.items[place]
            residual = residuals[place] - step * held[item, NEW] - shift
            residuals[place] = residual
            w = examples.weights[place]
            wp = w * p
            gathered[item, ERROR] += w * residual
            gathered[item, SLOPE] += wp * residual
            gathered[item, WEIGHT] += w
            gathered[item, SUM] += wp
            gathered[item, SQUARES] += wp * p
            gathered[item, SPREAD] += w * spread


@inner
def _add_variance(memory: Memory, f: int) -> None:
    """The part of this factor in the variance of predictions."""
    gathered = memory.users.gathered
    for user in range(gathered.shape[0]):
        p, spread = memory.users.sums[user], memory.users.spreads[user]
        if f == 0:
            memory.variance[user] += gathered[user, WEIGHT] * spread + gathered[user, SPREAD]
        else:
            memory.variance[user] += (p * p + spread) * gathered[user, SPREAD]
            memory.variance[user] += gathered[user, SQUARES] * spread


@inner
def _move(layout: Layout, side: Posterior, f: int, of_side: Own, steps: Steps) -> None:
    """One step of every coordinate of a side: its features in order, then every row's id."""
    sums, gathered = of_side.sums, of_side.gathered
    pairs = 1.0 if f else 0.0
    for j in range(layout.groups.shape[0]):
        mean = np.float64(side.features[f, j])
        slope = curvature = 0.0
        for place in range(layout.starts[j], layout.starts[j + 1]):
            row, x = layout.rows[place], np.float64(layout.values[place])
            rest = pairs * (sums[row] - x * mean)
            own = gathered[row]
            slope += x * (own[SLOPE] + rest * own[ERROR] - pairs * sums[row] * own[SPREAD])
            curvature += (
                x
                * x
                * (own[SQUARES] + 2.0 * rest * own[SUM] + rest * rest * own[WEIGHT] + pairs * own[SPREAD])
            )
        group = layout.groups[j]
        precision = side.precisions[f, group] + steps.reg
        sharp = curvature * steps.inverse_noise + precision
        slope = slope * steps.inverse_noise - (mean - side.means[f, group]) * precision
        side.features[f, j] = mean + steps.rate * slope / sharp
        side.feature_vars[f, j] = 1.0 / sharp
        step = np.float64(side.features[f, j]) - mean  # as it is stored
        for place in range(layout.starts[j], layout.starts[j + 1]):
            row, x = layout.rows[place], np.float64(layout.values[place])
            rest = pairs * (sums[row] - x * mean)
            own = gathered[row]
            own[SLOPE] -= step * x * (own[SQUARES] + rest * own[SUM])
            own[ERROR] -= step * x * (own[SUM] + rest * own[WEIGHT])
            sums[row] += step * x
    prior, precision = side.means[f, 0], side.precisions[f, 0] + steps.reg
    for row in range(sums.shape[0]):
        mean, own = np.float64(side.ids[f, row]), gathered[row]
        rest = pairs * (sums[row] - mean)
        slope = own[SLOPE] + rest * own[ERROR] - pairs * sums[row] * own[SPREAD]
        curvature = own[SQUARES] + 2.0 * rest * own[SUM] + rest * rest * own[WEIGHT] + pairs * own[SPREAD]
        sharp = curvature * steps.inverse_noise + precision
        slope = slope * steps.inverse_noise - (mean - prior) * precision
        side.ids[f, row] = mean + steps.rate * slope / sharp
        side.id_vars[f, row] = 1.0 / sharp
        sums[row] += np.float64(side.ids[f, row]) - mean


@compiled
def add_features(layout: Layout, features: Floats, out: Doubles) -> None:
    """Add to every row, float64 (k + 1, n_rows), what its features come to."""
    for f in range(features.shape[0]):
        for j in range(layout.groups.shape[0]):
            for place in range(layout.starts[j], layout.starts[j + 1]):
                out[f, layout.rows[place]] += np.float64(layout.values[place]) * features[f, j]
