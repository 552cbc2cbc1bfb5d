"""Item vectors made ready for screening: ordered, quantised and packed into strips; and the bounds that follow.

Items are ordered by norm (with a bias: by bias + norm * the median norm), so that what few users can want comes last
and whole blocks of it are skipped. A block has one scale: v is close to v' = scale * q with bytes q in -127..127,
and for a user u close to u' = s * p

    |u.v - u'.v'| = |u.(v - v') + (u - u').v'| <= |u| |v - v'| + |u - u'| |v'|        (Cauchy-Schwarz),

where u'.v' = s * scale * (p.q) and p.q is an exact integer. The norms of the residuals v - v' are computed in
float64 and rounded up by 1e-9 of themselves; what rounding can hide in a residual near 0, and in the sums, is within
(d + 16) 4.5e-16 (|u| |v| + |bias|), which `scan` adds. So the bound is proven, not estimated: a pair that it rules
out cannot be in the answer.

The float32 form, for CPUs without the instruction, is the same with v' = v: a float32 sum of n products is off by
at most n eps / (1 - n eps) * |u| |v| (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 3.1), which
is written as a residual of the user, see `scan.load`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nightrank.compiled import compiled
from nightrank.errors import DataError
from nightrank.ranking.tile import STEP_BYTES, STRIP

HEAD_STRIPS = (
    1,
    1,
    2,
    4,
    8,
    16,
)  # small blocks first: a bound early, and close scales where norms change fast
BLOCK_STRIPS = 32
ROUNDED_UP = 1.0 + 1e-9
SAVED = {
    "panels": "uint8",
    "order": "int32",
    "starts": "int64",
    "scales": "float64",
    "norms": "float64",
    "residuals": "float64",
}


# first, last: strips. scale: of the codes. residual, length: the largest |v - v'| and |v'|. norm_left, bias_left,
# key_left: the largest norm, bias, and bias + norm * pivot from this block on.
BLOCK = np.dtype(
    [
        *((name, np.int64) for name in ("first", "last")),
        *(
            (name, np.float64)
            for name in ("scale", "residual", "length", "norm_left", "bias_left", "key_left")
        ),
    ]
)
# By position: the length of the vector and of what quantising leaves of it, both rounded up; its row, and its bias.
ITEM = np.dtype([("norm", np.float64), ("residual", np.float64), ("row", np.int32), ("bias", np.float32)])


class Packed(NamedTuple):
    """What is prepared of item vectors.

    saved: the arrays to save. panels: uint8 (n_strips, steps, 192), a strip of 48 items for each step of 4 columns
    (int8 + 128) or of 1 (float32). blocks: BLOCK (n_blocks,). items: ITEM (n_items,), by position. positions: int32
    (n_items,), of each row.
    """

    saved: dict[str, NDArray[Any]]
    panels: NDArray[np.uint8]
    blocks: NDArray[Any]
    items: NDArray[Any]
    positions: NDArray[np.int32]
    pivot: float


def pack(vectors: NDArray[np.float32], bias: NDArray[np.float32], *, is_integer: bool) -> Packed:
    """Prepare item vectors, float32 (n_items, d) with biases (n_items,). O(n_items d).

    A function of the vectors alone: the same bytes on every CPU. Raises DataError where a value is not finite.
    """
    n_items, width = vectors.shape
    norms = vector_norms(vectors)
    for name, values in (("item_vectors", norms), ("item_bias", bias)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise DataError(
                f"{name} holds a value that is not finite, first in row {row}; refit or drop that row"
            )
    order = np.argsort(-_keys(norms, bias, pivot=_pivot(norms)), kind="stable").astype(np.int32)
    starts = block_starts(n_items)
    scales = np.ones(len(starts) - 1)
    residuals = np.zeros(n_items)
    panels = _aligned((len(range(0, n_items, STRIP)), _steps(width, is_integer=is_integer), STEP_BYTES))
    if is_integer:
        panels[:] = 128
        quantise_items(vectors, order, starts, panels, scales, residuals)
    else:
        panels[:] = 0
        copy_items(vectors, order, panels.view(np.float32))
    saved: dict[str, NDArray[Any]] = {"panels": panels, "order": order, "starts": starts, "scales": scales}
    return assemble(
        saved | {"norms": norms[order], "residuals": residuals}, vectors, bias, is_integer=is_integer
    )


def prepare(
    vectors: NDArray[np.float32], bias: NDArray[np.float32] | None = None
) -> dict[str, NDArray[np.generic]]:
    """The arrays to save with item vectors, for `ItemIndex(prepared=...)`: the int8 form, on every CPU the same."""
    biases = np.zeros(len(vectors), dtype=np.float32) if bias is None else bias
    return pack(readonly(np.ascontiguousarray(vectors)), biases, is_integer=True).saved


def assemble(
    arrays: Mapping[str, NDArray[Any]],
    vectors: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    is_integer: bool,
) -> Packed:
    """`Packed` over saved arrays (`Packed.saved`), which may be memory maps. O(n_items), whatever the width.

    Raises DataError where they do not fit each other or the vectors, by shape, dtype and the norms of some rows:
    compiled code trusts them.
    """
    # Plain read-only arrays: the compiled code knows one type, wherever an array came from.
    if not (arrays.keys() >= SAVED.keys() and all(_is_plain(arrays[name], SAVED[name]) for name in SAVED)):
        raise DataError(f"prepared arrays are {', '.join(SAVED)} of their types; prepare the vectors again")
    saved: dict[str, Any] = {name: readonly(arrays[name]) for name in SAVED}
    order, norms, residuals, starts = (saved[name] for name in ("order", "norms", "residuals", "starts"))
    positions, (n_items, width) = _positions(order), vectors.shape
    n_strips = -(-n_items // STRIP)
    if not (
        positions is not None
        and n_items == len(bias) == len(order) == len(norms) == len(residuals)
        and saved["panels"].shape == (n_strips, _steps(width, is_integer=is_integer), STEP_BYTES)
        and len(starts) == len(saved["scales"]) + 1
        and (starts[0], starts[-1]) == (0, n_strips)
        and (np.diff(starts) > 0).all()
        and all(((values >= 0) & (values < np.inf)).all() for values in (norms, residuals, saved["scales"]))
        and _norms_fit(norms, vectors[order[_some(n_items)]])
    ):
        raise DataError("prepared arrays do not fit each other or the items; prepare the vectors again")
    pivot = _pivot(norms)
    items = np.empty(len(order), dtype=ITEM)
    items["norm"], items["residual"], items["row"], items["bias"] = norms, residuals, order, bias[order]
    blocks = np.empty(len(starts) - 1, dtype=BLOCK)
    blocks["first"], blocks["last"], blocks["scale"] = starts[:-1], starts[1:], saved["scales"]

    def largest(values: NDArray[Any]) -> NDArray[Any]:
        return np.maximum.reduceat(values, starts[:-1] * STRIP) if len(values) else values

    def left(values: NDArray[Any]) -> NDArray[Any]:
        return np.maximum.accumulate(largest(values)[::-1])[::-1]

    blocks["residual"], blocks["length"] = largest(residuals), largest(norms + residuals)
    blocks["norm_left"], blocks["bias_left"] = left(norms), left(items["bias"])
    blocks["key_left"] = left(_keys(norms, items["bias"], pivot=pivot))
    return Packed(saved, saved["panels"], readonly(blocks), readonly(items), readonly(positions), pivot)


def _is_plain(array: NDArray[Any], dtype: str) -> bool:
    n_dims = 3 if dtype == "uint8" else 1
    return array.dtype == np.dtype(dtype) and array.ndim == n_dims and bool(array.flags.c_contiguous)


def _steps(width: int, *, is_integer: bool) -> int:
    return max(1, -(-width // 4) if is_integer else width)


def _some(n_items: int) -> NDArray[np.int64]:
    """Up to 64 positions, spread over all."""
    return np.unique(np.linspace(0, n_items - 1, min(64, n_items)).astype(np.int64))


def _norms_fit(norms: NDArray[np.float64], vectors: NDArray[np.float32]) -> bool:
    """Are these the norms of the vectors at `_some` positions? They are equal to the bit, or of other vectors."""
    return bool(
        np.array_equal(norms[_some(len(norms))], vector_norms(readonly(np.ascontiguousarray(vectors))))
    )


def _positions(order: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """The inverse of a permutation; None where it is none."""
    n_items = len(order)
    if n_items and not 0 <= int(order.min()) <= int(order.max()) < n_items:
        return None
    positions = np.full(n_items, -1, dtype=np.int32)
    positions[order] = np.arange(n_items, dtype=np.int32)
    return None if (positions < 0).any() else positions


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """A plain view that cannot be written."""
    view = np.asarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def block_starts(n_items: int) -> NDArray[np.int64]:
    """The first strip of each block, and the number of strips."""
    n_strips = len(range(0, n_items, STRIP))
    starts = [0]
    for size in HEAD_STRIPS:
        starts.append(starts[-1] + size)
    starts += range(starts[-1] + BLOCK_STRIPS, n_strips + BLOCK_STRIPS, BLOCK_STRIPS)
    return np.unique(np.minimum(starts, n_strips)).astype(np.int64)


def _pivot(norms: NDArray[np.float64]) -> float:
    """The norm that a user is expected to have, for the order of items with a bias: that of the median item."""
    return float(np.sort(norms)[len(norms) // 2]) if len(norms) else 0.0


def _keys(norms: NDArray[np.float64], bias: NDArray[np.floating], *, pivot: float) -> NDArray[np.float64]:
    keys: NDArray[np.float64] = norms * pivot + bias.astype(np.float64)
    return keys


def _aligned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 on a border of 64 bytes, as a memory map of an .npy file is: no load crosses a cache line."""
    size = math.prod(shape)
    raw = np.empty(size + 64, dtype=np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].reshape(shape)


