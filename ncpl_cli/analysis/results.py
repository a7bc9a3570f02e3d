"""What correlate finds: frozen results that commands print and report draws. `to_json` gives INTERFACE's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import html
from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.statistics import Summary
from ncpl_cli.analysis.study import titled
from ncpl_cli.errors import InputError, unknown

if TYPE_CHECKING:
    from ncpl_cli.analysis.multiverse import Multiverse

Array = NDArray[np.float64]

ACROSS = ("epochs", "tasks", "runs")

WINDOW = 100
"""B24's window."""

DEFAULT_CONTROL = "train_accuracy"
"""Held fixed wherever it was recorded and varies: both collapse and plasticity follow how well the data are fitted."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Sliding windows: `end` labels the window (end - W, end] of the axis; all arrays are per window.

    points     rows with both values in the fullest run; `fewest` in the emptiest
    r          runs x windows, NaN where undefined or where the run does not cover the window
    mean, std  over runs (sample standard deviation, ddof 1)
    p          two-sided sign-flip p of this window by itself; p_family is paid for all windows and lags looked at
    undefined  runs that have no r in this window
    """

    runs: tuple[str, ...]
    end: Array
    points: NDArray[np.intp]
    fewest: NDArray[np.intp]
    r: Array
    mean: Array
    std: Array
    p: Array
    p_family: Array
    undefined: NDArray[np.intp]

    def to_json(self) -> list[dict[str, Any]]:
        """One entry a window."""
        return [
            {
                "end": int(end) if float(end).is_integer() else float(end),
                "points": int(self.points[i]),
                "points_fewest": int(self.fewest[i]),
                "mean": number(self.mean[i]),
                "std": number(self.std[i]),
                "p": number(self.p[i]),
                "p_family": number(self.p_family[i]),
                "undefined": int(self.undefined[i]),
                "per_run": {run: number(r) for run, r in zip(self.runs, self.r[:, i], strict=True)},
            }
            for i, end in enumerate(self.end)
        ]


@dataclass(frozen=True)
class Control:
    """The correlation that a control leaves: its summary over runs and its sign-flip p."""

    summary: Summary
    p: float | None

    def to_json(self) -> dict[str, Any]:
        """Mean, centre and interval, p, number of runs."""
        s = self.summary
        return {
            "mean_r": s.mean_r, "fisher_mean_r": s.fisher_mean_r, "ci95": s.ci95 and list(s.ci95),
            "p_sign_flip": self.p, "n_runs": s.same_sign[1],
        }  # fmt: skip


@dataclass(frozen=True)
class Lag:
    """x against y `lag` rows later (positive: x leads y)."""

    lag: int
    mean_r: float | None
    p: float | None
    p_family: float | None


@dataclass(frozen=True)
class Excluded:
    """A run that is not part of the result, and why."""

    run: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Overall:
    """The correlation over the whole recorded series, and what is left of it under each control.

    controls         `spearman`, `first_difference`, `detrended`
    partial          given a control (linear); `partial_ranks` on ranks throughout
    r_of_means       between the series averaged over runs, on rows common to all: averaging raises r by itself
    seed_swap        x of one run with y of another
    effective_n      median over runs: how many independent points a run's series is worth
    direction        in words; "associated", never "causes"
    """

    summary: Summary
    std: float | None
    per_run: Mapping[str, float | None]
    p_sign_flip: float | None
    p_family: float | None
    r_of_means: float | None
    controls: Mapping[str, Control]
    partial: Mapping[str, Control]
    partial_ranks: Mapping[str, Control]
    seed_swap: resampling.SeedSwap
    best_lag: int | None
    points: int
    effective_n: float | None
    direction: str
    excluded: tuple[Excluded, ...]
    p_by: float | None = None

    def to_json(self) -> dict[str, Any]:
        """INTERFACE's `overall`, and more."""
        s = self.summary
        return {
            "mean_r": s.mean_r,
            "std": self.std,
            "fisher_mean_r": s.fisher_mean_r,
            "ci95": s.ci95 and list(s.ci95),
            "spread_of_z": s.spread_of_z,
            "p_sign_flip": self.p_sign_flip,
            "p_family": self.p_family,
            "p_benjamini_yekutieli": self.p_by,
            "r_of_means": self.r_of_means,
            "per_run": dict(self.per_run),
            "same_sign": f"{s.same_sign[0]}/{s.same_sign[1]}",
            **{name: control.summary.mean_r for name, control in self.controls.items()},
            "partial": {name: control.summary.mean_r for name, control in self.partial.items()},
            "partial_ranks": {name: control.summary.mean_r for name, control in self.partial_ranks.items()},
            "controls": {
                **{name: control.to_json() for name, control in self.controls.items()},
                **{f"partial:{name}": control.to_json() for name, control in self.partial.items()},
                **{f"partial_ranks:{name}": control.to_json() for name, control in self.partial_ranks.items()},
            },
            "seed_swap_p": self.seed_swap.p,
            "seed_swap_r": self.seed_swap.swapped_r,
            "seed_swap_matched_r": self.seed_swap.matched_r,
            "shared_driver": self.seed_swap.share,
            "best_lag": self.best_lag,
            "points": self.points,
            "effective_n": self.effective_n,
            "leave_one_out": s.leave_one_out and list(s.leave_one_out),
            "direction": self.direction,
            "excluded": [{"run": e.run, "seed": e.seed, "reason": e.reason} for e in self.excluded],
        }


