"""All that answers come from, for one release: built aside, once, then shared by every request.

It holds no copy of anything that grows with the users: their vectors, lists and history stay memory maps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.models.factor_model import FeatureVectors
from nightrank.models.fold_in import FoldIn, fold_in
from nightrank.ranking import ItemIndex
from nightrank.ranking.topk import TopK
from nightrank.release.reader import Release
from nightrank.service.encoded import Encoded
from nightrank.service.refusal import RequestError


class Index(Protocol):
    """The catalogue, ready to be ranked; blocks, so it is asked in a thread that may wait."""

    def top_k(
        self,
        user_vectors: NDArray[np.float32],
        k: int,
        *,
        exclude: csr_matrix | None = None,
        allow: NDArray[np.integer] | csr_matrix | None = None,
    ) -> TopK:
        """As `nightrank.ranking.ItemIndex.top_k`, to the bit."""


QUICK_S = 0.0005  # as long as ten stored answers take; a thread's way there and back takes half of that
OpenIndex = Callable[[Release], Index]


@dataclass(frozen=True)
class Prepared:
    """A release, its catalogue ready to be ranked, its fold-in where the family has one, its stored lists as JSON.

    features: the vectors of its users' features, where it has any.
    is_quick: the catalogue is ranked sooner than a thread could be woken for it and wake who waits.
    """

    release: Release
    index: Index
    fold: FoldIn | None
    features: FeatureVectors | None
    encoded: Encoded
    is_quick: bool


def in_process(release: Release) -> Index:
    """The whole catalogue in this process, one thread a call: requests run side by side."""
    return release.model.item_index(threads=1)


def prepare(release: Release, open_index: OpenIndex = in_process) -> Prepared:
    """Open all that any request would open: O(items), and headers of what grows with users.

    From here on the release answers for everybody, also when its files lose their names. Those of a remote store are
    brought first, each checked. Raises ReleaseError for what cannot be opened.
    """
    release.files.bring()
    model = release.model
    _ = (model.user_ids, model.item_ids, model.seen, model.user_vectors, model.user_offset)
    _ = (release.similar_offsets, release.by_popularity, release.categories)
    release.open_lists()
    if model.card.n_items:
        release.title(0)
    fold = fold_in(model.card.family, params=model.card.params, item_vectors=model.item_vectors)
    features = model.user_features
    for column in () if features is None else features.columns:
        _ = column.places
    index = open_index(release)
    _warm(release, index, fold)
    is_quick = isinstance(index, ItemIndex) and _slowest_s(release, index) < QUICK_S
    return Prepared(release, index, fold, features, Encoded(release), is_quick)


def _slowest_s(release: Release, index: Index) -> float:
    """Seconds that ranking takes, of the slowest of some users; of each the faster of two tries."""
    users = release.model.user_vectors
    slowest = 0.0
    for row in range(0, len(users), max(1, len(users) // 8)):
        tries = []
        for _ in range(2):
            started = time.perf_counter()
            index.top_k(users[row : row + 1], 100)
            tries.append(time.perf_counter() - started)
        slowest = max(slowest, min(tries))
    return slowest


def _warm(release: Release, index: Index, fold: FoldIn | None) -> None:
    """Rank once as any request may: compiled code is loaded and the items' pages are there before anybody waits."""
    model = release.model
    if model.card.n_users == 0 or model.card.n_items == 0:
        return
    first = model.seen[:1]
    exclude = csr_matrix((first.data, first.indices, first.indptr), shape=first.shape)
    vectors = [model.user_vectors[:1]]
    if fold is not None:
        vectors.append(fold(exclude).vectors)
    with contextlib.suppress(RequestError):  # partitions that are not there yet: stored answers need none
        for vector in vectors:
            index.top_k(vector, 1, exclude=exclude)
            index.top_k(vector, 1, allow=np.zeros(1, dtype=np.int32))
