"""The non-zero pixels of a split, once, for everything that skips the zeros (MNIST: 81 % of all pixels)."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from ncpl_cli.data.dataset import Split

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Fused multiply-add and reordered sums, but nothing that assumes finite numbers: divergence must show."""


@dataclass(frozen=True, eq=False)
class SparseImages:
    """Compressed sparse rows: image i has `values[starts[i]:starts[i+1]]` at `pixels[...]`, in [0, 1]."""

    starts: NDArray[np.int64]
    pixels: NDArray[np.uint32]
    values: NDArray[Any]


_KEPT: weakref.WeakKeyDictionary[Split, dict[str, SparseImages]] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def sparse(split: Split, scale: float, dtype: DTypeLike) -> SparseImages:
    """The split's images as sparse rows of `image / scale`; made once per split and type, and shared."""
    name = np.dtype(dtype).name
    with _LOCK:
        kept = _KEPT.setdefault(split, {})
        if name not in kept:
            flat = split.images.reshape(len(split), -1)
            image, pixel = np.nonzero(flat)
            starts = np.zeros(len(flat) + 1, np.int64)
            np.cumsum(np.bincount(image, minlength=len(flat)), out=starts[1:])
            values = (flat[image, pixel] / np.float64(scale)).astype(name)
            kept[name] = SparseImages(starts, pixel.astype(np.uint32), values)
        return kept[name]


@njit(fastmath=FAST, inline="always")
def accumulate(z, rows, weights, index, values, first, last):  # type: ignore[no-untyped-def]
    """Z += sum over k of values[k] * weights[index[k]], eight rows at a time."""
    k = first
    while k + 8 <= last:
        r0, r1, r2, r3 = (weights[index[k]], weights[index[k + 1]], weights[index[k + 2]], weights[index[k + 3]])
        r4, r5, r6, r7 = (weights[index[k + 4]], weights[index[k + 5]], weights[index[k + 6]], weights[index[k + 7]])
        x0, x1, x2, x3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        x4, x5, x6, x7 = values[k + 4], values[k + 5], values[k + 6], values[k + 7]
        for j in range(rows):
            z[j] += ((x0 * r0[j] + x1 * r1[j]) + (x2 * r2[j] + x3 * r3[j])) + (
                (x4 * r4[j] + x5 * r5[j]) + (x6 * r6[j] + x7 * r7[j])
            )
        k += 8
    while k < last:
        row, x = weights[index[k]], values[k]
        for j in range(rows):
            z[j] += x * row[j]
        k += 1


def padded(size: int) -> int:
    """The next multiple of 8: full vectors of float32 on AVX2, of float64 on AVX-512."""
    return -(-size // 8) * 8


@functools.cache
def rows_times_matrix(width: int) -> Callable[..., None]:
    """The compiled product of sparse images and a dense matrix of `width` columns, a constant of the code."""

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def product(starts, pixels, values, first, weights, bias, out):  # type: ignore[no-untyped-def]
        """Out (n, width) = images first, first + 1, ... times weights (D, width) plus bias: zeros are skipped."""
        for i in range(out.shape[0]):
            row = out[i]
            for j in range(width):
                row[j] = bias[j]
            accumulate(row, width, weights, pixels, values, starts[first + i], starts[first + i + 1])

    return product
