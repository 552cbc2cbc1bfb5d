"""Stored answers as JSON, without a dictionary in between: the hot route's body, the same bytes as any other way.

An item's id and title are encoded once and kept, for so many items at most; what is of a user is never kept.
"""

from __future__ import annotations

from typing import Any

import orjson

from nightrank.data.ids import Id
from nightrank.release.reader import Release

MOST_KEPT = 65_536  # items, some 200 bytes each: 13 MB in a replica


class Encoded:
    """The stored lists of one release; for one thread, the event loop's."""

    def __init__(self, release: Release) -> None:
        self._release = release
        head = {"release": release.id, "source": "precomputed"}
        self._head = b"," + orjson.dumps(head)[1:-1] + b',"items":['
        self._parts: dict[int, tuple[bytes, bytes]] = {}

    def stored(self, user_id: Id, k: int) -> bytes | None:
        """What `recommend.stored` answers, as JSON; None for a user whom the release does not know."""
        release, parts = self._release, self._parts
        row = release.model.user_ids.find(user_id)
        if row is None:
            return None
        rows, scores = release.listed(row, k)
        told = []
        if len(rows):
            numbers = orjson.dumps(scores.tolist())[1:-1].split(b",")
            for rank, (item, score) in enumerate(zip(rows.tolist(), numbers, strict=True), start=1):
                before, after = parts.get(item) or self._encode(item)
                told.append(b'%b%d,"score":%b%b' % (before, rank, score, after))
        return b'{"user_id":%b%b%b]}' % (orjson.dumps(user_id), self._head, b",".join(told))

    def _encode(self, item: int) -> tuple[bytes, bytes]:
        """An item's JSON before its rank, and after its score. Raises ReleaseError for a row that is none's."""
        if not 0 <= item < self._release.model.card.n_items:
            raise self._release.misnamed(item, "recommendations")
        title = self._release.title(item)
        more: dict[str, Any] = {} if title is None else {"title": title}
        after = b"," + orjson.dumps(more)[1:] if more else b"}"
        part = b'{"item_id":%b,"rank":' % orjson.dumps(self._release.model.item_ids[item]), after
        if len(self._parts) >= MOST_KEPT:
            self._parts.clear()
        self._parts[item] = part
        return part
