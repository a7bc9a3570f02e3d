"""Units and ranks of one layer's features: what a network that loses plasticity loses first."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from ncpl_cli.metrics.columns import Columns, columns
from ncpl_cli.metrics.moments import add_square
from ncpl_cli.networks import ACTIVATIONS

DORMANT = 0.025
"""S23's tau."""

SQUARES = 1e-70
"""Features between this and its inverse are squared as they are: no square leaves float64, or loses digits there."""

BLOCK = 4096
"""Samples that are made float64 together."""


def _blocks(features: Tensor) -> list[Tensor]:
    return [features[start : start + BLOCK] for start in range(0, len(features), BLOCK)]


def dead_units(features: Tensor | Columns) -> float:
    """Share of units that are never active on the samples (n, width): 0 = all alive. Only where zero is exact."""
    return float((activity(features) == 0).double().mean())


def has_zeros(features: Tensor) -> bool:
    """Whether an activation that is not known has exact zeros, by its features (n, width): all of them."""
    return any(bool((block == 0).any()) for block in _blocks(features))


def dormant_units(features: Tensor | Columns, tau: float = DORMANT) -> float:
    """Share of units whose mean absolute activation is at most tau times the layer's mean (S23, ReDo).

    Without dividing, so that a layer that is all dead counts as wholly dormant.
    """
    return float(dormant(activity(features), tau).double().mean())


def activity(features: Tensor | Columns, width: int | None = None) -> Tensor:
    """Mean absolute activation of each unit over the samples (n, shown), (width,); a unit shown twice is summed."""
    seen = columns(features)
    mean = seen.absolute / seen.n
    return mean if width is None else mean.reshape(-1, width).sum(0)


def dormant(activity: Tensor, tau: float) -> Tensor:
    """Which units have at most tau times the layer's mean activity, (width,)."""
    return activity <= tau * activity.mean()


AFFINE = 0.99
"""From this share of explained variance on a smooth unit counts as affine on the data (L24)."""

PIECES = {"relu": (False, True), "crelu": (True, True), "leaky_relu": (True, True)}
"""Piecewise linear activations: whether they pass something on the negative and on the positive side."""

BOUNDS = {"tanh": (-0.99, 0.99), "sigmoid": (0.01, 0.99)}
"""Outside of these a bounded activation is saturated."""


def linearised_units(preactivations: Tensor | Columns, activation: str) -> float:
    """Share of units that are affine on the samples (n, width) and not dead: L24's zombie units; low = non-linear.

    Piecewise linear: every preactivation lies on one side that passes something (ReLU: the smallest is above 0).
    Smooth: preactivation z explains at least 99 % of the variance of f(z). Fresh tanh networks are nearly affine, so
    a smooth network's value means something beside that of its initialisation.
    """
    if activation in PIECES:
        negative, positive = PIECES[activation]
        seen = columns(preactivations)
        affine = torch.zeros_like(seen.positive, dtype=torch.bool)
        if positive:
            affine |= seen.positive == seen.n
        if negative:
            affine |= seen.negative == seen.n
        return float(affine.double().mean())
    assert isinstance(preactivations, Tensor), "a line is fitted to the values themselves"
    z = preactivations.double()
    h = ACTIVATIONS[activation](z)
    z, h = z - z.mean(0), h - h.mean(0)
    zz, hh, zh = (z * z).sum(0), (h * h).sum(0), (z * h).sum(0)
    # a unit that answers nothing is dead, not affine
    return float(((hh > 0) & (zh**2 >= AFFINE * zz * hh)).double().mean())


ACTIVE = 0.95
"""A unit that is active on more of the samples than this is nearly linear (L24's zombie units, graded)."""


def active_units(preactivations: Tensor | Columns, activation: str, above: float = ACTIVE) -> float | None:
    """Share of units whose preactivation is above 0 on more than 95 % of the samples (n, width).

    None where the activation has no side on which a unit is off, or passes something on each (crelu).
    """
    if activation not in ("relu", "leaky_relu"):
        return None
    seen = columns(preactivations)
    return float((seen.positive.double() / seen.n > above).double().mean())


def saturated_units(features: Tensor, activation: str) -> float | None:
    """Share of units beyond 99 % of a bounded activation on every sample (n, width); None for an unbounded one."""
    if activation not in BOUNDS:
        return None
    low, high = BOUNDS[activation]
    return float(((features < low) | (features > high)).all(0).double().mean())


def preactivation_moments(preactivations: Tensor | Columns) -> tuple[float, float]:
    """Mean and standard deviation of a layer's preactivations over samples and units (n, width) (L24)."""
    seen = columns(preactivations)
    return seen.mean, math.sqrt(seen.square / max(1, seen.n * len(seen.absolute)))


