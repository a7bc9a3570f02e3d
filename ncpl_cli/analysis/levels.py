"""Two levels: seeds within settings, and settings. Arms are not runs: what differs between them is no spread of seeds.

Within runs, a group's mean z has a variance over its seeds, s^2 / n_k, with one s pooled over groups: by its own of
a handful of seeds, a group would weigh by chance (the interval of five groups of six seeds then held the truth 92 times
of 100). What the groups differ by beyond that is the heterogeneity between settings: tau^2 (DerSimonian & Laird 1986),
I^2 (Higgins & Thompson 2002), the interval of the mean by Hartung & Knapp (t over groups). Over runs, values are taken
around their setting's mean (within) and as means of settings (between): the two can have opposite signs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.results import GroupCorrelation, number
from ncpl_cli.analysis.words import count, signed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Between:
    """A pair's correlation within runs over several settings of one scenario.

    r, ci95      random-effects mean over settings, as an r, with its interval (None below two settings)
    within_sd    standard deviation of z over seeds, pooled over settings
    between_sd   tau: standard deviation of z between settings beyond what their seeds explain
    i2           share of the variance between settings that is not their seeds'
    shared       whether the settings have seeds in common (they are then not independent)
    """

    scenario: str
    x: str
    y: str
    settings: int
    r: float
    ci95: tuple[float, float] | None
    within_sd: float
    between_sd: float
    i2: float
    same_sign: int
    shared: bool

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "scenario": self.scenario, "x": self.x, "y": self.y, "settings": self.settings, "r": self.r,
            "ci95": self.ci95 and list(self.ci95), "within_sd_of_z": self.within_sd, "between_sd_of_z": self.between_sd,
            "i2": self.i2, "same_sign": f"{self.same_sign}/{self.settings}", "seeds_shared": self.shared,
        }  # fmt: skip

    def sentence(self) -> str:
        """For people."""
        sure = "" if self.ci95 is None else f" (95 % interval {signed(self.ci95[0])} to {signed(self.ci95[1])})"
        shared = "; settings share seeds and are not independent" if self.shared else ""
        return (
            f"Over {count(self.settings, 'setting')} of {self.scenario} r({self.x}, {self.y}) is "
            f"{signed(self.r)}{sure}, with one sign in {self.same_sign} of {self.settings}; z differs by "
            f"{self.within_sd:.2f} between seeds of a setting and by {self.between_sd:.2f} between settings beyond "
            f"that (I² {self.i2:.0%}){shared}."
        )


def between_settings(results: Sequence[GroupCorrelation]) -> tuple[Between, ...]:
    """Each pair of a scenario over the groups that have two seeds and more; nothing for a single such group."""
    together: dict[tuple[str, str, str], list[GroupCorrelation]] = {}
    for one in results:
        s = one.overall.summary
        if one.across != "runs" and s.n > 1 and s.fisher_mean_r is not None and s.spread_of_z is not None:
            together.setdefault((one.scenario, one.x, one.y), []).append(one)
    found = []
    for (scenario, x, y), of in together.items():
        if len(of) < 2:
            continue
        summaries = [one.overall.summary for one in of]
        z = np.array([math.atanh(s.fisher_mean_r or 0.0) for s in summaries])
        spread = np.array([s.spread_of_z or 0.0 for s in summaries])
        n = np.array([s.n for s in summaries], dtype=np.float64)
        pooled = float(((n - 1) * spread**2).sum() / (n - 1).sum())
        centre, interval, tau, i2 = random_effects(z, np.maximum(pooled / n, 1e-12))
        seeds = [set(one.seeds.values()) for one in of]
        found.append(
            Between(
                scenario, x, y, len(of), math.tanh(centre),
                None if interval is None else (math.tanh(interval[0]), math.tanh(interval[1])),
                math.sqrt(pooled), tau, i2,
                int((np.sign(z) == np.sign(centre)).sum()),
                any(a & b for i, a in enumerate(seeds) for b in seeds[:i]),
            )
        )  # fmt: skip
    return tuple(found)


def random_effects(z: Array, variance: Array) -> tuple[float, tuple[float, float] | None, float, float]:
    """Mean, 95 % interval (Hartung & Knapp), tau (DerSimonian & Laird) and I^2 of estimates with known variances."""
    k = len(z)
    w = 1 / variance
    fixed = float((w * z).sum() / w.sum())
    q = float((w * (z - fixed) ** 2).sum())
    scale = float(w.sum() - (w**2).sum() / w.sum())
    tau2 = max(0.0, (q - (k - 1)) / scale) if scale > 0 else 0.0
    i2 = max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0
    w = 1 / (variance + tau2)
    centre = float((w * z).sum() / w.sum())
    if k < 2:
        return centre, None, math.sqrt(tau2), i2
    from scipy.special import stdtrit

    error = math.sqrt(float((w * (z - centre) ** 2).sum() / ((k - 1) * w.sum())))
    half = float(stdtrit(k - 1, 0.975)) * error
    return centre, (centre - half, centre + half), math.sqrt(tau2), i2


def over_runs(
    x: Array, y: Array, setting: NDArray[np.intp], method: str, seeds: NDArray[np.intp] | None = None
) -> dict[str, Any] | None:
    """r over runs within settings (around their means) and between them (of their means); None with one setting.

    Seeds (a number a run) that settings share bring their luck to each: within, the interval is then a jackknife over
    seeds, else Fisher's. heterogeneity: share of each variable's variance that lies between settings (eta^2), and tau
    and I^2 of the settings' own r where two settings and more have five runs.
    """
    kinds = np.unique(setting)
    if len(kinds) < 2:
        return None
    both = np.isfinite(x) & np.isfinite(y)
    x, y, setting = x[both], y[both], setting[both]
    seeds = np.arange(len(x)) if seeds is None else seeds[both]
    members = [np.flatnonzero(setting == k) for k in kinds if (setting == k).any()]
    if method == "spearman":
        x, y = statistics.ranks(x), statistics.ranks(y)
    means = [np.array([v[m].mean() for m in members]) for v in (x, y)]
    within, freedom = _within(x, y, setting)
    between = number(statistics.pearson(means[0], means[1]))
    own = [(r, len(m)) for m in members if len(m) >= 5 and (r := number(statistics.pearson(x[m], y[m]))) is not None]
    spread: dict[str, Any] = {"between_sd_of_z": None, "i2": None}
    if len(own) > 1:
        z, n = np.arctanh([r for r, _ in own]), np.array([n for _, n in own], dtype=np.float64)
        _, _, tau, i2 = random_effects(z, 1 / (n - 3))
        spread = {"between_sd_of_z": tau, "i2": i2}
    return {
        "settings": len(members),
        "within": {
            "r": within, "degrees_of_freedom": freedom, "ci95": _within_interval(within, freedom, x, y, setting, seeds)
        },
        "between": {"r": between, "ci95": _fisher(between, len(members) - 3)},
        "variance_between_settings": {
            name: _share(v, members) for name, v in (("x", x), ("y", y))
        },
        **spread,
    }  # fmt: skip


def _within(x: Array, y: Array, setting: NDArray[np.intp]) -> tuple[float | None, int]:
    """r around the settings' means and its degrees of freedom; a setting with one run says nothing about seeds."""
    left: list[list[Array]] = [[], []]
    settings = 0
    for k in np.unique(setting):
        m = setting == k
        if m.sum() > 1:
            settings += 1
            for values, v in zip(left, (x[m], y[m]), strict=True):
                values.append(statistics.without_rounding(v - v.mean(), np.abs(v).max()))
    freedom = sum(map(len, left[0])) - settings
    return (number(statistics.pearson(*map(np.concatenate, left))) if freedom >= 3 else None), freedom


