"""One share of the catalogue, release by release: what a partition ranks from. No Ray.

It is opened by release id and keeps the two that were asked for last: while a new release is taken over, gateways
still ask for the one before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightrank.ranking import ItemIndex, TopK
from nightrank.ranking.filters import Filters
from nightrank.ranking.partitions import share_bounds
from nightrank.release.reader import open_release
from nightrank.release.store import Store

KEPT = 2


class Ranked(NamedTuple):
    """An answer that says what it is of: item rows are counted from `first` of the release's n_items."""

    release: str
    first: int
    n_items: int
    top: TopK


@dataclass(frozen=True)
class Share:
    """Item rows from `first` on of a release with n_items, ready to be ranked."""

    release: str
    first: int
    n_items: int
    index: ItemIndex

    def rank(self, user_vectors: NDArray[np.float32], k: int, filters: Filters) -> Ranked:
        """The k best of this share; the arguments have come from another process, which has checked them."""
        top = TopK.empty(len(user_vectors), min(k, len(self.index.item_bias)))
        self.index.fill(top, user_vectors, filters.received())
        return Ranked(self.release, self.first, self.n_items, top)


class Shares:
    """The share number `place` of `partitions`. threads: of one query."""

    def __init__(self, store: Store, *, place: int, partitions: int, threads: int) -> None:
        self.store, self.place, self.partitions, self.threads = store, place, partitions, threads
        self._held: OrderedDict[str, Share] = OrderedDict()
        self._reading, self._opening = threading.Lock(), threading.Lock()

    def find(self, release_id: str) -> Share | None:
        """The share of a release that is held; never waits for one that is being opened."""
        with self._reading:
            if release_id in self._held:
                self._held.move_to_end(release_id)
            return self._held.get(release_id)

    def open(self, release_id: str) -> Share:
        """The same, opened where it is not held: O(items of the share). Raises ReleaseError."""
        with self._opening:
            share = self.find(release_id)
            if share is None:
                share = self._open(release_id)
                with self._reading:
                    self._held[release_id] = share
                    while len(self._held) > KEPT:
                        self._held.popitem(last=False)
            return share

    def _open(self, release_id: str) -> Share:
        model = open_release(self.store, release_id).model
        bounds = share_bounds(model.card.n_items, self.partitions)
        first, last = bounds[self.place : self.place + 2]
        index = ItemIndex(model.item_vectors[first:last], model.item_bias[first:last], threads=self.threads)
        return Share(release_id, first, model.card.n_items, index)