def spectrum(
    features: Tensor, gram: Tensor | None = None
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:  # fmt: skip
    """Singular values of features (n, width), largest first, in float64.

    By the smaller Gram matrix where that leaves nine digits of their sum: it squares the features, so that values below
    1e-8 of the largest are its rounding. Features of exactly few directions want the decomposition itself.
    gram: that matrix (width, width) in float64, where it is known and there are no fewer samples than units.
    """
    found = np.zeros(min(features.shape))
    if gram is None or len(gram) != len(found) or not SQUARES**2 < float(gram.trace()) < 1 / SQUARES**2:
        size = float(features.abs().max()) if features.numel() else 0.0
        if size == 0:
            return found
        if SQUARES < size < 1 / SQUARES:
            size = 1.0
        gram = None
    else:
        size = 1.0
    tall = features.shape[0] >= features.shape[1]
    parts = _blocks(features) if tall else [features.T]

    def wide(part: Tensor) -> Tensor:
        return part.double() if size == 1 else part.double() / size

    if gram is None:
        gram = torch.zeros(len(found), len(found), dtype=torch.float64, device=features.device)
        for part in parts:
            add_square(gram, wide(part))
    alive = torch.diagonal(gram) > 0  # a dead unit is a value of exactly 0, which would come out as rounding
    living = gram if bool(alive.all()) else gram[alive][:, alive]
    values = torch.linalg.eigvalsh(living, UPLO="U").flip(0).clamp_min(0)
    noise = len(values) * torch.finfo(torch.float64).eps * values[0]
    singular = values.sqrt()
    if float(torch.minimum(noise / singular, noise.sqrt()).sum()) > 1e-9 * float(singular.sum()):
        singular = torch.linalg.svdvals(_triangle([wide(part) for part in parts]))  # of all units
    found[: len(singular)] = (singular * size).cpu().numpy()
    return found


def _triangle(blocks: list[Tensor]) -> Tensor:
    """R of a QR decomposition of rows in blocks: it has their singular values, and squares nothing."""
    found = blocks[0]
    for block in blocks[1:]:
        found = torch.linalg.qr(torch.cat([found, block]), mode="r").R
    return found


def entropy_rank(spectrum: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """exp of the entropy of a spectrum over its sum (Roy & Vetterli 2007); a share that underflows adds 0 log 0 = 0."""
    p = spectrum / spectrum.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def ranks(singular: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, float]:
    """Five ranks that the field calls by each other's names, from singular values s; low = features of few directions.

    effective_rank       exp of the entropy of s / sum(s) (Roy & Vetterli 2007)
    srank                smallest k whose largest k values hold 99 % of sum(s) (Kumar et al. 2021)
    srank_squared        the same with squares (D24's approximate rank)
    stable_rank          sum(s^2) / s_1^2
    participation_ratio  (sum s^2)^2 / sum(s^4)
    Empty where all features are zero.
    """
    if singular.max(initial=0.0) == 0:
        return {}
    s = singular / singular.max()
    squares = s**2
    return {
        "effective_rank": entropy_rank(s),
        "srank": float(np.searchsorted(np.cumsum(s) / s.sum(), 0.99) + 1),
        "srank_squared": float(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.99) + 1),
        "stable_rank": float(squares.sum() / squares[0]),
        "participation_ratio": float(squares.sum() ** 2 / (squares**2).sum()),
    }


def feature_norm(features: Tensor | Columns) -> float:
    """Mean L2 norm of a feature vector (n, width)."""
    seen = columns(features)
    return seen.norms / seen.n


RANKS = ("effective_rank", "srank", "srank_squared", "stable_rank", "participation_ratio")
UNIT_METRICS = ("dead_units", "dormant_units", "feature_norm", "feature_top", *RANKS)


def unit_metrics(
    features: Tensor, exact_zeros: bool, wanted: Collection[str] = UNIT_METRICS, gram: Tensor | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """The wanted metrics of a layer's units and ranks on samples (n, width), and why one is undefined.

    exact_zeros: whether the activation has them; without, no unit counts as dead. gram: as `spectrum` takes it.
    """
    wanted = {*UNIT_METRICS} & {*wanted}
    seen = columns(features)
    # a finite sum tells; where it overflows, every number is looked at
    if not bool(seen.absolute.sum().isfinite()) and not all(
        bool(torch.isfinite(block).all()) for block in _blocks(features)
    ):
        return {}, dict.fromkeys(wanted, "features are not finite")
    values: dict[str, float] = {}
    for name, of in (("dormant_units", dormant_units), ("feature_norm", feature_norm), ("dead_units", dead_units)):
        if name in wanted and (name != "dead_units" or exact_zeros):
            values[name] = of(seen)
    if {*RANKS, "feature_top"} & wanted:
        singular = spectrum(features, gram)
        found = ranks(singular) | {"feature_top": float(singular[0])}
        values |= {name: value for name, value in found.items() if name in wanted}
    undefined = {name: "all features are zero" for name in RANKS if name in wanted and name not in values}
    if "dead_units" in wanted and not exact_zeros:
        undefined["dead_units"] = "the activation has no exact zeros"
    return values, undefined
