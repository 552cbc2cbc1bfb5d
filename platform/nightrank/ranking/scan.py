"""The search: for a range of users, block after block of items is screened, and what may enter a list is kept.

For each user a buffer of candidates holds proven lower and upper bounds of their scores. The k-th largest lower
bound is what a pair has to reach: users whose bound for all items left (`packing`) is below it leave the product;
the rest are screened against it (`tile`). Canonical scores are computed once, at the end, for the candidates that
are still in question; earlier only for a user whose buffer would overflow, as with many ties. Each user's answer is
decided by bounds and canonical scores alone, so neither blocks, chunks, threads nor the kind of product show in it.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled, inlined, inner
from nightrank.ranking.arguments import (
    FLOAT,
    HIGH,
    LOW,
    PLACE,
    PLAIN,
    Answer,
    Catalogue,
    Cells,
    Query,
    State,
    new_state,
)
from nightrank.ranking.candidates import finish, make_room, score_few, take, trim
from nightrank.ranking.packing import ROUNDED_UP
from nightrank.ranking.selection import NO_BOUND, just_below, key_of, sort
from nightrank.ranking.tile import (
    NARROW,
    STEP_BYTES,
    STRIP,
    WIDE,
    has_integer_product,
    lowest_bit,
    make_tile,
)

# Without the instruction the names of the int8 tiles stand for code that is compiled but never called.
_INTEGER = has_integer_product()
_WIDE = WIDE if _INTEGER else NARROW
_plain_tile = make_tile(_WIDE, is_integer=_INTEGER, with_bias=not _INTEGER)
_plain_single = make_tile(1, is_integer=_INTEGER, with_bias=not _INTEGER)
_biased_tile = make_tile(_WIDE, is_integer=_INTEGER, with_bias=True)
_biased_single = make_tile(1, is_integer=_INTEGER, with_bias=True)
_float_tile = make_tile(NARROW, is_integer=False, with_bias=True)

FLOAT_STEP = 2.0**-23  # twice the unit roundoff of float32
SMALL = 1e-37  # the inverse of less is beyond float32
LARGE = 1e37  # beyond it a float32 sum may overflow on its way: nothing is ruled out by it
UNDERFLOW = 1e-40  # more than gradual underflow takes from a float32 sum of 60,000 products


@compiled
def rank(catalogue: Catalogue, query: Query, answer: Answer, first: int, last: int) -> int:
    """Fill the answers of users first to last; how many pairs were screened."""
    return _rank(catalogue, query, answer, new_state(catalogue, query), first, last)


@inner
def _rank(catalogue: Catalogue, query: Query, answer: Answer, state: State, first: int, last: int) -> int:
    screened = 0
    for start in range(first, last, query.chunk):
        n_users = min(query.chunk, last - start)
        _list(query.excluded, state.excluded, catalogue.positions, start, n_users)
        _list(query.allowed, state.allowed, catalogue.positions, start, n_users)
        n_active = _load_all(catalogue, query, state, start, n_users)
        screened += _search(catalogue, query, state, start, n_active)
        for user in range(n_users):
            finish(catalogue, query, state, answer, start + user, user)
    return screened


@inner
def _list(cells: Cells, lists: Cells, positions: NDArray[np.int32], start: int, n_users: int) -> None:
    """Copy the lists of some users, as positions, sorted."""
    if cells.offsets.shape[0] <= 1:
        return
    first = cells.offsets[start]
    for user in range(n_users):
        begin, end = cells.offsets[start + user] - first, cells.offsets[start + user + 1] - first
        for place in range(begin, end):
            lists.items[place] = positions[cells.items[first + place]]
        sort(lists.items[begin:end])
        lists.offsets[user + 1] = end


@inner
def _load_all(catalogue: Catalogue, query: Query, state: State, start: int, n_users: int) -> int:
    """Make a chunk of users ready; how many are to be searched for."""
    n_active = 0
    for user in range(n_users):
        if _load(catalogue, query, state, start + user, user):
            state.active[n_active] = user
            n_active += 1
    return n_active


@inner
def _load(catalogue: Catalogue, query: Query, state: State, row: int, user: int) -> bool:
    """Make a user ready; whether they are to be searched for: not if their few allowed items were scored here."""
    person = state.users[user]
    person.count = person.fresh = 0
    person.bound = NO_BOUND
    take(query, state, row)
    squares = 0.0
    for column in range(state.vector.shape[0]):
        squares += state.vector[column] ** 2
    person.norm = math.sqrt(squares) * ROUNDED_UP
    person.next_excluded = state.excluded.offsets[user]
    if query.own_allowed:
        begin, end = state.allowed.offsets[user], state.allowed.offsets[user + 1]
        person.next_allowed = begin
        if end - begin <= query.few:
            score_few(catalogue, query, state, user, state.allowed.items[begin:end])
            return False
    elif query.shared_few:
        score_few(catalogue, query, state, user, query.few_allowed)
        return False
    if query.kind == FLOAT:
        codes = state.codes.view(np.float32)
        for column in range(state.vector.shape[0]):
            codes[user, column] = np.float32(state.vector[column])
        steps = (state.vector.shape[0] + 4) * FLOAT_STEP
        person.scale, person.residual = 1.0, person.norm * steps / (1.0 - steps)
    else:
        _quantise(state, user)
    return True


@inner
def _quantise(state: State, user: int) -> None:
    """The vector in hand as bytes -127 to 127 with one scale, and the norm of what that leaves."""
    largest = 0.0
    for column in range(state.vector.shape[0]):
        largest = max(largest, abs(state.vector[column]))
    scale = largest / 127.0 if largest > 0 else 1.0
    codes = state.codes.view(np.int8)
    squares, total = 0.0, 0.0
    for column in range(state.vector.shape[0]):
        code = np.rint(state.vector[column] / scale)
        codes[user, column] = np.int8(code)
        total += code
        squares += (state.vector[column] - code * scale) ** 2
    state.users[user].scale, state.users[user].residual = scale, math.sqrt(squares) * ROUNDED_UP
    state.gates[user].start = np.int32(-128 * total)


@inner
def _search(catalogue: Catalogue, query: Query, state: State, start: int, n_active: int) -> int:
    """Go through the blocks until no user is left who could find more; how many pairs were screened."""
    screened = 0
    for number in range(catalogue.blocks.shape[0]):
        block = catalogue.blocks[number]
        n_active = _still_active(catalogue, query, state, block, n_active)
        if n_active == 0:
            break
        for strip in range(block.first, block.last):
            if query.masks[strip] == 0:
                continue
            screened += n_active * STRIP
            n_hits = _screen(catalogue, query, state, strip, n_active)
            if n_hits > 0:
                _collect(catalogue, query, state, block, start, strip, n_hits)
        for i in range(n_active):
            user = state.active[i] + 0  # as a long
            if state.users[user].fresh * 4 >= query.k and state.users[user].count >= query.k:
                trim(query, state, user)
    return screened


@inner
def _still_active(catalogue: Catalogue, query: Query, state: State, block: Any, n_active: int) -> int:
    """Drop the users for whom no item from this block on can be good enough; thresholds for the others."""
    left = 0
    for i in range(n_active):
        user = state.active[i] + 0
        person = state.users[user]
        if person.bound != NO_BOUND:
            most = person.norm * block.norm_left
            reach = most + block.bias_left
            reach = min(reach, block.key_left + max(person.norm - catalogue.pivot, 0.0) * block.norm_left)
            if reach + _rounding(catalogue, most) < just_below(person.bound):
                continue
        _set_threshold(catalogue, query, state, block, user)
        state.active[left] = user
        left += 1
    for i in range(left, left + WIDE):  # a tile is filled up with a row that passes nowhere
        state.active[i] = query.chunk
    return left


@inner
def _rounding(catalogue: Catalogue, size: float) -> float:
    """More than all float64 roundings of a score and its bounds; size: |u| |v| or more."""
    steps: int = catalogue.vectors.shape[1] + 16
    return steps * 4.5e-16 * (size + catalogue.largest_bias)


@inner
def _set_threshold(catalogue: Catalogue, query: Query, state: State, block: Any, user: int) -> None:
    """The least sum with which an item of the block could reach the user's bound, rounded down."""
    person, gate = state.users[user], state.gates[user]
    scale, size = person.scale * block.scale, person.norm * block.length
    least = -np.inf
    if person.bound != NO_BOUND and not (query.kind == FLOAT and size > LARGE):
        error = (person.norm * block.residual + person.residual * block.length) * ROUNDED_UP
        error += _rounding(catalogue, size) + UNDERFLOW * (query.kind == FLOAT)
        least = (just_below(person.bound) - error) / scale
    if query.kind == PLAIN:
        gate.threshold = np.int32(math.floor(max(-(2.0**31), min(2.0**31 - 2, least - 1.0))))
        return
    sums = size if query.kind == FLOAT else 127.0 * 127.0 * state.codes.shape[1]
    least -= 2.0**-20 * (sums + catalogue.largest_bias / scale + abs(least))  # the float32 steps of the tile
    if not scale > SMALL or np.isnan(least):  # beyond float32: let everything pass
        scale, least = np.inf, -np.inf
    gate.inverse, gate.least = np.float32(1.0 / scale), np.float32(least)


