"""Units and ranks of one layer's features: what a network that loses plasticity loses first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DORMANT = 0.025
"""S23's tau."""


def dead_units(features: Tensor) -> float:
    """Share of units that are never active on the samples (n, width): 0 = all alive. Only where zero is exact."""
    return float((features == 0).all(0).double().mean())


def dormant_units(features: Tensor, tau: float = DORMANT) -> float:
    """Share of units whose mean absolute activation is at most tau times the layer's mean (S23, ReDo).

    Without dividing, so that a layer that is all dead counts as wholly dormant.
    """
    return float(dormant(activity(features), tau).double().mean())


def activity(features: Tensor, width: int | None = None) -> Tensor:
    """Mean absolute activation of each unit over the samples (n, shown), (width,); a unit shown twice is summed."""
    mean = features.double().abs().mean(0)
    return mean if width is None else mean.reshape(-1, width).sum(0)


def dormant(activity: Tensor, tau: float) -> Tensor:
    """Which units have at most tau times the layer's mean activity, (width,)."""
    return activity <= tau * activity.mean()


def spectrum(features: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Singular values of features (n, width), largest first, by the smaller Gram matrix in float64."""
    h = features.double()
    gram = h.T @ h if h.shape[1] <= h.shape[0] else h @ h.T
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
    return values.cpu().numpy()  # type: ignore[no-any-return]


def ranks(singular: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, float]:
    """Five ranks that the field calls by each other's names, from singular values s; low = features of few directions.

    effective_rank       exp of the entropy of s / sum(s) (Roy & Vetterli 2007)
    srank                smallest k whose largest k values hold 99 % of sum(s) (Kumar et al. 2021)
    srank_squared        the same with squares (D24's approximate rank)
    stable_rank          sum(s^2) / s_1^2
    participation_ratio  (sum s^2)^2 / sum(s^4)
    Empty where all features are zero.
    """
    s, squares = singular, singular**2
    if squares.sum() == 0:
        return {}
    p = s / s.sum()
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    return {
        "effective_rank": float(np.exp(entropy)),
        "srank": float(np.searchsorted(np.cumsum(s) / s.sum(), 0.99) + 1),
        "srank_squared": float(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.99) + 1),
        "stable_rank": float(squares.sum() / squares[0]),
        "participation_ratio": float(squares.sum() ** 2 / (squares**2).sum()),
    }


def feature_norm(features: Tensor) -> float:
    """Mean L2 norm of a feature vector (n, width)."""
    return float(torch.linalg.vector_norm(features.double(), dim=1).mean())
