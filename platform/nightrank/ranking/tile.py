"""The inner loop of screening, as LLVM code: a few users against one strip of 48 items, sums kept in registers.

`tile` sums the products of every pair, compares each sum with its user's threshold where it lies, and writes down
only the strips in which somebody passed. So no score is ever stored for a pair that fails, and there is no second
pass over the scores. Two kinds of sums:

- int8: items as unsigned bytes (value + 128) times users as signed bytes, four products a lane at once, in the
  `vpdpbusd` instruction of AVX-512 VNNI. It is exact: four products of at most 255 * 127 are added in 32 bits and
  nothing saturates (its AVX2 predecessor, `vpmaddubsw`, saturates at 16 bits and is not used). 128 * sum(u) is taken
  off at the start, so a sum is that of the signed values. Exact while 255 * 127 * columns < 2**31, 66,000 columns.
- float32: multiply and add in vectors of eight, which LLVM maps to whatever the CPU has.

Chosen against the int8 products of onnxruntime (MatMulInteger) and numkong (dots_packed), which store every sum and
leave the comparison to a second pass. Side by side on two cores, 2026-11, d = 64 to 512, this did 1.2 to 1.6 times
the operations a second of the first and 2.6 to 5.6 times those of the second, its comparison included. Both keep
their packed copy private to a process; this one is a plain array that processes map. The price is LLVM code of our
own, about a hundred lines, and numba with llvmlite (200 MB installed), which the rest of the engine needs anyway.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

STRIP = 48  # items: three 512-bit vectors of 32-bit sums
STEP_BYTES = 4 * STRIP  # of a strip, for one step: four int8 columns or one float32 column
MAX_INTEGER_COLUMNS = 60_000
WIDE = 8  # users in a tile of int8: 8 x 3 sums fill 24 of the 32 registers
NARROW = 2  # users in a tile of float32: 2 x 6 sums of eight lanes fit the 16 registers of AVX2

# What a tile needs of a user: where sums begin (float32: 0.0, the same bits); the least sum that passes, as an
# integer; with a bias the least sum + bias * inverse, as floats.
GATE = np.dtype(
    [("start", np.int32), ("threshold", np.int32), ("least", np.float32), ("inverse", np.float32)]
)

_BIT, _BYTE, _INT, _LONG, _FLOAT = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
_PRODUCT = "llvm.x86.avx512.vpdpbusd.512"


def has_integer_product() -> bool:
    """Does this CPU have the int8 instruction, and may numba use it?"""
    if numba.config.CPU_NAME is not None or numba.config.CPU_FEATURES is not None:
        return False  # somebody pinned what may be compiled
    features = llvmlite.binding.get_host_cpu_features()
    return all(features.get(name, False) for name in ("avx512f", "avx512bw", "avx512vnni"))


class _Code:
    """Writes one tile: the arguments as LLVM values, and the few operations it is made of."""

    def __init__(self, builder: Any, arguments: Any, *, lanes: int, is_integer: bool) -> None:
        self.builder = builder
        (self.items, self.steps, self.rows, self.users, self.stride, self.gates, self.bias) = arguments[:7]
        (self.hit_users, self.hit_masks, self.hit_sums, self.count) = arguments[7:]
        self.lanes, self.is_integer = lanes, is_integer
        self.panels = STRIP // lanes
        self.sums = ir.VectorType(_INT if is_integer else _FLOAT, lanes)
        self.floats = ir.VectorType(_FLOAT, lanes)
        self.bytes = ir.VectorType(_BYTE, 4 * lanes)

    def at(self, base: Any, offset: Any, kind: Any, *, align: int = 4) -> Any:
        """Load a `kind` from base + offset bytes."""
        pointer = self.builder.inttoptr(self.builder.add(base, offset), kind.as_pointer())
        loaded = self.builder.load(pointer)
        loaded.align = align
        return loaded

    def put(self, value: Any, base: Any, offset: Any) -> None:
        pointer = self.builder.inttoptr(self.builder.add(base, offset), value.type.as_pointer())
        self.builder.store(value, pointer).align = 4

    def of_gate(self, user_row: Any, name: str, kind: Any) -> Any:
        """A field of a user's gate."""
        assert GATE.fields is not None  # noqa: S101  it is structured
        place = self.builder.mul(user_row, _long(GATE.itemsize))
        return self.at(self.gates, self.builder.add(place, _long(GATE.fields[name][1])), kind)

    def splat(self, value: Any, kind: Any) -> Any:
        """The value in every lane."""
        empty = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(empty, value, ir.Constant(_INT, 0))
        zeros = ir.Constant(ir.VectorType(_INT, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, empty, zeros)

    def product(self, total: Any, items: Any, user: Any) -> Any:
        """total + items * user, in each lane."""
        if self.is_integer:
            form = ir.FunctionType(self.sums, [self.sums, self.bytes, self.bytes])
            function = cgutils.get_or_insert_function(self.builder.module, form, _PRODUCT)
            return self.builder.call(function, [total, items, self.builder.bitcast(user, self.bytes)])
        scaled = self.builder.fmul(items, user, flags=("contract",))
        return self.builder.fadd(total, scaled, flags=("contract",))

    def all_products(self, user_rows: list[Any]) -> list[list[Any]]:
        """The loop over the columns: sums by user and panel."""
        b, word = self.builder, self.sums.element
        bases = [b.add(self.users, b.mul(row, self.stride)) for row in user_rows]
        starts = [self.splat(self.of_gate(row, "start", word), self.sums) for row in user_rows]
        before, loop, after = b.block, b.append_basic_block("columns"), b.append_basic_block("judged")
        b.branch(loop)
        b.position_at_end(loop)
        step = b.phi(_LONG)
        step.add_incoming(_long(0), before)
        sums = [[b.phi(self.sums) for _ in range(self.panels)] for _ in user_rows]
        for row, start in zip(sums, starts, strict=True):
            for total in row:
                total.add_incoming(start, before)
        here = b.add(self.items, b.mul(step, _long(STEP_BYTES)))
        kind = self.bytes if self.is_integer else self.sums
        items = [self.at(here, _long(4 * self.lanes * panel), kind) for panel in range(self.panels)]
        ends = []
        for row, base in zip(sums, bases, strict=True):
            user = self.splat(self.at(base, b.shl(step, _long(2)), word), self.sums)
            ends.append([self.product(total, panel, user) for total, panel in zip(row, items, strict=True)])
        following = b.add(step, _long(1))
        step.add_incoming(following, loop)
        for row, row_ends in zip(sums, ends, strict=True):
            for total, end in zip(row, row_ends, strict=True):
                total.add_incoming(end, loop)
        b.cbranch(b.icmp_signed("<", following, self.steps), loop, after)
        b.position_at_end(after)
        return ends

    def passes(self, sums: list[Any], user_row: Any, *, with_bias: bool) -> list[Any]:
        """By panel, a bit for each lane whose sum reaches the user's threshold; what is no number passes."""
        b = self.builder
        if not with_bias:
            least = self.splat(self.of_gate(user_row, "threshold", _INT), self.sums)
            return [b.icmp_signed(">=", total, least) for total in sums]
        least = self.splat(self.of_gate(user_row, "least", _FLOAT), self.floats)
        inverse = self.splat(self.of_gate(user_row, "inverse", _FLOAT), self.floats)
        bits = []
        for panel, total in enumerate(sums):
            bias = self.at(self.bias, _long(4 * self.lanes * panel), self.floats)
            value = b.sitofp(total, self.floats) if self.is_integer else total
            bits.append(b.fcmp_unordered(">=", b.fadd(value, b.fmul(bias, inverse)), least))
        return bits

    def note(self, count: Any, user_row: Any, sums: list[Any], bits: list[Any]) -> Any:
        """Write user, lanes and sums down if any lane passes; the number of notes so far."""
        b, width = self.builder, ir.IntType(self.lanes)
        some = functools.reduce(b.or_, bits)
        here, write, after = b.block, b.append_basic_block("write"), b.append_basic_block("next")
        b.cbranch(b.icmp_unsigned("!=", b.bitcast(some, width), ir.Constant(width, 0)), write, after)
        b.position_at_end(write)
        mask = _long(0)
        for panel, (total, lane_bits) in enumerate(zip(sums, bits, strict=True)):
            lanes = b.zext(b.bitcast(lane_bits, width), _LONG)
            mask = b.or_(mask, b.shl(lanes, _long(self.lanes * panel)))
            self.put(
                total, b.add(self.hit_sums, b.mul(count, _long(STEP_BYTES))), _long(4 * self.lanes * panel)
            )
        self.put(b.trunc(user_row, _INT), self.hit_users, b.shl(count, _long(2)))
        self.put(mask, self.hit_masks, b.shl(count, _long(3)))
        following = b.add(count, _long(1))
        b.branch(after)
        b.position_at_end(after)
        result = b.phi(_LONG)
        result.add_incoming(count, here)
        result.add_incoming(following, write)
        return result


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


def make_tile(n_users: int, *, is_integer: bool, with_bias: bool) -> Any:
    """A tile for numba code, all pointers as integers:

    tile(items, steps, rows, users, stride, gates, bias, hit_users, hit_masks, hit_sums, count) -> count and the users
    that have a lane that passes.

    items: one strip, (steps, 192) bytes. rows: int32 (n_users,), which users. users: codes, `stride` bytes each, and
    gates: GATE, by user row. bias: float32 (48,). A hit is an int32 user row, uint64 lanes, and 48 sums of 32 bits.
    """
    lanes = 16 if is_integer else 8
    pointer, long = types.uintp, types.int64
    signature = long(pointer, long, pointer, pointer, long, *[pointer] * 5, long)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        code = _Code(builder, arguments, lanes=lanes, is_integer=is_integer)
        rows = [builder.zext(code.at(code.rows, _long(4 * user), _INT), _LONG) for user in range(n_users)]
        sums, count = code.all_products(rows), code.count
        for row, row_sums in zip(rows, sums, strict=True):
            count = code.note(count, row, row_sums, code.passes(row_sums, row, with_bias=with_bias))
        return count

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(  # noqa: PLR0913  the arguments of the code itself
        typing_context: Any,
        items: Any,
        steps: Any,
        rows: Any,
        users: Any,
        stride: Any,
        gates: Any,
        bias: Any,
        hit_users: Any,
        hit_masks: Any,
        hit_sums: Any,
        count: Any,
    ) -> Any:
        return signature, generate

    return tile


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """The place of the lowest bit set in a uint64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_BIT, 1))

    return types.int64(types.uint64), generate
