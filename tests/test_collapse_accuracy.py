"""Every collapse metric against 60 digits, on the input as it was rounded, where other codes lose their digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from ncpl_cli.metrics import collapse

Array = np.ndarray[Any, Any]
mpmath.mp.dps = 60


def exactly(array: Array) -> Array:
    """Floating-point numbers as they are, with 60 digits to calculate in."""
    return np.vectorize(mpmath.mpf, otypes=[object])(array.astype(np.float64))


def eigen(matrix: Array) -> tuple[Array, Array]:
    values, vectors = mpmath.eigsy(mpmath.matrix(matrix.tolist()))
    return np.array(list(values), object), np.array(vectors.tolist(), object)


def pinv(matrix: Array) -> tuple[Array, int]:
    """Pseudo-inverse and rank of a symmetric matrix: what is zero is zero to 40 digits."""
    values, vectors = eigen(matrix)
    kept = values > max(values) * mpmath.mpf(10) ** -40
    inside = vectors[:, kept]
    return (inside / values[kept]) @ inside.T, int(kept.sum())


def norm(matrix: Array) -> Any:
    return mpmath.sqrt(sum(v * v for v in matrix.ravel()))


def truth(x: Array, y: Array, w: Array, b: Array) -> dict[str, float]:
    """The definitions of SCIENCE 1 with 60 digits."""
    x, w, b = exactly(x), exactly(w), exactly(b)
    classes = np.unique(y)
    k, n = len(classes), len(x)
    mu = np.stack([x[y == c].sum(0) / int((y == c).sum()) for c in classes])
    centre = x.sum(0) / n
    z = x - mu[np.searchsorted(classes, y)]
    within, m, own = z.T @ z / n, mu - centre, w[classes]
    between = m.T @ m / k
    inverse, rank = pinv(m @ m.T)  # K x K, where pinv(Sigma_B) = K M^T pinv(M M^T)^2 M
    v = [(z[y == c] ** 2).sum() / int((y == c).sum()) for c in classes]
    gap = [[((a - c) ** 2).sum() for c in mu] for a in mu]
    pairs = [(i, j) for i in range(k) for j in range(k) if i != j]
    ideal = (np.eye(k, dtype=object) - mpmath.mpf(1) / k) / mpmath.sqrt(k - 1)
    logits = x @ w.T + b
    nearest = [classes[min(range(k), key=lambda c: ((h - mu[c]) ** 2).sum())] for h in x]
    found = {
        "nc1": np.trace(m @ within @ m.T @ inverse @ inverse),
        "nc1_ratio": np.trace(within) / np.trace(between),
        "nc1_fraction": np.trace(within) / np.trace(within + between),
        "vci": 1 - np.trace(pinv(within + between)[0] @ between) / rank,
        "cdnv": sum((v[i] + v[j]) / (2 * gap[i][j]) for i, j in pairs) / len(pairs),
        "nc2": norm(own @ own.T / norm(own @ own.T) - ideal),
        "nc3": norm(own @ m.T / norm(own @ m.T) - ideal),
        "nc2_means": norm(m @ m.T / norm(m @ m.T) - ideal),
        "self_duality": norm(own / norm(own) - m / norm(m)),
        "bias_collapse": norm(w @ centre + b),
        "nc4": np.mean([a == max(range(len(w)), key=lambda c: row[c]) for a, row in zip(nearest, logits, strict=True)]),
        "ncc_error": np.mean(np.array(nearest) != y),
    }
    return {name: float(value) for name, value in found.items()}


def mixture(n: int = 240, d: int = 9, k: int = 5, noise: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    draw = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), draw.integers(0, k, n - k)])
    return 3 * draw.normal(size=(k, d))[y] + noise * draw.normal(size=(n, d)), y


def unbalanced() -> tuple[Array, Array]:
    x, y = mixture(n=400)
    kept = (y == 0) | (np.arange(len(y)) % 9 == 0)
    return x[kept], y[kept]


def absent() -> tuple[Array, Array]:
    x, y = mixture()
    return x[(y != 1) & (y != 4)], y[(y != 1) & (y != 4)]


def singletons() -> tuple[Array, Array]:
    x, y = mixture()
    return np.concatenate([x[:5], x[y == 2]]), np.concatenate([y[:5], y[y == 2]])


def useless() -> tuple[Array, Array]:
    """Dead and duplicated features."""
    x, y = mixture(d=6)
    return np.concatenate([x, np.zeros((len(x), 2)), x[:, 1:3]], axis=1), y


def unlike() -> tuple[Array, Array]:
    """Features of very different size."""
    x, y = mixture()
    return x * 10.0 ** np.linspace(-4, 2, 9), y


def deep(noise: float, offset: float, dtype: str) -> tuple[Array, Array]:
    """Class distances of some units and, around them, noise in whole units of the last place."""
    draw = np.random.default_rng(3)
    y = np.concatenate([np.arange(5), draw.integers(0, 5, 300)])
    means = (3 * draw.normal(size=(5, 9)) + offset).astype(dtype)
    unit = max(float(np.spacing(np.abs(means)).max()), noise)
    return (means[y] + np.round(2 * draw.normal(size=(len(y), 9))) * unit).astype(dtype), y


CASES: dict[str, Callable[[str], tuple[Array, Array]]] = {
    "plain": lambda _: mixture(),
    "two classes": lambda _: mixture(k=2),
    "d < C": lambda _: mixture(d=3, k=8),
    "d = 1": lambda _: mixture(d=1, k=4),
    "fewer samples than features": lambda _: mixture(n=12, d=20, k=5),
    "unbalanced": lambda _: unbalanced(),
    "absent": lambda _: absent(),
    "singletons": lambda _: singletons(),
    "dead and duplicated": lambda _: useless(),
    "features of unlike size": lambda _: unlike(),
    **{
        f"deep {noise:g} at {offset:g}": lambda t, noise=noise, offset=offset: deep(noise, offset, t)  # type: ignore[misc]
        for noise in (1e-2, 1e-4, 1e-6) for offset in (0.0, 100.0, 2.0**14)
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_sixty_digits_agree(case: str, dtype: str) -> None:
    x, y = CASES[case](dtype)
    x = x.astype(dtype)
    draw = np.random.default_rng(7)
    w = draw.normal(size=(int(y.max()) + 1, x.shape[1]))
    b = -w @ x.mean(0, dtype=np.float64) + draw.normal(size=len(w))
    ours, theirs = collapse(x, y, w, b), truth(x, y, w, b)
    for name, value in theirs.items():
        if dtype == "float32":
            # vci is exactly 0 where the rest of the features explains all scatter
            assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-16 if name == "vci" else 1e-20), name
        elif name in ("nc1", "nc1_ratio", "cdnv"):
            assert ours[name] == pytest.approx(value, rel=1e-12, abs=1e-30), name
        else:
            assert ours[name] == pytest.approx(value, rel=0, abs=1e-12), name
