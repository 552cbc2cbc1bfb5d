"""Answers from one release: pure look-ups, no HTTP and no Ray."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from nightrank.data.ids import Id, Ids
from nightrank.release.reader import Release
from nightrank.service.refusal import RequestError

DEFAULT_K = 10
INT64 = range(-(2**63), 2**63)


def recommendations(release: Release, user_id: str, *, k: int | None) -> dict[str, Any]:
    """The stored list of a known user (`precomputed`), else the most popular items (`popular`)."""
    k = _at_most(k, release.manifest.k, what="recommendations")
    user = parse_id(user_id, release.model.user_ids, what="user_id")
    row = release.model.user_ids.find(user)
    answer = {"user_id": user, "release": release.id}
    if row is None:
        return answer | {"source": "popular", "items": _popular(release, k)}
    rows, scores = release.recommendations(row)
    return answer | {"source": "precomputed", "items": _ranked(release, rows[:k], scores[:k])}


def history(release: Release, user_id: str, *, k: int | None) -> dict[str, Any]:
    """What a known user did, strongest first, ties by item id."""
    user = parse_id(user_id, release.model.user_ids, what="user_id")
    row = release.model.user_ids.find(user)
    if row is None:
        raise RequestError(404, "unknown_user", f"user {user_id!r} is not in release {release.id}")
    k = DEFAULT_K if k is None else k
    rows, weights = release.history(row)
    items = [
        _item(release, int(item), weight=float(weight))
        for item, weight in zip(rows[:k], weights[:k], strict=True)
    ]
    return {"user_id": user, "release": release.id, "items": items}


def similar(release: Release, item_id: str, *, k: int | None) -> dict[str, Any]:
    """The items closest to one, by cosine."""
    k = _at_most(k, release.manifest.similar_items_k, what="similar items")
    item = parse_id(item_id, release.model.item_ids, what="item_id")
    row = release.model.item_ids.find(item)
    if row is None:
        raise RequestError(404, "unknown_item", f"item {item_id!r} is not in release {release.id}")
    rows, scores = release.similar(row)
    return {"item_id": item, "release": release.id, "items": _ranked(release, rows[:k], scores[:k])}


def parse_id(text: str, ids: Ids, *, what: str) -> Id:
    """A path segment as an id of the release's type."""
    if not ids.is_int:
        return text
    if re.fullmatch(r"-?[0-9]{1,19}", text) is None or int(text) not in INT64:
        raise RequestError(422, "invalid_id", f"{what} {text!r} cannot be an id here; expected an int64")
    return int(text)


def _at_most(k: int | None, limit: int, *, what: str) -> int:
    if k is None:
        return min(DEFAULT_K, limit)
    if k > limit:
        raise RequestError(422, "k_too_large", f"k is {k}; this release stores {limit} {what}")
    return k


def _popular(release: Release, k: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for rank, (item_id, score) in enumerate(release.popular[:k], start=1):
        row = release.model.item_ids.find(item_id)
        title = None if row is None else release.title(row)
        items.append({"item_id": item_id, "rank": rank, "score": score, **_titled(title)})
    return items


def _ranked(release: Release, rows: Iterable[Any], scores: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        _item(release, int(row), rank=rank, score=float(score))
        for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
    ]


def _item(release: Release, row: int, **values: Any) -> dict[str, Any]:
    return {"item_id": release.model.item_ids[row]} | values | _titled(release.title(row))


def _titled(title: str | None) -> dict[str, str]:
    return {} if title is None else {"title": title}