@dataclass(frozen=True)
class Resampling:
    """What the p-values rest on, so that anyone gets the same bytes again."""

    seed: int
    flips: int
    flips_exact: bool
    family: int
    family_flips: int
    permutations: int

    def to_json(self) -> dict[str, Any]:
        """Seeds and counts."""
        return {
            "seed": self.seed, "sign_flips": self.flips, "sign_flips_exact": self.flips_exact,
            "family_size": self.family, "family_flips": self.family_flips, "seed_swaps": self.permutations,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class GroupCorrelation:
    """One pair of metrics in one group of runs."""

    scenario: str
    name: str | None
    settings: Mapping[str, object]
    x: str
    y: str
    method: str
    across: str
    unit: str
    window: int
    seeds: Mapping[str, int]
    windows: Windows
    overall: Overall
    lags: tuple[Lag, ...]
    resampling: Resampling
    estimand: str
    notes: tuple[str, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    multiverse: Multiverse | None = None

    @property
    def title(self) -> str:
        """Scenario, name and distinguishing settings in one line."""
        return titled(self.scenario, self.name, self.settings)

    @property
    def held_fixed(self) -> Mapping[str, Control]:
        """The partial correlations of this method: on ranks where ranks are correlated."""
        return self.overall.partial_ranks if self.method == "spearman" else self.overall.partial

    @property
    def n_runs(self) -> int:
        """Runs that are part of the result."""
        return len(self.seeds)

    def _repr_html_(self) -> str:
        from ncpl_cli.analysis import headline  # it reads this result

        columns = ("statistic", "r", "low", "high", "p", "what")
        caption = f"{self.title}: {self.x} and {self.y}. {headline.headline(self)}"
        return html.shown(caption, columns, headline.statistics(self), self.notes)

    def to_json(self) -> dict[str, Any]:
        """An entry of INTERFACE's `groups`."""
        from ncpl_cli.analysis.survival import survival  # it reads this result

        return {
            "scenario": self.scenario,
            "name": self.name,
            "settings": dict(self.settings),
            "x": self.x,
            "y": self.y,
            "method": self.method,
            "across": self.across,
            "unit": self.unit,
            "window": self.window,
            "n_runs": self.n_runs,
            "seeds": dict(self.seeds),
            "estimand": self.estimand,
            "windows": self.windows.to_json(),
            "overall": {**self.overall.to_json(), "survives": survival(self).to_json()},
            "lags": [{"lag": g.lag, "mean_r": g.mean_r, "p": g.p, "p_family": g.p_family} for g in self.lags],
            **self.more,
            **({} if self.multiverse is None else {"multiverse": self.multiverse.to_json()}),
            "resampling": self.resampling.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Options:
    """How to correlate. `across` None: one point a task where a run has several, else one a recorded epoch.

    flips         drawn sign flips for the whole series, beyond 16 runs (up to there all are done)
    family_flips  the same for the family of windows and lags, and drawn pairings for the seed swap; None: fewer the
                  more pairs there are (`flips_for`), since any number of drawn flips holds its size
    seed          of all resampling
    directions    what low or high values of further metrics mean: {"dead_units": "higher = more dead units"}
    """

    window: int = WINDOW
    method: str = "pearson"
    across: str | None = None
    controls: tuple[str, ...] = ()
    lags: tuple[int, int] | None = None
    pool: bool = False
    flips: int = resampling.FLIPS
    family_flips: int | None = None
    seed: int = 0
    directions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in statistics.METHODS:
            raise unknown("method", self.method, statistics.METHODS)
        if self.across is not None and self.across not in ACROSS:
            raise unknown("axis", self.across, ACROSS)
        if self.window < 1:
            raise InputError(f"--window {self.window} is impossible: it is a positive number of epochs or tasks.")
        if self.lags is not None and self.lags[0] > self.lags[1]:
            raise InputError(f"--lags {self.lags[0]}:{self.lags[1]} is empty.", "write it as --lags -20:20")


def flips_for(pairs: int) -> int:
    """Drawn flips of a pair's windows and lags: 99 999; 9 999 from ten pairs on, 1 999 from a hundred on."""
    return resampling.FLIPS if pairs < 10 else 9_999 if pairs < 100 else 1_999


def number(value: Any) -> float | None:
    """A float, None where it is NaN."""
    found = float(value)
    return found if np.isfinite(found) else None
