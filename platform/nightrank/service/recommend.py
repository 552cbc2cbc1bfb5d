"""Recommendations from one release: the stored list where it will do, ranked live where not.

What is known decides. A user of the release and nothing else asked: the stored list (`precomputed`). Filters, another
k than the night's, candidates: the stored vector, ranked now (`live`). Events: a vector solved from them and the
stored history (`fold_in`). An unknown user's features: the sum of their vectors (`features`). Nothing known: the most
popular items under the same filters (`popular`). All blocks: it is for a thread that may wait, except `stored`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.data.ids import Id
from nightrank.ranking.topk import TopK
from nightrank.release.reader import Ranked, Release
from nightrank.service.answers import native_id, parse_id, ranked_items
from nightrank.service.given import Given, folded
from nightrank.service.given_features import GivenFeatures
from nightrank.service.prepared import Prepared
from nightrank.service.refusal import RequestError, close_to
from nightrank.service.schemas import Context, RecommendationsQuery

Rows = NDArray[np.int32]


def asked_in_url(release: Release, user_id: str, query: RecommendationsQuery) -> Context:
    """A request whose ids are texts of a URL. Raises RequestError for those that cannot be ids of this release."""
    model = release.model
    return Context.model_construct(
        user_id=parse_id(user_id, model.user_ids, what="user_id"),
        events=[],
        features={},
        k=query.k,
        categories=query.category,
        exclude=[parse_id(one, model.item_ids, what="exclude") for one in query.exclude],
        candidates=None,
        include_seen=query.include_seen,
    )


def is_plain(release: Release, asked: Context | RecommendationsQuery, *, k: int) -> bool:
    """Whether the list that the night stored answers this, if the user has one.

    Features do not count: those of a known user went into their vector at night.
    """
    if isinstance(asked, Context):
        filtered = asked.events or asked.categories or asked.exclude or asked.candidates is not None
    else:
        filtered = asked.category or asked.exclude
    shows_seen, manifest = asked.include_seen, release.manifest
    return not filtered and k <= manifest.k and (shows_seen is None or shows_seen != manifest.exclude_seen)


def needs_ranking(prepared: Prepared, asked: Context, *, k: int) -> bool:
    """Whether the catalogue may have to be ranked for this: neither a stored list nor the popular items will do."""
    release = prepared.release
    if not is_plain(release, asked, k=k):
        return True
    if not asked.features or prepared.features is None:
        return False
    return asked.user_id is None or release.model.user_ids.find(asked.user_id) is None


def stored(release: Release, user_id: Id, *, k: int) -> dict[str, Any] | None:
    """The first k places of the stored list, a look-up; None for a user whom the release does not know."""
    row = release.model.user_ids.find(user_id)
    if row is None:
        return None
    return _answer(release, user_id, source="precomputed", ranked=release.recommendations(row, k))


def recommend(prepared: Prepared, asked: Context, *, k: int) -> dict[str, Any]:
    """k items, as schemas.Recommendations. Raises RequestError for what cannot be meant in this release."""
    release = prepared.release
    if asked.user_id is not None:
        native_id(asked.user_id, release.model.user_ids, what="user_id")
    features = GivenFeatures.of(prepared, asked.features)
    if asked.user_id is not None and is_plain(release, asked, k=k):
        plain = stored(release, asked.user_id, k=k)
        if plain is not None:
            return plain | features.told()
    user_row = None if asked.user_id is None else release.model.user_ids.find(asked.user_id)
    given = Given.of(release, asked.events)
    allowed, unknown = _allowed(release, asked)
    shows_seen = not release.manifest.exclude_seen if asked.include_seen is None else asked.include_seen
    seen = _NONE if shows_seen else np.union1d(_history(release, user_row), given.item_rows)
    excluded = np.union1d(_rows(release, asked.exclude, what="exclude"), seen).astype(np.int32)
    vector, source = _vector(prepared, user_row, given=given, features=features)
    if vector is None:
        ranked = most_popular(release, k, allowed=allowed, excluded=excluded)
    else:
        ranked = _live(prepared, vector, k, allowed=allowed, excluded=excluded)
    answer = _answer(release, asked.user_id, source=source, ranked=ranked)
    if unknown := list(dict.fromkeys([*unknown, *given.unknown])):
        answer["unknown_items"] = unknown
    return answer | features.told()


_NONE = np.zeros(0, dtype=np.int32)


def _vector(
    prepared: Prepared, user_row: int | None, *, given: Given, features: GivenFeatures
) -> tuple[NDArray[np.float32] | None, str]:
    """What to rank by, float32 (1, d), and the source that it makes; None: by popularity.

    What somebody did says more than what they are, so events go before features.
    """
    if given.counts and prepared.fold is not None:
        return folded(prepared, user_row, given), "fold_in"
    if user_row is None:
        vector = features.summed()
        return vector, "popular" if vector is None else "features"
    return prepared.release.model.user_vectors[user_row : user_row + 1], "live"


def _live(
    prepared: Prepared, vector: NDArray[np.float32], k: int, *, allowed: Rows | None, excluded: Rows
) -> Ranked:
    n_items = prepared.release.model.card.n_items
    without = csr_matrix(
        (np.ones(len(excluded), dtype=np.float32), excluded, np.array([0, len(excluded)])), shape=(1, n_items)
    )
    found: TopK = prepared.index.top_k(
        vector, min(k, n_items), exclude=without if len(excluded) else None, allow=allowed
    )
    count = int(found.counts[0])
    return found.item_rows[0, :count], found.scores[0, :count]


def most_popular(release: Release, k: int, *, allowed: Rows | None, excluded: Rows) -> Ranked:
    """(item rows, users): the k items with the most users, ties by row, of those allowed and not excluded.

    allowed (None: all), excluded: item rows, ascending, each once.
    """
    users = release.model.popularity
    if allowed is None:
        head = release.by_popularity[: k + len(excluded)]
        rows = head[~np.isin(head, excluded)][:k]
    else:
        left = allowed[~np.isin(allowed, excluded)]
        rows = left[np.argsort(-users[left], kind="stable")[:k]]
    return rows, users[rows].astype(np.float32)


def _allowed(release: Release, asked: Context) -> tuple[Rows | None, list[Any]]:
    """The rows that filters leave, ascending, None for all; and the candidates that are in no release."""
    allowed: Rows | None = None
    if asked.categories:
        members = [_category(release, name) for name in dict.fromkeys(asked.categories)]
        allowed = members[0] if len(members) == 1 else np.unique(np.concatenate(members))
    if asked.candidates is None:
        return allowed, []
    ids = release.model.item_ids
    found = {one: ids.find(native_id(one, ids, what="candidates")) for one in asked.candidates}
    candidates = np.array(sorted({row for row in found.values() if row is not None}), dtype=np.int32)
    unknown = [one for one, row in found.items() if row is None]
    return (candidates if allowed is None else np.intersect1d(allowed, candidates)), unknown


def _category(release: Release, name: str) -> Rows:
    if name not in release.categories:
        raise RequestError(
            422,
            "unknown_category",
            f"category {name[:80]!r} is not in release {release.id}; {close_to(name, release.categories)}",
        )
    return release.categories[name]


def _rows(release: Release, item_ids: list[Any], *, what: str) -> Rows:
    """The rows of ids, where they have one: what is not in the catalogue needs no excluding."""
    ids = release.model.item_ids
    rows = {ids.find(native_id(one, ids, what=what)) for one in item_ids}
    return np.array(sorted(row for row in rows if row is not None), dtype=np.int32)


def _history(release: Release, user_row: int | None) -> Rows:
    if user_row is None:
        return _NONE
    start, end = release.model.seen.indptr[user_row : user_row + 2].tolist()
    rows: Rows = release.model.seen.indices[start:end]
    return rows


def _answer(release: Release, user_id: Id | None, *, source: str, ranked: Ranked) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "release": release.id,
        "source": source,
        "items": ranked_items(release, *ranked),
    }
