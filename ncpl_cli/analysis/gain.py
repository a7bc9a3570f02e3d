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


def over_seeds(per_seed: Mapping[int, float], flips: int = resampling.FLIPS, seed: int = 0) -> Gain:
    """A difference over seeds: mean, t interval, sign-flip p, and the smallest gap they could have shown."""
    values = np.array(list(per_seed.values()))
    n = len(values)
    detectable = None
    if n > 1:
        from scipy.special import stdtrit

        quantiles = float(stdtrit(n - 1, 0.975)) + float(stdtrit(n - 1, POWER))
        detectable = quantiles * float(values.std(ddof=1)) / math.sqrt(n)
    p = number(resampling.sign_flips(values[:, None], flips=flips, seed=seed).p[0]) if n else None
    return Gain(float(values.mean()) if n else None, statistics.t_interval(values), p, detectable, dict(per_seed))
