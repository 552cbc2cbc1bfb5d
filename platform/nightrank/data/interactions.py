"""Interactions: weighted events, combined to one float32 weight per (user, item).

The rules (docs/data.md): an event counts weight x type weight x decay; repeated pairs then combine by sum, max
or last. Sums run in one order whatever the order of the events, so the same events always give the same bits.
A pair whose combined weight is zero says nothing and is dropped, with a count. Decay is counted back from the latest
pair that is left: behind rare users and items, zero pairs, and what a split holds out.
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
from nightrank.data.combining import combined, ways_to_combine
from nightrank.data.counts import Counts
from nightrank.data.events import DAY_S, Events, table_events
from nightrank.data.features import SideFeatures
from nightrank.data.frames import frame_table
from nightrank.data.grouping import occurrences
from nightrank.data.ids import Ids
from nightrank.data.rare import without_rare
from nightrank.data.weighing import weighted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Interactions:
    """Who did how much to what.

    user_items: CSR float32, n_users x n_items, sorted column indices, finite weights > 0.
    times: int64 UTC seconds of each pair's latest event, in the order of user_items.data; None without times.
    half_life_days: the decay in the weights, always counted back from the latest of `times`; None for none.
    n_zero_pairs: pairs dropped because their weights combined to zero.
    counts: what was read and dropped on the way here; all 0 where the events came from elsewhere.
    by_item: user_items transposed, where somebody has it at hand (`item_users`).
    features: of these users and items, row by row, for families that learn from them (`features.with_features`).
    """

    user_ids: Ids
    item_ids: Ids
    user_items: csr_matrix
    times: NDArray[np.int64] | None
    half_life_days: float | None = None
    n_zero_pairs: int = 0
    counts: Counts = field(default_factory=Counts)
    by_item: csr_matrix | None = None
    features: SideFeatures | None = None

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
        return occurrences(self.user_items.indices, len(self.item_ids))

    @property
    def item_users(self) -> csr_matrix:
        """user_items transposed, CSR n_items x n_users: as it is at hand, or made anew."""
        return self.user_items.T.tocsr() if self.by_item is None else self.by_item

    def pair_users(self) -> NDArray[np.int32]:
        """The user row of every pair, int32 (nnz,)."""
        counts = np.diff(self.user_items.indptr).astype(np.int64)
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def subset(self, keep: NDArray[np.bool_]) -> Interactions:
        """The pairs where `keep` (bool, nnz) holds, with only the users and items that still occur.

        Decay is counted back from the latest pair that is left.
        """
        matrix = self.user_items
        ends = np.r_[0, np.cumsum(keep)][matrix.indptr]
        part = _with_occurring(
            replace(
                self,
                user_items=_csr(ends, matrix.indices[keep], matrix.data[keep], n_items=len(self.item_ids)),
                times=None if self.times is None else self.times[keep],
                by_item=None,
                features=None,
            )
        )
        if self.times is not None and len(self.times):
            _count_from_latest(part, was=int(self.times.max()))
        return part


def interactions_of(
    events: Events, rules: WeighingConfig, *, default: str = "sum", keep_zeros: bool = False
) -> Interactions:
    """Weigh and combine events by a job's rules, counting what does not count.

    default: how repeated pairs combine where the rules do not say (`combine: null`). keep_zeros: a pair of weight 0
    stays, for a truth in which 0 is a rating; nothing to learn from.
    Raises DataError as `ways_to_combine`, `from_events` and the steps before them.
    """
    events = weighted(events, type_weights=rules.type_weights or None)
    events = without_rare(events, per_user=rules.min_events_per_user, per_item=rules.min_events_per_item)
    (how,) = ways_to_combine(events, rules.combine, defaults=(default,))
    return from_events(events, combine=how, half_life_days=rules.half_life_days, keep_zeros=keep_zeros)


def from_events(
    events: Events, *, combine: str, half_life_days: float | None = None, keep_zeros: bool = False
) -> Interactions:
    """Combine weighted events to Interactions, with only the users and items that have a pair.

    half_life_days: decay, counted back from the latest of those pairs. keep_zeros: see `interactions_of`.
    Raises DataError where `last` or decay has no times to go by, or where nothing is left.
    """
    pairs = combined(events, how=combine, half_life_days=half_life_days, keep_zeros=keep_zeros)
    return _with_occurring(
        Interactions(
            user_ids=events.user_ids,
            item_ids=events.item_ids,
            user_items=_csr(pairs.indptr, pairs.items, pairs.weights, n_items=len(events.item_ids)),
            times=pairs.times,
            half_life_days=half_life_days,
            n_zero_pairs=pairs.n_zero,
            counts=replace(events.counts, zero_pairs=pairs.n_zero),
        )
    )


def _count_from_latest(interactions: Interactions, *, was: int) -> None:
    """Decay the weights from the latest pair that is there in place of the time it was counted from, in place."""
    half_life_days, times = interactions.half_life_days, interactions.times
    if half_life_days is None or times is None or not len(times):
        return
    gap_days = (was - int(times.max())) / DAY_S
    if gap_days:
        # In float64: what is left of a weight may lie many half-lives below 1.
        weights = interactions.user_items.data.astype(np.float64) * 2.0 ** (gap_days / half_life_days)
        interactions.user_items.data[:] = weights


def _with_occurring(interactions: Interactions) -> Interactions:
    """The same pairs, without the users and items that have none."""
    matrix = interactions.user_items
    user_sizes = np.diff(matrix.indptr)
    has_user, has_item = user_sizes > 0, interactions.item_counts > 0
    if has_user.all() and has_item.all():
        return interactions
    rows = np.cumsum(has_item, dtype=np.int32) - np.int32(1)
    indptr = np.zeros(int(has_user.sum()) + 1, dtype=matrix.indptr.dtype)
    np.cumsum(user_sizes[has_user], out=indptr[1:])
    return replace(
        interactions,
        user_ids=picked(interactions.user_ids, np.flatnonzero(has_user)),
        item_ids=picked(interactions.item_ids, np.flatnonzero(has_item)),
        user_items=_csr(indptr, rows[matrix.indices], matrix.data, n_items=int(has_item.sum())),
        by_item=None,
        features=None,
    )


def picked(ids: Ids, rows: NDArray[np.int64]) -> Ids:
    """The ids of these rows, which ascend."""
    return Ids(ids.array.take(pa.array(rows)))


def _csr(
    indptr: NDArray[np.integer], items: NDArray[np.int32], weights: NDArray[np.float32], *, n_items: int
) -> csr_matrix:
    """CSR from pairs that are already sorted by user, then item: no copy, no sort, no sum of duplicates."""
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)  # implicit takes 32-bit indices as they are
    return csr_matrix((weights, items, indptr), shape=(len(indptr) - 1, n_items))
