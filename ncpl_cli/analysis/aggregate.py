"""Over three scenarios and more: interquartile mean with a stratified bootstrap, and the probability of improvement.

Definitions of Agarwal et al., *Deep RL at the Edge of the Statistical Precipice*, NeurIPS 2021 (rliable): the mean of
the middle half of all runs of all scenarios; runs drawn anew within each scenario; P(X > Y) = mean over scenarios of
the share of pairs of runs in which the arm's is higher, ties counted half (Mann-Whitney). Their percentiles are too
narrow where scenarios have few runs (six runs of four scenarios: 92 % of the intervals hold the mean); ours are
expanded as Hesterberg (*What teachers should know about the bootstrap*, 2015) does it, by sqrt(n / (n - 1)) and t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng

Array = NDArray[np.float64]

FEWEST_SCENARIOS = 3
BOOTSTRAPS = 5_000


@dataclass(frozen=True)
class Aggregate:
    """One arm over scenarios: interquartile mean and probability of improvement over plain, with 95 % intervals."""

    y: str
    outcome: str
    value: object
    scenarios: int
    runs: int
    iqm: float
    iqm_ci95: tuple[float, float]
    improvement: float | None
    improvement_ci95: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        improvement = None if self.improvement is None or self.improvement_ci95 is None else {
            "mean": self.improvement, "ci95": list(self.improvement_ci95)}  # fmt: skip
        return {
            "y": self.y, "outcome": self.outcome, "value": self.value, "scenarios": self.scenarios, "runs": self.runs,
            "interquartile_mean": {"mean": self.iqm, "ci95": list(self.iqm_ci95)},
            "probability_of_improvement": improvement,
        }  # fmt: skip


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half along the last axis: floor(n / 4) values are cut from each end (scipy's trim_mean)."""
    n = values.shape[-1]
    cut = n // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : n - cut].mean(-1))


def probability_of_improvement(x: Sequence[Array], y: Sequence[Array]) -> float:
    """Mean over scenarios of P(X > Y), ties counted half."""
    return float(np.mean([_share(a, b) for a, b in zip(x, y, strict=True)]))


def _share(a: Array, b: Array) -> Array:
    higher = (a[..., :, None] > b[..., None, :]).mean((-2, -1))
    equal = (a[..., :, None] == b[..., None, :]).mean((-2, -1))
    return np.asarray(higher + equal / 2)


def aggregate(
    y: str, outcome: str, value: object, x: Mapping[str, Sequence[float]], plain: Mapping[str, Sequence[float]] | None,
    *, seed: int = 0, bootstraps: int = BOOTSTRAPS,
) -> Aggregate | None:  # fmt: skip
    """One arm (values of runs by scenario) and, but for the plain one, the plain arm; None below three scenarios."""
    shared = [s for s in x if len(x[s]) and (plain is None or len(plain.get(s, ())))]
    if len(shared) < FEWEST_SCENARIOS:
        return None
    ours = [np.asarray(x[s], dtype=np.float64) for s in shared]
    draws = [_redrawn(v, seed, f"x {s}", bootstraps) for v, s in zip(ours, shared, strict=True)]
    improvement: float | None = None
    interval: tuple[float, float] | None = None
    if plain is not None:
        theirs = [np.asarray(plain[s], dtype=np.float64) for s in shared]
        others = [_redrawn(v, seed, f"y {s}", bootstraps) for v, s in zip(theirs, shared, strict=True)]
        improvement = probability_of_improvement(ours, theirs)
        shares = np.mean([_share(a, b) for a, b in zip(draws, others, strict=True)], axis=0)
        interval = _percentiles(shares, [min(len(a), len(b)) for a, b in zip(ours, theirs, strict=True)])
    return Aggregate(
        y, outcome, value, len(shared), sum(map(len, ours)), float(interquartile_mean(np.concatenate(ours))),
        _percentiles(interquartile_mean(np.concatenate(draws, axis=1)), [len(v) for v in ours]), improvement, interval,
    )  # fmt: skip


def _redrawn(values: Array, seed: int, name: str, bootstraps: int) -> Array:
    return values[rng.stream(seed, "bootstrap", name).integers(0, len(values), (bootstraps, len(values)))]


def _percentiles(values: Array, runs: Sequence[int]) -> tuple[float, float]:
    """Expanded percentiles of bootstrap draws from scenarios with so many runs: as far out as t of their freedom."""
    from scipy.special import ndtr, stdtrit

    freedom = sum(runs) - len(runs)
    if freedom < 1:
        return float(values.min()), float(values.max())
    tail = 100 * float(ndtr(-stdtrit(freedom, 0.975) * np.sqrt(sum(runs) / freedom)))
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