@inlined
def _screen(catalogue: Catalogue, query: Query, state: State, strip: int, n_active: int) -> int:
    """Hold one strip against every active user; how many have a hit."""
    steps = catalogue.panels.shape[1]
    items = numba.uintp(catalogue.panels.ctypes.data) + numba.uintp(strip * steps * STEP_BYTES)
    bias = numba.uintp(catalogue.padded_bias.ctypes.data) + numba.uintp(4 * STRIP * strip)
    active, codes = numba.uintp(state.active.ctypes.data), numba.uintp(state.codes.ctypes.data)
    gates, stride = numba.uintp(state.gates.ctypes.data), state.codes.shape[1]
    users, masks = numba.uintp(state.hit_users.ctypes.data), numba.uintp(state.hit_masks.ctypes.data)
    sums = numba.uintp(state.hit_sums.ctypes.data)
    n_hits, place = 0, 0
    while place < n_active:
        rows = active + numba.uintp(4 * place)
        pointers = (rows, codes, stride, gates, bias, users, masks, sums, n_hits)
        if query.kind == FLOAT:
            n_hits = _float_tile(items, steps, *pointers)
            place += NARROW
            continue
        single = n_active - place == 1
        if query.kind == PLAIN and single:
            n_hits = _plain_single(items, steps, *pointers)
        elif query.kind == PLAIN:
            n_hits = _plain_tile(items, steps, *pointers)
        elif single:
            n_hits = _biased_single(items, steps, *pointers)
        else:
            n_hits = _biased_tile(items, steps, *pointers)
        place += WIDE
    return n_hits


