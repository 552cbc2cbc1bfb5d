"""A user's candidates: pairs with proven bounds of their scores, trimmed by bound, settled by canonical score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import inner
from nightrank.ranking.arguments import HIGH, LOW, PLACE, Answer, Catalogue, Query, State
from nightrank.ranking.canonical import canonical_key, in_order
from nightrank.ranking.selection import keep, kth_largest, score_of, sort
from nightrank.ranking.tile import STRIP


@inner
def take(query: Query, state: State, row: int) -> None:
    """Take a user's vector in hand, as float64; row: of the query."""
    for column in range(state.vector.shape[0]):
        state.vector[column] = query.users[row, column]


@inner
def trim(query: Query, state: State, user: int) -> None:
    """Raise the bound to the k-th largest lower one, and keep what may reach it."""
    person, found = state.users[user], state.candidates[user]
    person.bound = kth_largest(found[LOW][: person.count], query.k)
    person.count = keep(found[LOW], found[HIGH], found[PLACE], person.count, person.bound)
    person.fresh = 0


@inner
def settle(catalogue: Catalogue, state: State, user: int) -> None:
    """Give every candidate of the user in hand its canonical score, where it has none."""
    person, found = state.users[user], state.candidates[user]
    for i in range(person.count):
        if found[LOW, i] != found[HIGH, i]:
            key = _canonical(catalogue, state, person, found[PLACE, i])
            found[LOW, i] = found[HIGH, i] = key


@inner
def _canonical(catalogue: Catalogue, state: State, person: Any, position: int) -> np.int32:
    item = catalogue.items[position]
    size = person.norm * item.norm + abs(item.bias)
    return canonical_key(state.vector, catalogue.vectors[item.row], item.bias, size)


@inner
def make_room(catalogue: Catalogue, query: Query, state: State, row: int, user: int) -> None:
    """Let a strip's worth of candidates fit: trim; else with canonical scores; else ties by item row."""
    person = state.users[user]
    enough = (
        state.candidates.shape[2] - STRIP + query.k
    ) // 2  # half of what is spare: the next time is not at once
    trim(query, state, user)
    if person.count <= enough:
        return
    take(query, state, row)
    settle(catalogue, state, user)
    trim(query, state, user)
    if person.count > enough:
        cut(catalogue, query, state, user)


@inner
def _sort(catalogue: Catalogue, state: State, user: int) -> None:
    """Settled candidates by score descending, then item row: each as one integer that orders so."""
    person, found = state.users[user], state.candidates[user]
    for i in range(person.count):
        row = np.int64(catalogue.items[found[PLACE, i]].row)
        state.sorted[i] = ((np.int64(-1) - np.int64(found[LOW, i])) << np.int64(32)) | row
    sort(state.sorted[: person.count])


@inner
def _key_in(entry: np.int64) -> np.int32:
    return np.int32(np.int64(-1) - (entry >> np.int64(32)))


@inner
def _row_in(entry: np.int64) -> np.int64:
    return entry & np.int64(0xFFFFFFFF)


@inner
def cut(catalogue: Catalogue, query: Query, state: State, user: int) -> None:
    """Keep the k best settled candidates, ties by item row."""
    _sort(catalogue, state, user)
    person, found = state.users[user], state.candidates[user]
    person.count = min(person.count, query.k)
    for i in range(person.count):
        found[LOW, i] = found[HIGH, i] = _key_in(state.sorted[i])
        found[PLACE, i] = catalogue.positions[_row_in(state.sorted[i])]


@inner
def score_few(catalogue: Catalogue, query: Query, state: State, user: int, few: NDArray[np.int32]) -> None:
    """Candidates of the user in hand, who may get no more than these (positions, sorted): canonical at once."""
    excluded, person, found = state.excluded, state.users[user], state.candidates[user]
    place, end = excluded.offsets[user], excluded.offsets[user + 1]
    for i in range(few.shape[0]):
        position = few[i]
        while place < end and excluded.items[place] < position:
            place += 1
        if (place < end and excluded.items[place] == position) or (i > 0 and few[i - 1] == position):
            continue
        if person.count == found.shape[1]:
            cut(catalogue, query, state, user)
        key = _canonical(catalogue, state, person, position)
        found[LOW, person.count] = found[HIGH, person.count] = key
        found[PLACE, person.count] = position
        person.count += 1


@inner
def finish(catalogue: Catalogue, query: Query, state: State, answer: Answer, row: int, user: int) -> None:
    """Settle what is left of a user's candidates, and write the best into the answer."""
    person = state.users[user]
    take(query, state, row)
    if person.count > query.k:
        trim(query, state, user)
    settle(catalogue, state, user)
    if person.count > query.k:
        trim(query, state, user)
    _sort(catalogue, state, user)
    count = min(person.count, query.k)
    for i in range(count):
        item, score = _row_in(state.sorted[i]), score_of(_key_in(state.sorted[i]))
        if score == 0.0:  # a key has lost the sign of a zero
            bias = catalogue.items[catalogue.positions[item]].bias
            score = in_order(state.vector, catalogue.vectors[item], bias)
        answer.item_rows[row, i] = item
        answer.scores[row, i] = score
    answer.counts[row] = count
