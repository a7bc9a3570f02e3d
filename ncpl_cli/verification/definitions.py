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
        return found | dict.fromkeys(RANKS) | {"feature_top": 0.0}
    found["feature_top"] = float(np.sqrt(eigenvalues[0]))
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


def of_kernel(jacobian: Any, features: Any, labels: Any, weight: Any, bias: Any) -> Values:
    """The tangent kernel of Jacobians J (N, C, P): K_ij = sum over c <J_ic, J_jc>, and NC x NC in full; the cosines of
    the gradients of the cross-entropy of logits W h + b."""
    j = np.asarray(jacobian).astype(np.longdouble)
    n, classes, size = j.shape
    rows = j.reshape(n * classes, size)
    full = rows @ rows.T
    trace = sum((j[:, c] @ j[:, c].T for c in range(classes)), np.zeros((n, n), np.longdouble))
    off = trace - trace.mean(0)
    found: Values = {"ntk_centred_effective_rank": _rank(eigen(off - off.mean(1)[:, None])[0])}
    for name, kernel in (("ntk", trace), ("ntk_full", full)):
        lam = eigen(kernel)[0]
        found[f"{name}_effective_rank"] = _rank(lam)
        found[f"{name}_condition"] = float(lam[0] / lam[-1]) if lam[-1] > 1e-13 * lam[0] else None
    found["ntk_trace"] = total = float(np.trace(trace))
    found["ntk_top_share"] = float(eigen(trace)[0][0]) / total if total > 0 else None
    logits = np.asarray(features).astype(np.longdouble) @ np.asarray(weight).astype(np.longdouble).T + bias
    share = np.exp(logits - logits.max(1, keepdims=True))
    residual = share / share.sum(1, keepdims=True) - np.eye(classes, dtype=np.longdouble)[labels]
    gradients = np.einsum("nc,ncp->np", residual, j)
    norms = np.sqrt((gradients**2).sum(1))
    there = norms > 0
    if there.sum() < 2:
        return found | dict.fromkeys(("gradient_interference", "gradient_interference_negative"))
    unit = gradients[there] / norms[there, None]
    cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return found | {
        "gradient_interference": float(cosines.mean()),
        "gradient_interference_negative": float((cosines < 0).mean()),
    }


def _rank(eigenvalues: Wide) -> float | None:
    """exp of the entropy of eigenvalues over their sum."""
    kept = eigenvalues[eigenvalues > ZERO * max(eigenvalues[0], 0)]
    p = kept / kept.sum() if len(kept) else kept
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else None


def of_readouts(features: Any, labels: Any, test_features: Any, test_labels: Any) -> Values:
    """Accuracy on the test samples of the nearest class mean, and of ridge W = (X'X/N + lambda)^-1 X'Y/N on centred
    features and one-hot labels at lambda = .01 x the mean of the squares of X's entries."""
    x, t = (np.asarray(one).astype(np.longdouble) for one in (features, test_features))
    classes, place = np.unique(labels, return_inverse=True)
    mu = np.stack([x[place == c].sum(0) / int((place == c).sum()) for c in range(len(classes))])
    nearest = classes[[int(((mu - row) ** 2).sum(1).argmin()) for row in t]]
    origin = x.sum(0) / len(x)
    z = x - origin
    one_hot = np.eye(len(classes), dtype=np.longdouble)[place]
    share = one_hot.sum(0) / len(x)
    values, vectors = eigen(z.T @ z / len(x))
    lam = (z**2).sum() / z.size / 100
    weight = vectors @ ((vectors.T @ (z.T @ (one_hot - share) / len(x))) / (values + lam)[:, None])
    said = classes[((t - origin) @ weight + share).argmax(1)]
    return {
        "readout_ncc": float((nearest == test_labels).mean()), "readout_fixed": float((said == test_labels).mean()),
    }  # fmt: skip
