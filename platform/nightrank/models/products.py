"""The inner loops of the compiled solves, as LLVM code: tiles of matrices, kept in registers, addressed by pointer.

`add_tile` adds to 8 x 16 float32 values the products of n steps, each step 8 numbers times 16 lanes;
`subtract_tile` takes them off; `add_row` is the same for 1 x 16. `factorise_tile` does a Cholesky factorisation of
16 x 16 and the inverse of the factor. Gramian times vectors, the products of a row's observed cells and the whole
of a larger factorisation are made of these. Every value is the sum of its own products in the order of the steps,
so what is computed beside it changes no bit of it.

Not BLAS and LAPACK: their calls cost more than these products (blocks of some dozen columns, some ten cells a
row), and their bits depend on the shape of the whole call. Not loops for numba: it cannot know that rows of one
matrix do not overlap, and took 6 times as long for a factorisation of 64 columns (measured 2026-11, AMD EPYC with
AVX-512).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

ROWS = 8
LANES = 16  # of a row: one 512-bit vector, or two of AVX2

_INT, _LONG, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


class _Code:
    """The few operations that a tile is made of; offsets are in bytes."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def address(self, base: Any, offset: Any, kind: Any) -> Any:
        return self.builder.inttoptr(self.builder.add(base, offset), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any) -> Any:
        loaded = self.builder.load(self.address(base, offset, kind))
        loaded.align = 4
        return loaded

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self.address(base, offset, value.type)).align = 4

    def splat(self, value: Any) -> Any:
        """The float in every lane."""
        empty = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(empty, value, ir.Constant(_INT, 0))
        return self.builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))

    def lane(self, vector: Any, number: int) -> Any:
        return self.builder.extract_element(vector, ir.Constant(_INT, number))

    def plus(self, total: Any, a: Any, b: Any) -> Any:
        """total + a * b, in one step where the CPU can."""
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=("contract",)), flags=("contract",))

    def factor(self, rows: list[Any]) -> tuple[Any, list[Any]]:
        """Makes the upper triangle of 16 rows U with U'U as before; the smallest pivot, and 1 / U[k, k] by k."""
        b, least = self.builder, None
        inverses: list[Any] = []
        root = b.module.declare_intrinsic("llvm.sqrt", [_FLOAT])
        for k in range(LANES):
            pivot = self.lane(rows[k], k)
            # what is no number is smaller than all
            least = pivot if least is None else b.select(b.fcmp_unordered("<", pivot, least), pivot, least)
            inverses.append(b.fdiv(ir.Constant(_FLOAT, 1.0), b.call(root, [pivot])))
            rows[k] = b.fmul(rows[k], self.splat(inverses[k]))
            minus = b.fneg(rows[k])
            for i in range(k + 1, LANES):
                rows[i] = self.plus(rows[i], self.splat(self.lane(minus, i)), rows[k])
        return least, inverses

    def invert(self, rows: list[Any], inverses: list[Any]) -> list[Any]:
        """The rows of the inverse of U, from the last one up; what is in `rows` below the diagonal is not read."""
        b = self.builder
        found: dict[int, Any] = {}
        for k in reversed(range(LANES)):
            unit = [1.0 if lane == k else 0.0 for lane in range(LANES)]
            row = ir.Constant(_VECTOR, [ir.Constant(_FLOAT, value) for value in unit])
            for i in range(k + 1, LANES):
                row = self.plus(row, self.splat(b.fneg(self.lane(rows[k], i))), found[i])
            found[k] = b.fmul(row, self.splat(inverses[k]))
        return [found[k] for k in range(LANES)]


def _product(n_rows: int, *, is_minus: bool = False) -> Any:
    """tile(sums, sums_stride, left, left_stride, right, right_stride, n): addresses, and strides in bytes."""
    pointer, long = types.uintp, types.int64
    signature = types.void(pointer, long, pointer, long, pointer, long, long)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        sums, sums_stride, left, left_stride, right, right_stride, n = arguments
        code, steps = _Code(builder), builder.append_basic_block("steps")
        after, before = builder.append_basic_block("summed"), builder.block
        offsets = [builder.mul(sums_stride, _long(row)) for row in range(n_rows)]
        starts = [code.load(sums, offset, _VECTOR) for offset in offsets]
        builder.cbranch(builder.icmp_signed(">", n, _long(0)), steps, after)
        builder.position_at_end(steps)
        step, totals = builder.phi(_LONG), [builder.phi(_VECTOR) for _ in range(n_rows)]
        own = builder.mul(step, left_stride)
        lanes = code.load(right, builder.mul(step, right_stride), _VECTOR)
        lanes = builder.fneg(lanes) if is_minus else lanes
        numbers = [code.load(left, builder.add(own, _long(4 * row)), _FLOAT) for row in range(n_rows)]
        ends = [
            code.plus(total, code.splat(number), lanes) for total, number in zip(totals, numbers, strict=True)
        ]
        following = builder.add(step, _long(1))
        for phi, first, last in zip([step, *totals], [_long(0), *starts], [following, *ends], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(last, steps)
        builder.cbranch(builder.icmp_signed("<", following, n), steps, after)
        builder.position_at_end(after)
        results = [builder.phi(_VECTOR) for _ in range(n_rows)]
        for result, start, end in zip(results, starts, ends, strict=True):
            result.add_incoming(start, before)
            result.add_incoming(end, steps)
        for offset, result in zip(offsets, results, strict=True):
            code.store(result, sums, offset)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(  # noqa: PLR0913  the arguments of the code itself
        typing_context: Any,
        sums: Any,
        sums_stride: Any,
        left: Any,
        left_stride: Any,
        right: Any,
        right_stride: Any,
        n: Any,
    ) -> Any:
        return signature, generate

    return tile


add_tile = _product(ROWS)
subtract_tile = _product(ROWS, is_minus=True)
add_row = _product(1)


@intrinsic  # type: ignore[untyped-decorator]
def factorise_tile(typing_context: Any, matrix: Any, stride: Any, inverse: Any) -> Any:
    """factorise_tile(matrix, stride, inverse) -> the smallest pivot, float32; all is well where it is above 0.

    matrix: address of 16 x 16, rows `stride` bytes apart; U with U'U = matrix takes the place of its upper
    triangle. inverse: address of 16 x 16 side by side, where the inverse of U goes, zeros below its diagonal.
    """
    signature = types.float32(types.uintp, types.int64, types.uintp)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        base, width, target = arguments
        code = _Code(builder)
        offsets = [builder.mul(width, _long(row)) for row in range(LANES)]
        rows = [code.load(base, offset, _VECTOR) for offset in offsets]
        least, inverses = code.factor(rows)
        for row, offset in zip(rows, offsets, strict=True):
            code.store(row, base, offset)
        for number, row in enumerate(code.invert(rows, inverses)):
            code.store(row, target, _long(4 * LANES * number))
        return least

    return signature, generate