@compiled
def vector_norms(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Norms float64 (n,), summed in column order and rounded up; not finite where a value is not."""
    norms = np.empty(vectors.shape[0])
    for row in range(vectors.shape[0]):
        total = 0.0
        for column in range(vectors.shape[1]):
            total += np.float64(vectors[row, column]) ** 2
        norms[row] = math.sqrt(total) * ROUNDED_UP
    return norms


@compiled
def quantise_items(
    vectors: NDArray[np.float32],
    order: NDArray[np.int32],
    starts: NDArray[np.int64],
    panels: NDArray[np.uint8],
    scales: NDArray[np.float64],
    residuals: NDArray[np.float64],
) -> None:
    """Fill panels, scales and residuals, block by block."""
    width = vectors.shape[1]
    for block in range(starts.shape[0] - 1):
        first, last = starts[block] * STRIP, min(starts[block + 1] * STRIP, order.shape[0])
        largest = np.float32(0.0)
        for position in range(first, last):
            for column in range(width):
                largest = max(largest, abs(vectors[order[position], column]))
        scale = np.float64(largest) / 127.0 if largest > 0 else 1.0
        scales[block] = scale
        for position in range(first, last):
            strip, lane = position // STRIP, position % STRIP
            squares = 0.0
            for column in range(width):
                value = np.float64(vectors[order[position], column])
                code = np.rint(value / scale)
                panels[strip, column >> 2, 4 * lane + (column & 3)] = np.uint8(np.int64(code) + 128)
                squares += (value - code * scale) ** 2
            residuals[position] = math.sqrt(squares) * ROUNDED_UP


@compiled
def copy_items(vectors: NDArray[np.float32], order: NDArray[np.int32], panels: NDArray[np.float32]) -> None:
    """Fill panels (n_strips, d, 48) with the vectors themselves."""
    for position in range(order.shape[0]):
        for column in range(vectors.shape[1]):
            panels[position // STRIP, column, position % STRIP] = vectors[order[position], column]
