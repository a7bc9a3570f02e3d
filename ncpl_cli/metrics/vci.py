"""Variability collapse index: how much of the scatter lies along the class means; no invertible linear map changes it.

Xu & Liu 2023 (2306.03440).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ncpl_cli.metrics.moments import Array, row_space


def vci(within: Array, centred: Array, rank: int) -> float:
    """1 - tr(pinv(Sigma_T) Sigma_B) / r, in [0, 1]; 0 = collapsed; no invertible linear map changes it (2306.03440).

    Of no more samples than features it is 0 in general, whatever the labels: there is a map that collapses them.
    Nothing is subtracted from 1, which would leave no digits of a deep collapse. In a basis of the directions V of
    the class means and the rest, the inverse's corner is that of a Schur complement: with Q = what is left of the
    scatter along V after regressing on the rest, and S = Sigma_B along V, vci = tr((Q + S)^-1 Q) / r.
    Each feature is first brought to unit variance, which changes nothing but the conditioning.
    """
    k = len(centred)
    scale = np.sqrt(np.diag(within) + (centred**2).sum(0) / k)
    alive = scale > 0
    if alive.sum() < rank:  # squares too small for float64
        return math.nan
    if not alive.all():
        scale, centred, within = scale[alive], centred[:, alive], within[np.ix_(alive, alive)]
    m, sigma = centred / scale, within / scale[:, None] / scale
    s, v = row_space(m)
    s, v = s[:rank], v[:rank]
    mixed = v @ sigma  # r x d
    along = mixed @ v.T  # r x r
    cross = mixed - along @ v  # r x d, in the rest of the space
    # sigma - v.T mixed - mixed.T v + v.T along v, the two products in one
    half = v.T @ (mixed - 0.5 * (along @ v))
    rest = sigma - half - half.T
    q = along - _explained(rest, v, cross, len(sigma) * np.finfo(np.float64).eps * float(np.linalg.norm(sigma)))
    share = np.linalg.solve(q + np.diag(s**2 / k), q)
    return float(np.clip(np.trace(share) / rank, 0.0, 1.0))


def _explained(rest: Array, v: Array, cross: Array, tolerance: float) -> Array:
    """C pinv(D) C^T of D (d, d), zero along the rows of v (r, d), and C (r, d), zero there too.

    By Cholesky where D is far from singular in the rest of the space, else by its eigenvalues above the tolerance.
    """
    typical = float(np.trace(rest)) / len(rest)
    filled = torch.from_numpy(rest + typical * v.T @ v)
    factor, failed = torch.linalg.cholesky_ex(filled)
    pivots = torch.diagonal(factor) ** 2
    if not failed and float(pivots.min()) > 1e-6 * float(pivots.max()):
        half = torch.linalg.solve_triangular(factor, torch.from_numpy(np.ascontiguousarray(cross.T)), upper=False)
        return np.asarray((half.T @ half).numpy())
    found = torch.linalg.eigh(torch.from_numpy((rest + rest.T) / 2))  # torch keeps to its threads, numpy takes all
    eigenvalues, vectors = found[0].numpy(), found[1].numpy()
    kept = eigenvalues > tolerance
    inside = cross @ vectors[:, kept]
    return (inside / eigenvalues[kept]) @ inside.T  # type: ignore[no-any-return]
