"""Singular values of few rows by rotations among them (one-sided Jacobi): a tenth of what LAPACK takes for ten rows."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEW = 20
"""Rows up to which this is faster: what it takes grows with their square."""

SWEEPS = 60
"""Times that all pairs are turned at most; ten rows take seven."""


def rotated(a: Array) -> tuple[Array, Array] | None:
    """Singular values of a (K, d), largest first, and right singular vectors as rows (K, d).

    None where a value is 0 or nothing settles: no direction is left for it here. Each value is right to its own size
    (Demmel & Veselic 1992), not only to that of the largest.
    """
    v, s = a.copy(), np.empty(len(a))
    if not _rotate(v, s):
        return None
    order = np.argsort(-s, kind="stable")
    return s[order], v[order]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _rotate(v, s):  # type: ignore[no-untyped-def]
    """Turn rows v (K, d) until they are orthogonal; then their lengths are s (K,), and v is brought to length 1."""
    k, size, settled = v.shape[0], 0.0, False
    for i in range(k):
        for j in range(v.shape[1]):
            size = max(size, abs(v[i, j]))
    if not size > 0:
        return False
    for i in range(k):
        for j in range(v.shape[1]):
            v[i, j] /= size  # no square leaves float64
    for _ in range(SWEEPS):
        settled = True
        for i in range(k):
            s[i] = dot(v[i], v[i])
        for p in range(k - 1):
            for q in range(p + 1, k):
                a, b, product = v[p], v[q], dot(v[p], v[q])
                if not abs(product) > 1e-16 * np.sqrt(s[p] * s[q]):
                    continue
                settled = False
                zeta = (s[q] - s[p]) / (2 * product)
                tangent = (1.0 if zeta >= 0 else -1.0) / (abs(zeta) + np.sqrt(1 + zeta * zeta))
                cosine = 1 / np.sqrt(1 + tangent * tangent)
                sine = cosine * tangent
                for j in range(v.shape[1]):
                    x, y = a[j], b[j]
                    a[j] = cosine * x - sine * y
                    b[j] = sine * x + cosine * y
                s[p] -= tangent * product
                s[q] += tangent * product
        if settled:
            break
    for i in range(k):
        length = np.sqrt(dot(v[i], v[i]))
        if not length > 0:
            return False
        s[i] = length * size
        for j in range(v.shape[1]):
            v[i, j] /= length
    return settled


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def dot(a, b):  # type: ignore[no-untyped-def]
    """Sum of the products of two rows."""
    total = 0.0
    for j in range(len(a)):
        total += a[j] * b[j]
    return total
