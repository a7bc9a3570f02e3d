"""The definitions, word for word, in extended precision: what the reference cases are held against.

Nothing of `metrics` is used. Sums and products are made in long doubles (64 bits of mantissa on x86), squares of
differences, never differences of squares; eigenvalues by Jacobi's rotations, in the same precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.longdouble]
Values = dict[str, float | None]

ZERO = 1e-16
"""Eigenvalues below this share of the largest are zero: in every case the others are far above it."""


def eigen(matrix: Wide) -> tuple[Wide, Wide]:
    """Eigenvalues of a symmetric matrix, largest first, and eigenvectors as columns (cyclic Jacobi)."""
    a, n = matrix.astype(np.longdouble), len(matrix)
    v = np.eye(n, dtype=np.longdouble)
    for _ in range(60):
        off = np.sqrt(((a - np.diag(np.diag(a))) ** 2).sum())
        if off <= 1e-19 * np.sqrt((a**2).sum()):
            break
        for p in range(n - 1):
            for q in range(p + 1, n):
                if a[p, q] == 0:
                    continue
                theta = (a[q, q] - a[p, p]) / (2 * a[p, q])
                sign = 1 if theta >= 0 else -1
                t = sign / (abs(theta) + np.sqrt(theta**2 + 1))
                c = 1 / np.sqrt(t**2 + 1)
                s = t * c
                for m in (a.T, a, v.T):  # columns, rows, vectors: m[p], m[q] are views
                    x, y = m[p].copy(), m[q].copy()
                    m[p], m[q] = c * x - s * y, s * x + c * y
    order = np.argsort(-np.diag(a), kind="stable")
    return np.diag(a)[order], v[:, order]


def of_collapse(
    features: Any, labels: Any, weight: Any = None, bias: Any = None, global_mean: str = "sample"
) -> Values:
    """Every collapse metric; None = undefined."""
    x, y = np.asarray(features).astype(np.longdouble), np.asarray(labels)
    classes, counts = np.unique(y, return_counts=True)
    k, n = len(classes), len(x)
    w = None if weight is None else np.asarray(weight).astype(np.longdouble)
    names = [*OF_FEATURES, *(OF_CLASSIFIER if w is not None else ())]
    if k < 2:
        return dict.fromkeys(names)
    mu = np.stack([x[y == c].sum(0) / int(count) for c, count in zip(classes, counts, strict=True)])
    place = np.searchsorted(classes, y)
    z = x - mu[place]
    centre = x.sum(0) / n if global_mean == "sample" else mu.sum(0) / k
    m = mu - centre
    found: Values = {}
    if w is not None:
        found |= _of_classifier(w, bias, w[classes], m, centre)
    small = m @ m.T if k <= x.shape[1] else m.T @ m
    eigenvalues, vectors = eigen(small)
    kept = np.flatnonzero(eigenvalues > ZERO * max(eigenvalues[0], 0))[: k - 1]
    if len(kept) == 0:
        only_weights = ("nc2", "equinorm_weights", "equiangular_weights", "bias_collapse")
        return {name: found.get(name) if name in only_weights else None for name in names} | {"rank_between": 0.0}
    lam, u = eigenvalues[kept], vectors[:, kept]
    v = (m.T @ u) / np.sqrt(lam) if k <= x.shape[1] else u  # d x r
    squares = (z**2).sum(1)
    spread = np.array([squares[y == c].sum() / int(count) for c, count in zip(classes, counts, strict=True)])
    within, between = squares.sum() / n, (m**2).sum() / k
    total_values, total_vectors = eigen(z.T @ z / n + m.T @ m / k)
    alive = total_values > 1e-14 * total_values[0]
    inside = total_vectors[:, alive].T @ m.T / np.sqrt(total_values[alive])[:, None]
    apart = ~np.eye(k, dtype=bool)
    gaps = np.stack([((m - row) ** 2).sum(1) for row in m])
    norms = np.sqrt((m**2).sum(1))
    unit = m / norms[:, None]
    unit_gaps = np.sqrt(np.stack([((unit - row) ** 2).sum(1) for row in unit]))
    nearest = classes[[int(((mu - row) ** 2).sum(1).argmin()) for row in x]]
    values = {
        "nc1": (((z @ v) ** 2).sum(0) / lam).sum() / n,
        "nc1_ratio": within / between,
        "nc1_fraction": within / (within + between),
        "vci": 1 - (inside**2).sum() / k / len(lam),
        "cdnv": ((spread[:, None] + spread) / np.where(apart, 2 * gaps, 1))[apart].mean(),
        "nc2_means": _from_simplex(m @ m.T),
        "equinorm_means": norms.std(ddof=1) / norms.mean(),
        "equiangular_means": abs((unit @ unit.T)[apart] + 1 / np.longdouble(k - 1)).mean(),
        "gnc2": -np.log(unit_gaps[apart]).mean(),
        "ncc_error": np.mean(nearest != y),
        "rank_between": len(lam),
    }
    if w is not None:
        logits = x @ w.T + (0 if bias is None else np.asarray(bias).astype(np.longdouble))
        values["nc4"] = np.mean(nearest == logits.argmax(1))
    return found | {name: float(value) for name, value in values.items()}


def _of_classifier(w: Wide, bias: Any, own: Wide, m: Wide, centre: Wide) -> Values:
    norms, k = np.sqrt((own**2).sum(1)), len(own)
    unit = own / norms[:, None]
    apart = ~np.eye(k, dtype=bool)
    scaled = own / np.sqrt((own**2).sum())
    size = np.sqrt((m**2).sum())
    values = {
        "nc2": _from_simplex(own @ own.T),
        "nc3": _from_simplex(own @ m.T) if size > 0 else np.nan,
        "equinorm_weights": norms.std(ddof=1) / norms.mean(),
        "equiangular_weights": abs((unit @ unit.T)[apart] + 1 / np.longdouble(k - 1)).mean(),
        "self_duality": np.sqrt(((scaled - m / size) ** 2).sum()) if size > 0 else np.nan,
    }
    found: Values = {name: float(value) for name, value in values.items()}
    if bias is not None:
        found["bias_collapse"] = float(np.sqrt(((w @ centre + np.asarray(bias).astype(np.longdouble)) ** 2).sum()))
    return found


def _from_simplex(product: Wide) -> Any:
    k = len(product)
    ideal = (np.eye(k, dtype=np.longdouble) - 1 / np.longdouble(k)) / np.sqrt(np.longdouble(k - 1))
    return np.sqrt(((product / np.sqrt((product**2).sum()) - ideal) ** 2).sum())


def of_units(features: Any) -> Values:
    """Units and ranks of all rows; dead units only where there are exact zeros at all."""
    h = np.asarray(features).astype(np.longdouble)
    mean = abs(h).mean(0)
    found: Values = {
        "dormant_units": float(np.mean(mean <= np.longdouble("0.025") * mean.mean())),
        "feature_norm": float(np.sqrt((h**2).sum(1)).mean()),
    }
    if (h == 0).any():
        found["dead_units"] = float(np.mean((h == 0).all(0)))
    eigenvalues = eigen(h.T @ h)[0]
    if eigenvalues[0] <= 0:
        return found | dict.fromkeys(RANKS)
    s = np.sqrt(np.where(eigenvalues > ZERO * eigenvalues[0], eigenvalues, 0))
    p = s[s > 0] / s.sum()
    return found | {
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "srank": float(1 + np.argmax(np.cumsum(s) / s.sum() >= 0.99)),
        "srank_squared": float(1 + np.argmax(np.cumsum(s**2) / (s**2).sum() >= 0.99)),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "participation_ratio": float((s**2).sum() ** 2 / (s**4).sum()),
    }


RANKS = ("effective_rank", "srank", "srank_squared", "stable_rank", "participation_ratio")
OF_FEATURES = (
    "nc1", "nc1_ratio", "nc1_fraction", "vci", "cdnv", "nc2_means", "equinorm_means", "equiangular_means", "gnc2",
    "ncc_error",
)  # fmt: skip
OF_CLASSIFIER = ("nc2", "nc3", "nc4", "equinorm_weights", "equiangular_weights", "self_duality", "bias_collapse")
