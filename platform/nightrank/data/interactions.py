"""Interactions: weighted events, combined to one float32 weight per (user, item).

The rules (docs/data.md): an event counts weight x type weight x decay; repeated pairs then combine by sum, max
or last. Sums run in one order whatever the order of the events, so the same events always give the same bits.
A pair whose combined weight is zero says nothing and is dropped, with a count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.events import WeighingConfig
from nightrank.config.strict import validate
from nightrank.data.counts import Counts
from nightrank.data.events import Events, table_events, weighted
from nightrank.data.frames import frame_table
from nightrank.data.ids import Ids, encode
from nightrank.data.rare import without_rare
from nightrank.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

DAY_S = 86_400.0


@dataclass(frozen=True)
class Interactions:
    """Who did how much to what.

    user_items: CSR float32, n_users x n_items, sorted column indices, finite weights > 0.
    times: int64 UTC seconds of each pair's latest event, in the order of user_items.data; None without times.
    half_life_days: the decay that is in the weights, counted back from the latest of `times`; None for none.
    n_zero_pairs: pairs dropped because their weights combined to zero.
    counts: what was read and dropped on the way here; all 0 where the events came from elsewhere.
    """

    user_ids: Ids
    item_ids: Ids
    user_items: csr_matrix
    times: NDArray[np.int64] | None
    half_life_days: float | None = None
    n_zero_pairs: int = 0
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        *,
        columns: Mapping[str, str] | None = None,
        type_weights: Mapping[str, float] | None = None,
        combine: str = "sum",
        half_life_days: float | None = None,
        min_events: tuple[int, int] = (1, 1),
    ) -> Interactions:
        """Interactions of an Arrow table in memory, by the rules and checks of a job's events (docs/data.md).

        columns: role (user, item, weight, time, type) to column name, as in a job file's events.columns.
        min_events: events.min_events_per_user and events.min_events_per_item.
        Raises DataError naming `table`, column and first row; SettingsError on settings that cannot be meant.

            Interactions.from_arrow(table, columns={"user": "customer", "item": "sku", "time": "at"})
        """
        given = {
            "columns": dict(columns or {}),
            "type_weights": dict(type_weights or {}),
            "combine": combine,
            "half_life_days": half_life_days,
            "min_events_per_user": min_events[0],
            "min_events_per_item": min_events[1],
        }
        rules = validate(WeighingConfig, given, source="interactions of a table")
        return interactions_of(table_events(table, **rules.columns.model_dump()), rules)

    @classmethod
    def from_pandas(
        cls, frame: pd.DataFrame, *, columns: Mapping[str, str] | None = None, **rules: Any
    ) -> Interactions:
        """The same of a pandas frame, whose index is not read; `rules` are those of `from_arrow`."""
        return cls.from_arrow(frame_table(frame, columns=columns or {}), columns=columns, **rules)

    @property
    def item_counts(self) -> NDArray[np.int64]:
        """Users per item, int64 (n_items,): the popularity of an item."""
        return np.bincount(self.user_items.indices, minlength=len(self.item_ids)).astype(np.int64)

    def pair_users(self) -> NDArray[np.int32]:
        """The user row of every pair, int32 (nnz,)."""
        counts = np.diff(self.user_items.indptr).astype(np.int64)
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def subset(self, keep: NDArray[np.bool_]) -> Interactions:
        """The pairs where `keep` (bool, nnz) holds, with only the users and items that still occur.

        Decay is counted back from the latest pair that is left.
        """
        users, items = self.pair_users()[keep], self.user_items.indices[keep]
        weights = self.user_items.data[keep]
        times = None if self.times is None else self.times[keep]
        if self.half_life_days is not None and self.times is not None and keep.any():
            gap_days = int(self.times.max() - self.times[keep].max()) / DAY_S
            weights = (weights * 2.0 ** (gap_days / self.half_life_days)).astype(np.float32)
        user_rows, dense_users = np.unique(users, return_inverse=True)
        item_rows, dense_items = np.unique(items, return_inverse=True)
        matrix = _csr(dense_users, dense_items, weights, shape=(len(user_rows), len(item_rows)))
        return replace(
            self,
            user_ids=Ids(self.user_ids.array.take(pa.array(user_rows))),
            item_ids=Ids(self.item_ids.array.take(pa.array(item_rows))),
            user_items=matrix,
            times=times,
        )


def interactions_of(events: Events, rules: WeighingConfig) -> Interactions:
    """Weigh and combine events by a job's rules, counting what does not count."""
    weighed = weighted(
        events.table,
        type_weights=rules.type_weights or None,
        half_life_days=rules.half_life_days,
        parts=events.parts,
    )
    left = without_rare(
        replace(events, table=weighed),
        per_user=rules.min_events_per_user,
        per_item=rules.min_events_per_item,
    )
    found = from_events(left.table, combine=rules.combine, half_life_days=rules.half_life_days)
    return replace(found, counts=replace(left.counts, zero_pairs=found.n_zero_pairs))


def from_events(events: pa.Table, *, combine: str, half_life_days: float | None = None) -> Interactions:
    """Combine weighted events (columns user, item, weight, optional time) to Interactions.

    Raises DataError where `last` has no times to go by, or where nothing is left.
    """
    has_time = "time" in events.column_names
    if combine == "last" and not has_time:
        raise DataError(
            "events.combine is last, but the events have no time column; name it in events.columns.time, "
            "or combine by sum or max"
        )
    user_ids, users = encode(events["user"])
    item_ids, items = encode(events["item"])
    weights = events["weight"].to_numpy()
    times = events["time"].to_numpy() if has_time else None
    # Equal pairs end up side by side, in an order that depends on their content alone.
    order = np.lexsort((weights, items, users) if times is None else (weights, times, items, users))
    users, items, weights = users[order], items[order], weights[order]
    times = None if times is None else times[order]
    starts = np.flatnonzero(np.r_[True, (users[1:] != users[:-1]) | (items[1:] != items[:-1])])
    lasts = np.r_[starts[1:], len(users)] - 1
    combined = _combine(weights, starts=starts, lasts=lasts, how=combine)
    pairs = Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        user_items=_csr(users[starts], items[starts], combined, shape=(len(user_ids), len(item_ids))),
        times=None if times is None else times[lasts],
        half_life_days=half_life_days,
    )
    zero = combined == 0
    if not zero.any():
        return pairs
    if zero.all():
        raise DataError(
            f"all {len(zero)} (user, item) pairs have a combined weight of 0: nothing to learn from"
        )
    return replace(pairs.subset(~zero), n_zero_pairs=int(zero.sum()))


def _combine(
    weights: NDArray[np.float64], *, starts: NDArray[np.intp], lasts: NDArray[np.intp], how: str
) -> NDArray[np.float32]:
    if how == "sum":
        combined = np.add.reduceat(weights, starts)
    elif how == "max":
        combined = np.maximum.reduceat(weights, starts)
    else:
        combined = weights[lasts]
    with np.errstate(over="ignore"):
        result: NDArray[np.float32] = combined.astype(np.float32)
    if not np.isfinite(result).all():
        raise DataError(
            f"a (user, item) pair has a combined weight of {combined.max():.3g}, beyond float32; scale them down"
        )
    return result


def _csr(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    weights: NDArray[np.float32],
    *,
    shape: tuple[int, int],
) -> csr_matrix:
    """CSR from pairs that are already sorted by user, then item: no sort, no sum of duplicates."""
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=shape[0]), out=indptr[1:])
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)  # implicit takes 32-bit indices as they are
    return csr_matrix((weights, items.astype(np.int32), indptr), shape=shape)