@inner
def _listed(items: NDArray[np.int32], place: int, end: int, strip: int) -> tuple[np.uint64, int]:
    """The lanes of a strip that are on a list, from a place in it on, and the place after them."""
    base, bits = strip * STRIP, np.uint64(0)
    while place < end and items[place] < base:
        place += 1
    while place < end and items[place] < base + STRIP:
        bits |= np.uint64(1) << np.uint64(items[place] - base)
        place += 1
    return bits, place


@inner
def _may_get(query: Query, state: State, strip: int, user: int) -> np.uint64:
    """The lanes of a strip that a user may get. Strips are asked for in ascending order."""
    person, lists = state.users[user], state.excluded
    mask: np.uint64 = query.masks[strip]
    if lists.items.shape[0] > 0:
        bits, person.next_excluded = _listed(
            lists.items, person.next_excluded, lists.offsets[user + 1], strip
        )
        mask &= ~bits
    if query.own_allowed:
        lists = state.allowed
        bits, person.next_allowed = _listed(lists.items, person.next_allowed, lists.offsets[user + 1], strip)
        mask &= bits
    return mask


@inner
def _collect(
    catalogue: Catalogue, query: Query, state: State, block: Any, start: int, strip: int, n_hits: int
) -> None:
    """Add the pairs that passed to the candidates, each with its own bounds."""
    floats = state.hit_sums.view(np.float32)
    for hit in range(n_hits):
        user = state.hit_users[hit] + 0
        mask = state.hit_masks[hit] & _may_get(query, state, strip, user)
        person, found = state.users[user], state.candidates[user]
        if mask != 0 and person.count + STRIP > found.shape[1]:
            make_room(catalogue, query, state, start + user, user)
            _set_threshold(catalogue, query, state, block, user)
        scale, count = person.scale * block.scale, person.count
        while mask != 0:
            lane = lowest_bit(mask)
            mask &= mask - np.uint64(1)
            item = catalogue.items[strip * STRIP + lane]
            size = person.norm * item.norm
            error = person.norm * item.residual + person.residual * (item.norm + item.residual)
            error = error * ROUNDED_UP + _rounding(catalogue, size)
            value = state.hit_sums[hit, lane] * scale
            if query.kind == FLOAT:  # beyond LARGE the sum may be no number
                error = error + UNDERFLOW if size <= LARGE else np.inf
                value = 0.0 + floats[hit, lane] if size <= LARGE else 0.0
            value += item.bias
            high = key_of(np.float32(value + error))
            if high >= person.bound:
                found[LOW, count], found[HIGH, count] = key_of(np.float32(value - error)), high
                found[PLACE, count] = strip * STRIP + lane
                count += 1
        person.fresh += count - person.count
        person.count = count
