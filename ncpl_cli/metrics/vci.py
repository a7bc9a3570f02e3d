"""Variability collapse index: how much of the scatter lies along the class means; no invertible linear map changes it.

Xu & Liu 2023 (2306.03440).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit

from ncpl_cli.metrics.moments import Array, row_space

SMALL = 128
"""Features up to which elimination by hand is faster than LAPACK's by blocks."""


def vci(within: Array, centred: Array, rank: int) -> float:
    """1 - tr(pinv(Sigma_T) Sigma_B) / r, in [0, 1]; 0 = collapsed; no invertible linear map changes it (2306.03440).

    Of no more samples than features it is 0 in general, whatever the labels: there is a map that collapses them.
    Nothing is subtracted from 1, which would leave no digits of a deep collapse. In a basis of the directions V of
    the class means and the rest, the inverse's corner is that of a Schur complement: with Q = what is left of the
    scatter along V after regressing on the rest, and S = Sigma_B along V, vci = tr((Q + S)^-1 Q) / r.
    Each feature is first brought to unit variance, which changes nothing but the conditioning.
    """
    k, d = centred.shape
    points, square = np.empty(k * d), np.empty(d * d)
    alive = _standardise(within, centred, points, square)
    if alive < rank:  # squares too small for float64
        return math.nan
    m, sigma = points[: k * alive].reshape(k, alive), square[: alive * alive].reshape(alive, alive)
    s, v = row_space(m)
    s, v = s[:rank], np.ascontiguousarray(v[:rank])
    mixed = v @ sigma  # r x d
    along = mixed @ v.T  # r x r
    inside = along @ v  # r x d
    # what is left in the rest of the space, sigma - v.T mixed - mixed.T v + v.T along v: the two products in one
    half = v.T @ (mixed - 0.5 * inside)
    size = _leave(sigma, half)  # sigma is then what is left
    q = along - _explained(sigma, v, mixed - inside, alive * np.finfo(np.float64).eps * size)
    share = np.linalg.solve(q + np.diag(s**2 / k), q)
    return float(np.clip(np.trace(share) / rank, 0.0, 1.0))


@njit(nogil=True, cache=True, error_model="numpy")
def _standardise(within, centred, m, sigma):  # type: ignore[no-untyped-def]
    """Fill m (K a) and sigma (a a) with class means and scatter of the features that vary, each of unit variance.

    Gives how many these are, a.
    """
    k, d = centred.shape
    scale, places, alive = np.empty(d), np.empty(d, np.int64), 0
    for j in range(d):
        total = 0.0
        for c in range(k):
            total += centred[c, j] ** 2
        scale[j] = np.sqrt(within[j, j] + total / k)
        if scale[j] > 0:
            places[alive] = j
            alive += 1
    for c in range(k):
        for j in range(alive):
            m[c * alive + j] = centred[c, places[j]] / scale[places[j]]
    for i in range(alive):
        for j in range(alive):
            sigma[i * alive + j] = within[places[i], places[j]] / scale[places[i]] / scale[places[j]]
    return alive


@njit(nogil=True, cache=True, error_model="numpy")
def _leave(sigma, half):  # type: ignore[no-untyped-def]
    """Take half (d, d) and its transpose from sigma, which is then symmetric; gives the norm that sigma had."""
    square = 0.0
    for i in range(len(sigma)):
        for j in range(i + 1):
            both = half[i, j] + half[j, i]
            square += sigma[i, j] ** 2 + (sigma[j, i] ** 2 if j < i else 0.0)
            sigma[i, j] = 0.5 * (sigma[i, j] + sigma[j, i]) - both
            sigma[j, i] = sigma[i, j]
    return np.sqrt(square)


def _explained(rest: Array, v: Array, cross: Array, tolerance: float) -> Array:
    """C pinv(D) C^T of a symmetric D (d, d), zero along the rows of v (r, d), and C (r, d), zero there too.

    By Cholesky where D is far from singular in the rest of the space, else by its eigenvalues above the tolerance.
    """
    filled = v.T @ (float(np.trace(rest)) / len(rest) * v)
    filled += rest
    solved = _by_elimination(filled, cross) if len(rest) <= SMALL else _by_cholesky(filled, cross)
    if solved is not None:
        return solved
    found = torch.linalg.eigh(torch.from_numpy(rest))  # torch keeps to its threads, numpy takes all
    eigenvalues, vectors = found[0].numpy(), found[1].numpy()
    kept = eigenvalues > tolerance
    inside = cross @ vectors[:, kept]
    return (inside / eigenvalues[kept]) @ inside.T  # type: ignore[no-any-return]


REGULAR = 1e-6
"""Least share of the largest pivot that a matrix far from singular has."""


def _by_cholesky(filled: Array, cross: Array) -> Array | None:
    """C D^-1 C^T of D (d, d) and C (r, d) where D is far from singular."""
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(filled))
    pivots = factor.diagonal().numpy() ** 2
    if int(failed) or not pivots.min() > REGULAR * pivots.max():
        return None
    half = torch.linalg.solve_triangular(factor, torch.from_numpy(cross).T, upper=False).numpy()
    return half.T @ half  # type: ignore[no-any-return]


def _by_elimination(filled: Array, cross: Array) -> Array | None:
    """The same of a small D, which is overwritten, in half the time."""
    half = cross.copy()
    return half @ half.T if _factor(filled, half) else None


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _factor(a, rows):  # type: ignore[no-untyped-def]
    """Cholesky's L in place of a (d, d), rows (r, d) times L^-T in place of rows; whether a is far from singular."""
    least, most = np.inf, 0.0
    for i in range(len(a)):
        for j in range(i):
            a[i, j] = (a[i, j] - _dot(a[i], a[j], j)) / a[j, j]
        pivot = a[i, i] - _dot(a[i], a[i], i)
        if not pivot > 0:
            return False
        least, most = min(least, pivot), max(most, pivot)
        a[i, i] = np.sqrt(pivot)
    for row in rows:
        for i in range(len(a)):
            row[i] = (row[i] - _dot(a[i], row, i)) / a[i, i]
    return least > REGULAR * most


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _dot(a, b, n):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(n):
        total += a[j] * b[j]
    return total
