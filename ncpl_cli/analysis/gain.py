"""A paired difference over seeds: how large, how sure, and the smallest one that these seeds could have shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.results import number

POWER = 0.8
"""The smallest detectable gap is found with this probability at p < .05, two-sided."""


@dataclass(frozen=True)
class Gain:
    """A paired difference, arm minus plain, over seeds.

    mean, ci95   over seeds (t interval)
    p            exact two-sided sign-flip p, from six seeds on
    detectable   smallest true gap that these seeds show with 80 % power: (t(.975) + t(.80)) s / sqrt(n)
    per_seed     the difference of each seed
    margin, p_equivalence  p of both one-sided t tests that the true difference lies beyond the margin
    """

    mean: float | None
    ci95: tuple[float, float] | None
    p: float | None
    detectable: float | None
    per_seed: Mapping[int, float]
    margin: float | None = None
    p_equivalence: float | None = None

    @property
    def verdict(self) -> str:
        """higher | lower | equivalent | undecided: by the 95 % interval, else by equivalence at 5 %."""
        if self.ci95 is not None and self.ci95[0] * self.ci95[1] > 0:
            return "higher" if self.ci95[0] > 0 else "lower"
        return "equivalent" if self.p_equivalence is not None and self.p_equivalence < 0.05 else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "mean": self.mean, "ci95": self.ci95 and list(self.ci95), "p_sign_flip": self.p,
            "smallest_detectable": self.detectable, "n_seeds": len(self.per_seed),
            "per_seed": {str(seed): value for seed, value in self.per_seed.items()},
            "margin": self.margin, "p_equivalence": self.p_equivalence,
            "equivalent": None if self.p_equivalence is None else self.p_equivalence < 0.05,
        }  # fmt: skip


def over_seeds(
    per_seed: Mapping[int, float], flips: int = resampling.FLIPS, seed: int = 0, *, spent: int = 1
) -> Gain:  # fmt: skip
    """A difference over seeds: mean, t interval, sign-flip p, and the smallest gap they could have shown.

    spent  degrees of freedom that the values have cost (see statistics.t_interval)
    """
    values = np.array(list(per_seed.values()))
    n = len(values)
    detectable = None
    if n > spent:
        from scipy.special import stdtrit

        quantiles = float(stdtrit(n - spent, 0.975)) + float(stdtrit(n - spent, POWER))
        detectable = quantiles * float(values.std(ddof=1)) / math.sqrt(n)
    p = number(resampling.sign_flips(values[:, None], flips=flips, seed=seed).p[0]) if n else None
    return Gain(
        float(values.mean()) if n else None, statistics.t_interval(values, spent), p, detectable, dict(per_seed)
    )


MOST_SEEDS = 10_000


def power(spread: float, gap: float, seeds: int) -> float:
    """Probability that a paired t test at 5 %, two-sided, shows a true gap (noncentral t, gap sqrt(n) / spread)."""
    if seeds < 2:
        return 0.0
    if spread <= 0:
        return 1.0 if gap else 0.0
    from scipy.special import nctdtr, stdtrit

    freedom, delta = seeds - 1, abs(gap) * math.sqrt(seeds) / spread
    edge = float(stdtrit(freedom, 0.975))
    wrong_side = float(nctdtr(freedom, delta, -edge))  # not a number where it is too small to be computed
    return 1 - float(nctdtr(freedom, delta, edge)) + (wrong_side if math.isfinite(wrong_side) else 0.0)


def seeds_needed(spread: float, gap: float, *, wanted: float = POWER) -> int | None:
    """Fewest seeds with which a gap is shown with the wanted power, `spread` the sd of a seed's paired difference.

    None where more than 10 000 would be needed.
    """
    low, high = 2, 4
    while power(spread, gap, high) < wanted:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(spread, gap, middle) >= wanted else (middle + 1, high)
    return low
