"""Loops over rows of a matrix that are picked by index: the inner loops of everything that skips zeros.

    add_rows(width, z, base, weights, index, values, first, last)
        z (width,) = base + sum over first <= k < last of values[k] weights[index[k]]
    move_rows(width, weights, index, values, first, last, factor, d)
        weights[index[k]] -= factor values[k] d
    times_rows(width, moving, weights, index, values, last, d, scale, factor, out)
        out[index[k]] += scale weights[index[k]] . d for k < last, then as move_rows where `moving`
    pick_active(z, index, values)
        how many of z (a multiple of 8,) are above zero or not a number; index and values are filled with them
    fetch(array, first, last)
        ask the memory for array[first:last], which is read soon

`width` (a multiple of 8) and `moving` are constants of the compiled code. With AVX2 and FMA the loops of registers.py
are used; on every other processor, with NUMBA_CPU_NAME=generic and without compilation (NUMBA_DISABLE_JIT) the plain
ones below, which numba vectorises as it can: twice as slow, other rounding.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Fused multiply-add and reordered sums, but nothing that assumes finite numbers: divergence must show."""


@njit(fastmath=FAST, inline="always")
def _add_rows(width, z, base, weights, index, values, first, last):  # type: ignore[no-untyped-def]
    """Eight rows at a time, so that z is loaded and stored an eighth as often."""
    for j in range(width):
        z[j] = base[j]
    k = first
    while k + 8 <= last:
        r0, r1, r2, r3 = (weights[index[k]], weights[index[k + 1]], weights[index[k + 2]], weights[index[k + 3]])
        r4, r5, r6, r7 = (weights[index[k + 4]], weights[index[k + 5]], weights[index[k + 6]], weights[index[k + 7]])
        x0, x1, x2, x3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        x4, x5, x6, x7 = values[k + 4], values[k + 5], values[k + 6], values[k + 7]
        for j in range(width):
            z[j] += ((x0 * r0[j] + x1 * r1[j]) + (x2 * r2[j] + x3 * r3[j])) + (
                (x4 * r4[j] + x5 * r5[j]) + (x6 * r6[j] + x7 * r7[j])
            )
        k += 8
    while k < last:
        row, x = weights[index[k]], values[k]
        for j in range(width):
            z[j] += x * row[j]
        k += 1


@njit(fastmath=FAST, inline="always")
def _move_rows(width, weights, index, values, first, last, factor, d):  # type: ignore[no-untyped-def]
    for k in range(first, last):
        row, step = weights[index[k]], factor * values[k]
        for j in range(width):
            row[j] -= step * d[j]


@njit(fastmath=FAST, inline="always")
def _times_rows(width, moving, weights, index, values, last, d, scale, factor, out):  # type: ignore[no-untyped-def]
    for k in range(last):
        row, total, step = weights[index[k]], d.dtype.type(0), factor * values[k]
        for j in range(width):
            total += row[j] * d[j]
        out[index[k]] += scale * total
        if moving:
            for j in range(width):
                row[j] -= step * d[j]


@njit(fastmath=FAST, inline="always")
def _pick_active(z, index, values):  # type: ignore[no-untyped-def]
    count = 0
    for j in range(z.shape[0]):  # without a branch: half of them would be mispredicted
        values[count], index[count] = z[j], j
        count += not z[j] <= 0
    return count


@njit(inline="always")
def _fetch(array, first, last):  # type: ignore[no-untyped-def]
    """Nothing: it changes no value."""


LINE = 64
"""Bytes of a line of the cache."""


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that begin at a line of the cache: NumPy's begin anywhere, and loads of rows that cross a line take twice
    as long (a step of the online engine a sixth longer)."""
    size = math.prod(shape) * dtype.itemsize
    whole = np.zeros(size + LINE, np.uint8)
    skipped = -whole.ctypes.data % LINE
    return whole[skipped : skipped + size].view(dtype).reshape(shape)


plain = SimpleNamespace(
    add_rows=_add_rows, move_rows=_move_rows, times_rows=_times_rows, pick_active=_pick_active, fetch=_fetch
)

try:
    from ncpl_cli.data import registers

    IN_REGISTERS = registers.available() and not getattr(config, "DISABLE_JIT", 0)
except (ImportError, AttributeError):  # what registers.py uses of numba is not promised to stay
    IN_REGISTERS = False

_loops: Any = registers if IN_REGISTERS else plain
add_rows, move_rows, times_rows = _loops.add_rows, _loops.move_rows, _loops.times_rows
pick_active, fetch = _loops.pick_active, _loops.fetch
add_tile: Any
add_tile, TILE = (registers.add_tile, registers.TILE) if IN_REGISTERS else (None, (1, 1))
"""For products of float64, tile by tile; None where there are no registers for it: BLAS is as good as a plain loop."""

SOURCE = sum(zlib.crc32(Path(__file__).with_name(name).read_bytes()) for name in ("rows.py", "registers.py"))
"""To be a constant of every function that is compiled with these loops and cached: numba looks at the age of the
function's own file alone, and would go on with machine code made from an older version of these two."""
