"""The three loops over rows of a matrix with the running sum held in vector registers, spelled out for LLVM.

numba cannot keep `z[j]` in registers over a loop of rows, since the arrays could overlap: it loads and stores z for
every group of rows, and the loads are what the loop waits for. Here each vector of z is a value of its own, so a row
costs its own loads and multiply-adds alone (3x100 on MNIST, one core: a step takes half the time).

A vector is one register of 256 bits. Rows too wide for the register file are taken in parts of equal width.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

BITS = 256
HELD = 13
"""Registers that hold sums: of the 16 that AVX2 has, one is for the factor and two are for what is being loaded."""

FLAGS = ("contract", "reassoc", "nsz", "arcp")

LINE = 64
"""Bytes that come into the cache together."""

INT8, INT32, INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def available() -> bool:
    """Whether the processor that numba compiles for has such registers and fused multiply-adds (AVX2 and FMA)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return {"+avx2", "+fma"} <= set(features.split(","))


class _Rows:
    """Writes instructions for rows of `width` numbers of one type; addresses are 64-bit integers."""

    def __init__(self, context: Any, builder: Any, number: Any, width: int) -> None:
        self.context, self.builder = context, builder
        self.number, self.size = context.get_value_type(number), number.bitwidth // 8
        self.lanes = BITS // number.bitwidth
        self.vector = ir.VectorType(self.number, self.lanes)
        self.stride, count = width * self.size, width // self.lanes
        parts = -(-count // HELD)
        cuts = [count * part // parts for part in range(parts + 1)]
        self.parts = [range(first, last) for first, last in itertools.pairwise(cuts)]

    def start(self, kind: Any, array: Any) -> Any:
        """The address of an array's first number."""
        return self.builder.ptrtoint(self.context.make_array(kind)(self.context, self.builder, array).data, INT64)

    def place(self, start: Any, k: Any, size: int) -> Any:
        """The address of entry k (a value or a constant) of an array with entries of `size` bytes."""
        k = ir.Constant(INT64, k) if isinstance(k, int) else k
        return self.builder.add(start, self.builder.mul(k, ir.Constant(INT64, size)))

    def load(self, address: Any, kind: Any) -> Any:
        """A value that is aligned as a single number is, not as a vector."""
        return self.builder.load(self.builder.inttoptr(address, ir.PointerType(kind)), align=min(self.size, 4))

    def store(self, value: Any, address: Any) -> None:
        """The counterpart of `load`."""
        self.builder.store(value, self.builder.inttoptr(address, ir.PointerType(value.type)), align=min(self.size, 4))

    def vectors(self, row: Any, part: range) -> list[Any]:
        """The vectors of a part of a row."""
        return [self.load(self.place(row, i, BITS // 8), self.vector) for i in part]

    def keep(self, values: Sequence[Any], row: Any, part: range) -> None:
        """Store what `vectors` reads."""
        for i, value in zip(part, values, strict=True):
            self.store(value, self.place(row, i, BITS // 8))

    @contextlib.contextmanager
    def each(
        self, index: Any, values: Any, weights: Any, first: Any, last: Any, down: bool = False
    ) -> Iterator[tuple[Any, Any, Any]]:
        """What is written inside is done for first <= k < last: (index[k], values[k], address of row index[k]).

        `down`: from the last one to the first.
        """
        with cgutils.for_range_slice(self.builder, first, last, ir.Constant(INT64, 1)) as (k, _):
            if down:
                k = self.builder.sub(self.builder.add(first, last), self.builder.add(k, ir.Constant(INT64, 1)))
            at = self.builder.zext(self.load(self.place(index, k, 4), INT32), INT64)
            yield at, self.load(self.place(values, k, self.size), self.number), self.place(weights, at, self.stride)

    def held(self, values: Sequence[Any]) -> list[Any]:
        """Places for running values: LLVM puts them into registers, since nobody asks for their addresses."""
        return [cgutils.alloca_once_value(self.builder, value) for value in values]  # type: ignore[no-untyped-call]

    def spread(self, number: Any) -> Any:
        """The number in all lanes."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(nothing, number, ir.Constant(INT32, 0))
        return self.builder.shuffle_vector(first, nothing, lanes)

    def times(self, x: Any, y: Any) -> Any:
        return self.builder.fmul(x, y, flags=FLAGS)

    def plus(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y, flags=FLAGS)

    def minus(self, x: Any, y: Any) -> Any:
        return self.builder.fsub(x, y, flags=FLAGS)

    def total(self, vector: Any) -> Any:
        """The sum of the lanes."""
        name = f"llvm.vector.reduce.fadd.v{self.lanes}f{8 * self.size}"
        kind = ir.FunctionType(self.number, [self.number, self.vector])
        add = cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call, unused-ignore]
        return self.builder.call(add, [ir.Constant(self.number, -0.0), vector], fastmath=FLAGS)


def _check(width: int, number: Any, index: Any, *arrays: Any) -> None:
    """Rows lie one after another, padded to full vectors; all numbers are of one type; indices are 32 bits wide."""
    if number not in (types.float32, types.float64) or index.dtype != types.uint32 or width % 8:
        raise TypingError(f"rows of {width} {number}, picked by {index.dtype}")
    if any(array.layout != "C" or array.dtype != number for array in arrays) or index.layout != "C":
        raise TypingError("rows must be contiguous and of one type")


# numba asks for the first argument by this name, and for a signature beside the code that it describes
@intrinsic(prefer_literal=True)
def add_rows(typingctx, width, z, base, weights, index, values, first, last):  # type: ignore[no-untyped-def]
    """z (width,) = base + sum over first <= k < last of values[k] weights[index[k]]."""
    _check(width.literal_value, z.dtype, index, z, base, weights, values)
    signature = types.void(width, z, base, weights, index, values, types.int64, types.int64)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        *_, first, last = given
        rows = _Rows(context, builder, z.dtype, width.literal_value)
        kinds = (z, base, weights, index, values)
        to, begin, matrix, at, x = (rows.start(*pair) for pair in zip(kinds, given[1:6], strict=True))
        for part in rows.parts:
            sums = rows.held(rows.vectors(begin, part))
            with rows.each(at, x, matrix, first, last) as (_, number, row):
                factor = rows.spread(number)
                for held, own in zip(sums, rows.vectors(row, part), strict=True):
                    builder.store(rows.plus(builder.load(held), rows.times(factor, own)), held)
            rows.keep([builder.load(held) for held in sums], to, part)
        return context.get_dummy_value()

    return signature, code


@intrinsic(prefer_literal=True)
def move_rows(typingctx, width, weights, index, values, first, last, factor, d):  # type: ignore[no-untyped-def]
    """weights[index[k]] -= factor values[k] d (width,), for first <= k < last; no row is picked twice.

    From the last row to the first: the next sample begins with rows like the first ones, which are then at hand.
    """
    _check(width.literal_value, d.dtype, index, weights, values, d)
    signature = types.void(width, weights, index, values, types.int64, types.int64, d.dtype, d)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        _, *arrays, first, last, factor, way = given
        rows = _Rows(context, builder, d.dtype, width.literal_value)
        kinds = (weights, index, values, d)
        matrix, at, x, by = (rows.start(*pair) for pair in zip(kinds, (*arrays, way), strict=True))
        for part in rows.parts:
            moves = rows.vectors(by, part)
            with rows.each(at, x, matrix, first, last, down=True) as (_, number, row):
                step = rows.spread(rows.times(factor, number))
                own = rows.vectors(row, part)
                rows.keep(
                    [rows.minus(w, rows.times(step, move)) for w, move in zip(own, moves, strict=True)], row, part
                )
        return context.get_dummy_value()

    return signature, code


@intrinsic(prefer_literal=True)
def times_rows(typingctx, width, moving, weights, index, values, last, d, scale, factor, out):  # type: ignore[no-untyped-def]
    """out[index[k]] += scale weights[index[k]] . d (width,), for k < last; then, where `moving` (a constant),
    weights[index[k]] -= factor values[k] d: the row is at hand, and nobody needs its old value any more.
    """  # fmt: skip
    _check(width.literal_value, d.dtype, index, weights, values, d, out)
    signature = types.void(width, moving, weights, index, values, types.int64, d, d.dtype, d.dtype, out)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        _, _, matrix, at, x, last, by, scale, factor, to = given
        rows = _Rows(context, builder, d.dtype, width.literal_value)
        kinds = (weights, index, values, d, out)
        matrix, at, x, by, to = (rows.start(*pair) for pair in zip(kinds, (matrix, at, x, by, to), strict=True))
        for part in rows.parts:
            slopes = rows.vectors(by, part)
            with rows.each(at, x, matrix, ir.Constant(INT64, 0), last) as (unit, number, row):
                own = rows.vectors(row, part)
                products = [rows.times(w, slope) for w, slope in zip(own, slopes, strict=True)]
                while len(products) > 1:  # pairwise: a chain of 13 sums would be what the loop waits for
                    odd = products[len(products) & ~1 :]
                    pairs = zip(products[0::2], products[1::2], strict=False)
                    products = [rows.plus(x, y) for x, y in pairs] + odd
                if moving.literal_value:
                    step = rows.spread(rows.times(factor, number))
                    rows.keep(
                        [rows.minus(w, rows.times(step, slope)) for w, slope in zip(own, slopes, strict=True)],
                        row,
                        part,
                    )
                place = rows.place(to, unit, rows.size)
                sum_ = rows.plus(rows.load(place, rows.number), rows.times(scale, rows.total(products[0])))
                rows.store(sum_, place)
        return context.get_dummy_value()

    return signature, code


LANES = 8
ORDERS = bytes(
    lane for mask in range(1 << LANES) for lane in sorted(range(LANES), key=lambda lane: not mask >> lane & 1)
)
"""For each set of eight lanes: those that are in it, in order, then the others."""


@intrinsic
def pick_active(typingctx, z, index, values):  # type: ignore[no-untyped-def]
    """Fill index and values with the places and numbers of z (a multiple of 8,) that are above zero or not a number.

    Gives how many; what stands behind them is anything. Eight at a time in float32: without a branch, and a sixth of
    what one after another takes.
    """
    _check(LANES, z.dtype, index, z, values)
    signature = types.int64(z, index, values)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        lanes = LANES if z.dtype == types.float32 else 1
        rows = _Rows(context, builder, z.dtype, LANES)
        length = cgutils.unpack_tuple(builder, context.make_array(z)(context, builder, given[0]).shape, 1)[0]  # type: ignore[no-untyped-call]
        start, places, numbers = (rows.start(*pair) for pair in zip((z, index, values), given, strict=True))
        count = cgutils.alloca_once_value(builder, ir.Constant(INT64, 0))  # type: ignore[no-untyped-call]
        with cgutils.for_range_slice(builder, ir.Constant(INT64, 0), length, ir.Constant(INT64, lanes)) as (k, _):
            n, first = builder.load(count), builder.trunc(k, INT32)
            if lanes == 1:
                found = rows.load(rows.place(start, k, rows.size), rows.number)
                active = builder.fcmp_unordered(">", found, ir.Constant(rows.number, 0))
                more = builder.zext(active, INT64)
            else:
                found = rows.load(rows.place(start, k, rows.size), rows.vector)
                active = builder.fcmp_unordered(">", found, ir.Constant(rows.vector, [0.0] * lanes))
                mask = builder.zext(builder.bitcast(active, INT8), INT64)
                kinds = [ir.VectorType(kind, lanes) for kind in (INT8, INT32)]
                table = cgutils.global_constant(  # type: ignore[no-untyped-call]
                    builder.module, "ncpl.orders", ir.Constant(ir.ArrayType(INT8, len(ORDERS)), bytearray(ORDERS))
                )
                order = rows.place(builder.ptrtoint(table, INT64), mask, lanes)
                order = builder.zext(builder.load(builder.inttoptr(order, ir.PointerType(kinds[0])), align=1), kinds[1])
                permute = ir.FunctionType(rows.vector, [rows.vector, kinds[1]])
                pick = cgutils.get_or_insert_function(builder.module, permute, "llvm.x86.avx2.permps")  # type: ignore[no-untyped-call, unused-ignore]
                found, more = builder.call(pick, [found, order]), builder.ctpop(mask)
                all_first = builder.insert_element(ir.Constant(kinds[1], ir.Undefined), first, ir.Constant(INT32, 0))
                zeros = ir.Constant(kinds[1], [0] * lanes)
                first = builder.add(builder.shuffle_vector(all_first, all_first, zeros), order)
            rows.store(found, rows.place(numbers, n, rows.size))
            builder.store(first, builder.inttoptr(rows.place(places, n, 4), ir.PointerType(first.type)), align=4)
            builder.store(builder.add(n, more), count)
        return builder.load(count)

    return signature, code


TILE = TILE_ROWS, TILE_COLUMNS = 4, 12
"""A tile of a float64 product: twelve registers of sums, three of numbers that are loaded, one for a factor."""


@intrinsic
def add_tile(typingctx, z, left, right, count, out, place, stride):  # type: ignore[no-untyped-def]
    """out[place + stride r + c] += sum over k < count of z[left + 12 k + r] z[right + 12 k + c], r < 4, c < 12.

    z and out are one-dimensional: z holds twelve columns of a matrix after another twelve.
    """
    if (z.dtype, out.dtype) != (types.float64, types.float64) or z.layout != "C" or out.layout != "C":
        raise TypingError("tiles are of contiguous float64")
    signature = types.void(z, types.int64, types.int64, types.int64, out, types.int64, types.int64)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        samples, left, right, count, sums, place, stride = given
        rows = _Rows(context, builder, z.dtype, TILE_COLUMNS)
        (part,), size = rows.parts, rows.size
        start, to = rows.start(z, samples), rows.start(out, sums)
        lines = [
            rows.place(to, builder.add(place, builder.mul(stride, ir.Constant(INT64, r))), size)
            for r in range(TILE_ROWS)
        ]
        held = [rows.held(rows.vectors(line, part)) for line in lines]
        left, right = rows.place(start, left, size), rows.place(start, right, size)
        step = ir.Constant(INT64, rows.stride)
        with cgutils.for_range_slice(builder, ir.Constant(INT64, 0), builder.mul(count, step), step) as (k, _):
            own, others = builder.add(left, k), rows.vectors(builder.add(right, k), part)
            for r in range(TILE_ROWS):
                factor = rows.spread(rows.load(rows.place(own, r, size), rows.number))
                for sum_, other in zip(held[r], others, strict=True):
                    builder.store(rows.plus(builder.load(sum_), rows.times(factor, other)), sum_)
        for line, sums_ in zip(lines, held, strict=True):
            rows.keep([builder.load(sum_) for sum_ in sums_], line, part)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def fetch(typingctx, array, first, last):  # type: ignore[no-untyped-def]
    """Ask the memory for array[first:last], which is read soon: nothing waits for it, and no value depends on it."""
    signature = types.void(array, types.int64, types.int64)

    def code(context, builder, _, given):  # type: ignore[no-untyped-def]
        rows = context.make_array(array)(context, builder, given[0])
        size = ir.Constant(INT64, array.dtype.bitwidth // 8)
        start = builder.ptrtoint(rows.data, INT64)
        first, last = (builder.add(start, builder.mul(k, size)) for k in given[1:])
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(INT8), INT32, INT32, INT32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call, unused-ignore]
        how = [ir.Constant(INT32, number) for number in (0, 3, 1)]  # to be read, into the nearest cache, data
        line = builder.and_(first, ir.Constant(INT64, -LINE))
        with cgutils.for_range_slice(builder, line, last, ir.Constant(INT64, LINE)) as (address, _):
            builder.call(ask, [builder.inttoptr(address, ir.PointerType(INT8)), *how])
        return context.get_dummy_value()

    return signature, code
