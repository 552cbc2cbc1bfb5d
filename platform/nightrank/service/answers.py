"""Look-ups in one release: history, similar items, predictions, and how ids and items are told. No HTTP, no Ray."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.data.ids import Id, Ids
from nightrank.ranking.predictions import predict
from nightrank.release.reader import Release
from nightrank.service.refusal import RequestError
from nightrank.service.schemas import Pair

DEFAULT_K = 10
KINDS = {"identity": "rating", "logistic": "probability", "none": "score"}
_INTEGER = re.compile(r"-?[0-9]{1,19}")
INT64 = range(-(2**63), 2**63)


def history(release: Release, user_id: Id, *, k: int) -> dict[str, Any]:
    """What a known user did, strongest first, ties by item id."""
    row = release.model.user_ids.find(user_id)
    if row is None:
        raise RequestError(404, "unknown_user", f"user {user_id!r} is not in release {release.id}")
    rows, weights = release.history(row)
    ids, rows = release.model.item_ids, rows[:k]
    items = [
        {"item_id": ids[row], "weight": weight}
        for row, weight in zip(rows.tolist(), weights[:k].tolist(), strict=True)
    ]
    return {"user_id": user_id, "release": release.id, "items": _titled(release, rows, items)}


def similar(release: Release, item_id: Id, *, k: int) -> dict[str, Any]:
    """The items closest to one, by cosine; as many as the night stored at most."""
    most = release.manifest.similar_items_k
    if k > most:
        raise RequestError(422, "k_too_large", f"k is {k}; this release stores {most} similar items")
    row = release.model.item_ids.find(item_id)
    if row is None:
        raise RequestError(404, "unknown_item", f"item {item_id!r} is not in release {release.id}")
    rows, scores = release.similar(row)
    return {"item_id": item_id, "release": release.id, "items": ranked_items(release, rows[:k], scores[:k])}


def predictions(release: Release, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The model's value of each pair, in order; null with a reason where one of the two is unknown."""
    model = release.model
    for pair in pairs:
        native_id(pair.user_id, model.user_ids, what="user_id")
        native_id(pair.item_id, model.item_ids, what="item_id")
    places = [(model.user_ids.find(pair.user_id), model.item_ids.find(pair.item_id)) for pair in pairs]
    known = np.array([pair for pair in places if None not in pair], dtype=np.int64).reshape(-1, 2)
    values = iter(
        predict(
            model.user_vectors,
            model.item_vectors,
            item_bias=model.item_bias,
            user_offset=model.user_offset,
            user_rows=known[:, 0],
            item_rows=known[:, 1],
            link=model.card.link,
            bounds=model.card.bounds,
        ).tolist()
    )
    kind = KINDS[model.card.link]
    told = []
    for pair, (user_row, item_row) in zip(pairs, places, strict=True):
        one: dict[str, Any] = {"user_id": pair.user_id, "item_id": pair.item_id, "value": None}
        if user_row is None or item_row is None:
            one["reason"] = "unknown_user" if user_row is None else "unknown_item"
        else:
            one["value"] = next(values)
            if kind == "probability":
                one["label"] = one["value"] >= 0.5
        told.append(one)
    rule = {} if model.card.label is None else {"label_rule": model.card.label}
    return {"release": release.id, "kind": kind, **rule, "predictions": told}


def parse_id(text: str, ids: Ids, *, what: str) -> Id:
    """An id out of a URL, where all is text, as one of the release's type."""
    if not ids.is_int:
        return text
    if _INTEGER.fullmatch(text) is None or int(text) not in INT64:
        raise RequestError(422, "invalid_id", f"{what} {text[:80]!r} cannot be an id here; expected an int64")
    return int(text)


def native_id(value: Id, ids: Ids, *, what: str) -> Id:
    """An id out of a body, where it has to have the release's type already."""
    if isinstance(value, str) == ids.is_int:
        expected = "an int64, written without quotes" if ids.is_int else "a text"
        raise RequestError(
            422, "invalid_id", f"{what} {str(value)[:80]!r} cannot be an id here; expected {expected}"
        )
    return value


def ranked_items(release: Release, rows: NDArray[Any], scores: NDArray[Any]) -> list[dict[str, Any]]:
    """Places of a list from 1, with id, score (a float32 as the double of the same value) and title."""
    ids = release.model.item_ids
    items: list[dict[str, Any]] = [
        {"item_id": ids[row], "rank": rank, "score": score}
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1)
    ]
    return _titled(release, rows, items)


def _titled(release: Release, rows: NDArray[Any], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same items, each with its title where it has one."""
    titles = release.titles
    if titles is not None:
        for row, item in zip(rows.tolist(), items, strict=True):
            if title := titles[row]:
                item["title"] = title
    return items
