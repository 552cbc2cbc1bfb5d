"""What an event counts: its weight x the weight of its type, and what of that is left at its age (docs/data.md).

Decay comes last, while pairs combine (`combining`): it is counted back from the latest pair that is left.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nightrank.data.events import DAY_S, Events
from nightrank.errors import DataError

_CHUNK = 1 << 18  # events whose temporary arrays are alive at a time


def decay(times: NDArray[np.int64], *, latest: int, half_life_days: float) -> NDArray[np.float64]:
    """0.5 ** ((latest - time) / half life) for each time (seconds UTC); 1 for a time behind `latest`."""
    age_s = np.maximum(latest - times, 0)
    factors: NDArray[np.float64] = 0.5 ** (age_s / (half_life_days * DAY_S))
    return factors


def weighted(events: Events, *, type_weights: Mapping[str, float] | None) -> Events:
    """The same events with weight x type weight; None changes nothing.

    A type weight of 0 drops no event: its weight becomes 0. The settings are trusted, the job file has checked
    them. Raises DataError on a type without a weight, or where there is no type column.
    """
    if type_weights is None:
        return events
    weights = np.ones(len(events)) if events.weights is None else events.weights.copy()
    if events.types is None:
        raise DataError(
            "events.type_weights is set, but the events have no type column; "
            "name it in events.columns.type, or take type_weights out"
        )
    _refuse_unknown(events, events.types, type_weights=type_weights)
    factors = np.array([type_weights.get(name, 0.0) for name in events.type_names], dtype=np.float64)
    for start in range(0, len(events), _CHUNK):
        weights[start : start + _CHUNK] *= factors[events.types[start : start + _CHUNK]]
    return replace(events, weights=weights)


def _refuse_unknown(events: Events, types: NDArray[np.int32], *, type_weights: Mapping[str, float]) -> None:
    unknown = np.array([name not in type_weights for name in events.type_names])
    if not (mask := unknown[types]).any():
        return
    counts = np.bincount(types[mask], minlength=len(unknown))
    most = [int(row) for row in np.argsort(-counts, kind="stable")[:10] if counts[row]]
    found = ", ".join(f"'{events.type_names[row]}' ({counts[row]} events)" for row in most)
    near = difflib.get_close_matches(events.type_names[most[0]], type_weights, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise DataError(
        f"{_place(int(np.argmax(mask)), events)}"
        f"events.type_weights has no weight for the event type {found}; "
        f"it knows {', '.join(map(repr, type_weights))}{hint}; give every type a weight, 0 for none"
    )


def _place(row: int, events: Events) -> str:
    """`file: the type column, first in row 3: ` for an event; nothing where the files are not known."""
    for file, n_rows in events.parts:
        if row < n_rows:
            return f"{file}: the type column, first in row {row}: "
        row -= n_rows
    return ""