def _within_interval(
    r: float | None, freedom: int, x: Array, y: Array, setting: NDArray[np.intp], seeds: NDArray[np.intp]
) -> list[float] | None:
    each = np.unique(seeds)
    if r is None or len(each) == len(seeds):
        return _fisher(r, freedom - 2)
    left = [_within(x[seeds != s], y[seeds != s], setting[seeds != s])[0] for s in each]
    interval = statistics.jackknife_interval(r, [v for v in left if v is not None]) if None not in left else None
    return None if interval is None else list(interval)


def levels_said(levels: dict[str, Any]) -> list[str]:
    """Both levels in a sentence."""
    within, between = levels["within"]["r"], levels["between"]["r"]
    if within is None and between is None:
        return []
    turned = within is not None and between is not None and within * between < 0
    share = levels["variance_between_settings"]
    return [
        f"Two levels: r is {signed(within)} within settings (over seeds) and {signed(between)} between the "
        f"{levels['settings']} settings{': the sign depends on the level' if turned else ''}; "
        f"{_percent(share['x'])} of the variance of x and {_percent(share['y'])} of that of y lie between settings."
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _fisher(r: float | None, freedom: int) -> list[float] | None:
    """95 % interval of r by Fisher's z with so many degrees of freedom (n - 3 for a plain r)."""
    if r is None or freedom < 1:
        return None
    half = 1.959963984540054 / math.sqrt(freedom)
    return [math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)]


def _share(values: Array, members: Sequence[NDArray[np.intp]]) -> float | None:
    total = float(((values - values.mean()) ** 2).sum())
    inside = sum(float(((values[m] - values[m].mean()) ** 2).sum()) for m in members)
    return None if total <= 0 else max(0.0, 1 - inside / total)
