"""The largest eigenvalue of a symmetric matrix alone: half of what LAPACK takes for all of a small one."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SMALL = 256
"""Rows up to which this is faster: LAPACK takes larger matrices by blocks."""


def largest_eigenvalue(matrix: NDArray[np.float64]) -> float:
    """Of a symmetric matrix (n, n), to rounding; NaN where an entry is no finite number."""
    size = float(np.abs(matrix).max(initial=0.0))
    if not np.isfinite(size):
        return float("nan")
    if size == 0:
        return 0.0
    diagonal, beside = np.empty(len(matrix)), np.zeros(len(matrix))
    _tridiagonal(matrix / size, diagonal, beside)  # no square leaves float64
    return size * float(_largest(diagonal, beside))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _tridiagonal(a, diagonal, beside):  # type: ignore[no-untyped-def]
    """Householder's reduction from the last row on; beside[i] stands between diagonal[i - 1] and diagonal[i]."""
    p = np.empty(len(a))
    for k in range(len(a) - 1, 0, -1):
        v, square = a[k], 0.0
        for j in range(k):
            square += v[j] * v[j]
        diagonal[k], beside[k] = v[k], v[k - 1]
        rest = square - v[k - 1] * v[k - 1]
        if not rest > 0:  # the row is there already
            continue
        beside[k] = -np.sqrt(square) if v[k - 1] > 0 else np.sqrt(square)
        half = square - beside[k] * v[k - 1]
        v[k - 1] -= beside[k]  # I - v v^T / half turns the row into (0, ..., 0, beside)
        along = 0.0
        for i in range(k):
            row, total = a[i], 0.0
            for j in range(k):
                total += row[j] * v[j]
            p[i] = total / half
            along += p[i] * v[i]
        for i in range(k):
            p[i] -= along / (2 * half) * v[i]
        for i in range(k):
            row, x, y = a[i], v[i], p[i]
            for j in range(k):
                row[j] -= x * p[j] + y * v[j]
    diagonal[0] = a[0, 0]


@njit(nogil=True, cache=True, error_model="numpy")
def _largest(diagonal, beside):  # type: ignore[no-untyped-def]
    """By bisection: no eigenvalue lies above x where no pivot of T - x is positive (Sturm)."""
    n, low, high = len(diagonal), -np.inf, -np.inf
    for i in range(n):
        reach = abs(beside[i]) + (abs(beside[i + 1]) if i + 1 < n else 0.0)
        low, high = max(low, diagonal[i]), max(high, diagonal[i] + reach)  # Gershgorin
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        pivot = diagonal[0] - middle
        for i in range(1, n):
            if pivot >= 0:
                break
            pivot = diagonal[i] - middle - beside[i] * beside[i] / pivot
        if pivot >= 0:
            low = middle
        else:
            high = middle
