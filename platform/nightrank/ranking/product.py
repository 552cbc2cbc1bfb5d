"""Is the int8 product of this CPU exact? Tried once per process, on the largest values there are."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled
from nightrank.ranking.tile import GATE, STEP_BYTES, STRIP, WIDE, has_integer_product, make_tile

STEPS = 64  # 256 columns: sums of 8 million, far beyond 16 bits

_tile: Any = make_tile(WIDE, is_integer=True, with_bias=False) if has_integer_product() else None


@functools.cache
def has_exact_product() -> bool:
    """Whether the int8 tile may be used: the instruction is there, and its sums are those of plain integers.

    A kernel that saturates at 16 bits, as some for older CPUs do, would make every bound false.
    """
    if _tile is None:
        return False
    columns = 4 * STEPS
    rng = np.random.default_rng(0)
    items = rng.choice(np.array([0, 255], dtype=np.uint8), size=(STRIP, columns))
    users = rng.choice(np.array([-127, 127], dtype=np.int8), size=(WIDE, columns))
    items[0], items[1], users[0], users[1] = 0, 255, -127, 127
    gates = np.zeros(WIDE, dtype=GATE)  # the lowest threshold: every user has a hit
    gates["start"], gates["threshold"] = -128 * users.sum(axis=1, dtype=np.int64), -(2**31)
    panels = items.reshape(STRIP, STEPS, 4).transpose(1, 0, 2).reshape(STEPS, STEP_BYTES)
    found = _sums(np.ascontiguousarray(panels), users, gates)
    return bool(np.array_equal(found, users.astype(np.int64) @ (items.astype(np.int64) - 128).T))


@compiled
def _sums(panels: NDArray[np.uint8], users: NDArray[np.int8], gates: NDArray[Any]) -> NDArray[np.int32]:
    """The sums of one tile, int32 (WIDE, STRIP)."""
    rows, unused = np.arange(WIDE).astype(np.int32), np.zeros(STRIP, dtype=np.float32)
    hit_users, hit_masks = np.empty(WIDE, dtype=np.int32), np.empty(WIDE, dtype=np.uint64)
    sums = np.empty((WIDE, STRIP), dtype=np.int32)
    _tile(
        numba.uintp(panels.ctypes.data),
        panels.shape[0],
        numba.uintp(rows.ctypes.data),
        numba.uintp(users.ctypes.data),
        users.shape[1],
        numba.uintp(gates.ctypes.data),
        numba.uintp(unused.ctypes.data),
        numba.uintp(hit_users.ctypes.data),
        numba.uintp(hit_masks.ctypes.data),
        numba.uintp(sums.ctypes.data),
        0,
    )
    return sums
