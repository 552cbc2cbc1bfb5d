"""Events that come with a request: weighed by the rules of the release, and folded in with the stored history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.errors import DataError
from nightrank.release.manifest import EventRules
from nightrank.release.reader import Release
from nightrank.service.answers import native_id
from nightrank.service.prepared import Prepared
from nightrank.service.refusal import RequestError, close_to
from nightrank.service.schemas import Event

PLAIN = EventRules(combine="sum", type_weights={})  # of a release that does not say: written before version 3


@dataclass(frozen=True)
class Given:
    """item_rows: int32, ascending, each once: what to exclude. weights: float64, combined; 0 counts for nothing.
    unknown: the ids that are in no row."""

    item_rows: NDArray[np.int32]
    weights: NDArray[np.float64]
    unknown: list[Any]

    @property
    def counts(self) -> bool:
        """Whether there is anything to solve a vector from."""
        return bool((self.weights > 0).any())

    @classmethod
    def of(cls, release: Release, events: Sequence[Event]) -> Given:
        """Weight times type weight, then combined by item, in the order given. Raises RequestError."""
        rules, ids = release.manifest.events or PLAIN, release.model.item_ids
        combined: dict[int, float] = {}
        unknown = []
        for event in events:
            row = ids.find(native_id(event.item_id, ids, what="events"))
            weight = event.weight * _type_weight(event, rules)
            if row is None:
                unknown.append(event.item_id)
            else:
                combined[row] = _joined(combined.get(row), weight, rules.combine)
        rows = np.array(sorted(combined), dtype=np.int32)
        return cls(rows, np.array([combined[row] for row in rows.tolist()], dtype=np.float64), unknown)


def folded(prepared: Prepared, user_row: int | None, given: Given) -> NDArray[np.float32]:
    """The vector of somebody with this stored history (None: none) and these events on top, float32 (1, d)."""
    release = prepared.release
    how = (release.manifest.events or PLAIN).combine
    weights: dict[int, float] = {}
    if user_row is not None:
        seen = release.model.seen
        start, end = seen.indptr[user_row : user_row + 2].tolist()
        weights = dict(zip(seen.indices[start:end].tolist(), seen.data[start:end].tolist(), strict=True))
    for row, weight in zip(given.item_rows.tolist(), given.weights.tolist(), strict=True):
        weights[row] = _joined(weights.get(row), weight, how)
    rows = sorted(row for row, weight in weights.items() if weight > 0)
    with np.errstate(over="ignore"):
        values = np.array([weights[row] for row in rows], dtype=np.float32)
    if not np.isfinite(values).all():
        raise RequestError(422, "invalid_events", "weights of events add up to more than a float32 holds")
    cells = csr_matrix(
        (values, np.array(rows, dtype=np.int32), np.array([0, len(rows)])),
        shape=(1, release.model.card.n_items),
    )
    assert prepared.fold is not None  # noqa: S101  whoever calls has asked
    try:
        return prepared.fold(cells).vectors
    except DataError:
        raise RequestError(
            422, "invalid_events", "no vector can be solved from these events; expected weights nearer to 1"
        ) from None


def _joined(before: float | None, weight: float, how: str) -> float:
    if before is None or how == "last":
        return weight
    return before + weight if how == "sum" else max(before, weight)


def _type_weight(event: Event, rules: EventRules) -> float:
    if event.type is None:
        return 1.0
    if event.type not in rules.type_weights:
        known = close_to(event.type, rules.type_weights)
        raise RequestError(
            422, "unknown_type", f"event type {event.type[:80]!r} is not one of the release's; {known}"
        )
    return rules.type_weights[event.type]
