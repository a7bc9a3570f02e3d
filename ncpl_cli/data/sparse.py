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
from ncpl_cli.data.rows import FAST, SOURCE, add_rows, move_rows, pick_active


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
            flat = np.ascontiguousarray(split.images).reshape(len(split), -1)
            starts = np.zeros(len(flat) + 1, np.int64)
            np.cumsum(np.count_nonzero(flat, axis=1), out=starts[1:])
            pixels, values = np.empty(starts[-1] + 1, np.uint32), np.empty(starts[-1], name)
            _gather(flat, starts, float(scale), pixels, values)
            kept[name] = SparseImages(starts, pixels[:-1], values)
        return kept[name]


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(flat, starts, scale, pixels, values):  # type: ignore[no-untyped-def]
    """Fill pixels (n + 1,) and values (n,) with the non-zero ones of flat (N, D), divided in float64."""
    for i in range(flat.shape[0]):
        k = starts[i]
        for j in range(flat.shape[1]):  # without a branch: what is zero is overwritten by what follows
            pixels[k] = j
            k += flat[i, j] != 0
        for k in range(starts[i], starts[i + 1]):
            values[k] = flat[i, pixels[k]] / scale


def padded(size: int) -> int:
    """The next multiple of 8: full vectors of float32 on AVX2, of float64 on AVX-512."""
    return -(-size // 8) * 8


@functools.cache
def rows_times_matrix(width: int) -> Callable[..., None]:
    """The compiled product of sparse images and a dense matrix of `width` columns, a constant of the code."""
    source = SOURCE

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def product(starts, pixels, values, first, weights, bias, out):  # type: ignore[no-untyped-def]
        """Out (n, width) = images first, first + 1, ... times weights (D, width) plus bias: zeros are skipped."""
        for i in range(out.shape[0] if source else 0):
            add_rows(width, out[i], bias, weights, pixels, values, starts[first + i], starts[first + i + 1])

    return product


@functools.cache
def permuted_rows_times_matrix(width: int) -> Callable[..., None]:
    """The same for images that are shown in several pixel orders."""
    source = SOURCE

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def product(starts, pixels, values, rows, weights, bias, out):  # type: ignore[no-untyped-def]
        """Out (orders, n, width) = images times weights (D, width)[rows[order]] plus bias; rows (orders, D)."""
        met = np.empty(pixels.shape[0], np.uint32)
        for order in range(out.shape[0] if source else 0):
            for k in range(pixels.shape[0]):
                met[k] = rows[order, pixels[k]]
            for i in range(out.shape[1]):
                add_rows(width, out[order, i], bias, weights, met, values, starts[i], starts[i + 1])

    return product


@functools.cache
def transposed_rows_times_matrix(width: int) -> Callable[..., None]:
    """The compiled product of the transposed sparse images and a dense matrix of `width` columns."""
    source = SOURCE

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def product(starts, pixels, values, images, d, out):  # type: ignore[no-untyped-def]
        """Out (D, width) -= sum over i of the image images[i] (D,) times d[i] (width,)."""
        for i in range(images.shape[0] if source else 0):
            first, last = starts[images[i]], starts[images[i] + 1]
            move_rows(width, out, pixels, values, first, last, d.dtype.type(1), d[i])

    return product


@functools.cache
def active_rows_times_matrix(width: int, rectified: bool = False) -> Callable[..., None]:
    """The compiled product of activations, of which many are zero, and a dense matrix of `width` columns.

    rectified: what is given are preactivations of ReLU, of which those below zero are skipped too.
    """
    source = SOURCE

    @njit(fastmath=FAST, nogil=True, error_model="numpy", cache=True)
    def product(x, weights, bias, out):  # type: ignore[no-untyped-def]
        """Out (n, width) = x (n, D) times weights (D, width) plus bias: zeros are skipped."""
        units, values = np.empty(x.shape[1], np.uint32), np.empty(x.shape[1], x.dtype)
        for i in range(x.shape[0] if source else 0):
            if rectified:
                active = pick_active(x[i], units, values)
            else:
                row, active = x[i], 0
                for j in range(x.shape[1]):  # without a branch: what is zero is overwritten
                    units[active], values[active] = j, row[j]
                    active += row[j] != 0
            add_rows(width, out[i], bias, weights, units, values, 0, active)

    return product


@njit(nogil=True, cache=True)
def largest(logits, classes, found):  # type: ignore[no-untyped-def]
    """Fill found (n,) with the place of the largest of the first `classes` logits (n, ...), the first of several."""
    for i in range(logits.shape[0]):
        row, best = logits[i], 0
        for c in range(1, classes):
            if row[c] > row[best] or (
                row[c] != row[c] and row[best] == row[best]
            ):  # what is no number, as torch has it
                best = c
        found[i] = best
