"""How class means and the classifier's rows stand to each other: what is asked of pairs of classes.

All pairs of K classes are gone through in blocks: nothing of K x K is kept, and nothing of K x K x d is made. Squared
distances follow from the products of a block; where two points are so near that little would be left of the
difference, they are computed anew from the points themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from ncpl_cli.metrics.moments import Array

ROWS = 512
"""Classes whose products with all others are made together."""

NEAR = 1e-3
"""Below this share of the points' squares a squared distance is computed from their differences."""

DIRECT = 1 << 16
"""Up to this many coordinates of all pairs together every distance is computed from differences: there it is faster."""


def simplex_distance(a: Array, b: Array) -> float:
    """Frobenius distance of A B^T/‖A B^T‖ (A, B: K, d) from (I - 11^T/K)/sqrt(K-1), a simplex ETF's Gram matrix.

    0 = simplex; NaN where A B^T is 0. Of far more classes than dimensions the products are d x d: then the rank keeps
    the distance above sqrt(2 - sqrt(2)), and nothing cancels.
    """
    k, d = a.shape
    if 2 * d < k - 1:
        norm = float(np.sqrt(max(0.0, ((a.T @ a) * (b.T @ b)).sum())))
        along = float((a * b).sum() - a.sum(0) @ b.sum(0) / k) / np.sqrt(k - 1)
        return float(np.sqrt(2 - 2 * along / norm)) if norm > 0 else np.nan
    kept = [*_products(a, b)] if k <= ROWS else None  # of more classes they are made twice
    norm = math.sqrt(sum(square_of(block) for _, block in kept or _products(a, b)))
    if norm == 0:
        return np.nan
    return math.sqrt(sum(_off_simplex(block, first, norm) for first, block in kept or _products(a, b)))


def _products(a: Array, b: Array) -> Iterator[tuple[int, Array]]:
    for first in range(0, len(a), ROWS):
        yield first, a[first : first + ROWS] @ b.T


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def square_of(a):  # type: ignore[no-untyped-def]
    """Sum of the squares of numbers (n, m)."""
    total = 0.0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += a[i, j] * a[i, j]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _off_simplex(block, first, norm):  # type: ignore[no-untyped-def]
    """Squared distance of rows first, first + 1, ... of products (K, K) over their norm from the simplex's."""
    k, total = block.shape[1], 0.0
    off, on = 1 / k / np.sqrt(k - 1), 1 / np.sqrt(k - 1)
    for i in range(block.shape[0]):
        row = block[i]
        for j in range(k):
            total += (row[j] / norm + off - (on if j == first + i else 0.0)) ** 2
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def lengths(points):  # type: ignore[no-untyped-def]
    """L2 norms of rows (K, d)."""
    found = np.empty(points.shape[0])
    for i in range(points.shape[0]):
        total = 0.0
        for j in range(points.shape[1]):
            total += points[i, j] ** 2
        found[i] = np.sqrt(total)
    return found


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def apart(a, b):  # type: ignore[no-untyped-def]
    """Distance of two matrices (n, m), each over its Frobenius norm."""
    of_a, of_b, total = np.sqrt(square_of(a)), np.sqrt(square_of(b)), 0.0
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            total += (a[i, j] / of_a - b[i, j] / of_b) ** 2
    return np.sqrt(total)


@njit(nogil=True, cache=True, error_model="numpy")
def spread(norms):  # type: ignore[no-untyped-def]
    """Coefficient of variation of numbers (K,): standard deviation (ddof 1) over mean."""
    mean = norms.sum() / len(norms)
    total = 0.0
    for norm in norms:
        total += (norm - mean) ** 2
    return np.sqrt(total / (len(norms) - 1)) / mean


@dataclass(frozen=True)
class Pairs:
    """Means over the pairs of classes, NaN where they are not asked for or not defined.

    equiangular  of |cos + 1/(K-1)|
    uniformity   of log(1/‖a_i - a_j‖), a = unit points; `same_way`: two of them point the same way
    variability  of (v_i + v_j) / (2 ‖m_i - m_j‖^2); `coincide`: two points are the same
    """

    equiangular: float = np.nan
    uniformity: float = np.nan
    variability: float = np.nan
    same_way: bool = False
    coincide: bool = False


def pairs(points: Array, variance: Array | None = None, wanted: Collection[str] = ("equiangular",)) -> Pairs:
    """What is `wanted` of the pairs of points (K, d): equiangular, uniformity, and with a variance (K,) variability."""
    k, d = points.shape
    norms = lengths(points)
    angles = bool({"equiangular", "uniformity"} & {*wanted}) and norms.min() > 1e-12 * norms.max()
    unit = points / norms[:, None] if angles else points[:0]
    v = np.zeros(k) if variance is None else variance
    flags = np.array([angles and "equiangular" in wanted, angles and "uniformity" in wanted, "variability" in wanted])
    # sums, and the least and largest squared distances: of unit points, of points
    sums, least, most = np.zeros(3), np.full(2, np.inf), np.zeros(2)
    direct = k * k * d <= DIRECT
    for first in range(0, k, ROWS):
        rows = points[first : first + ROWS]
        products = rows @ points[first:].T if not direct else np.empty((0, 0))
        _go_through(products, points, unit, norms, v, first, len(rows), flags, sums, least, most)
    count = k * (k - 1) / 2
    same_way, coincide = bool(least[0] <= 1e-24), bool(least[1] <= 1e-24 * most[1])
    return Pairs(
        float(sums[0]) / count if flags[0] else np.nan,
        float(sums[1]) / count if flags[1] and not same_way else np.nan,
        float(sums[2]) / count if flags[2] and not coincide else np.nan,
        bool(flags[1]) and same_way, bool(flags[2]) and coincide,
    )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def _go_through(  # type: ignore[no-untyped-def]
    products, points, unit, norms, variance, first, rows, flags, sums, least, most
):
    """Add the pairs (i, j > i) of points i in first..first+rows to the sums; products (rows, K - first) or none."""
    k, d = points.shape
    for i in range(first, first + rows):
        angle, uniform, variable = 0.0, 0.0, 0.0
        for j in range(i + 1, k):
            product, given = 0.0, products.shape[0] > 0
            if given:
                product = products[i - first, j - first]
            if flags[0]:
                if given:
                    cosine = product / (norms[i] * norms[j])
                else:
                    cosine = 0.0
                    for c in range(d):
                        cosine += unit[i, c] * unit[j, c]
                angle += abs(cosine + 1 / (k - 1))
            if flags[1]:
                gap = 2 - 2 * product / (norms[i] * norms[j]) if given else 0.0
                if gap < 2 * NEAR:
                    gap = 0.0
                    for c in range(d):
                        gap += (unit[i, c] - unit[j, c]) ** 2
                least[0] = min(least[0], gap)
                uniform -= 0.5 * np.log(gap)
            if flags[2]:
                both = norms[i] ** 2 + norms[j] ** 2
                gap = both - 2 * product if given else 0.0
                if gap <= NEAR * both:
                    gap = 0.0
                    for c in range(d):
                        gap += (points[i, c] - points[j, c]) ** 2
                least[1] = min(least[1], gap)
                most[1] = max(most[1], gap)
                variable += (variance[i] + variance[j]) / (2 * gap)
        sums[0] += angle
        sums[1] += uniform
        sums[2] += variable
