"""`compare --through nc1`: how much of an arm's effect goes with its effect on collapse, paired by seed.

Of a seed s and a place k (a task, a probe) that both arms have, T = y of the arm minus y of its plain arm, and M = the
same of the mediator *before* it: at the end of the task before, or at the epoch that a probe branches off. Then

    T_sk = direct_s + b_s M_sk,    indirect_s = b_s mean_k M_sk,    total_s = mean_k T_sk

with b_s the slope of T on M within the seed, after a straight line in the place is taken out of both: effects that both
build up over tasks are no evidence that one carries the other. Where a seed has too few places, b is the slope of the
seeds' means over seeds (Judd, Kenny & McClelland 2001), and each seed has its jackknife pseudo-value. Either way a
seed has one indirect effect, so that its interval is t over seeds; the share indirect / total is a ratio of two paired
means, with Fieller's (1954) interval, and there is none where the total effect is not told from 0.

A line over seeds costs one more degree of freedom than a mean: n - 2. With n - 1 intervals of ten seeds hold the truth
92.8 times of 100, since an indirect effect is a product, and skewed; where there is no slope at all, intervals of five
seeds hold it 97.6 times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.gain import Gain, over_seeds
from ncpl_cli.analysis.study import Series
from ncpl_cli.analysis.words import count

Array = NDArray[np.float64]

FEWEST_PLACES = 6
"""Within a seed: a straight line and a slope leave three degrees of freedom."""

FEWEST_SEEDS = 4
"""Over seeds: a line through three points left out one by one is a line through two."""

ASSUMPTIONS = (
    "Associated, not caused: only the arm was set, {m} was not. The share is causal only if nothing else drives both "
    "{m} and {y} once the arm is fixed, if {y} does not act back on the {m} that is held against it, and if the effect "
    "of {m} is the same straight line in both arms.",
    "{m} is taken before {y} (at the end of the task before, or at the epoch a probe branches off): in the same task "
    "plasticity also decides collapse.",
)
"""What a share would need to be read causally, in words."""


@dataclass(frozen=True)
class Through:
    """An arm's effect on y, split by its effect on a mediator; every `Gain` is over paired seeds.

    total, change   the arm's effect on y, and on the mediator before it
    indirect, direct  what goes with the change of the mediator, and the rest: total = indirect + direct in every seed
    share, share_ci95  indirect / total with Fieller's interval; None where the total effect's interval holds 0
    slope           how b was found: `within seeds`, over so many places a seed, or `over seeds`
    undefined       why there is no indirect effect, or no share
    """

    mediator: str
    y: str
    total: Gain
    change: Gain
    indirect: Gain | None
    direct: Gain | None
    share: float | None
    share_ci95: tuple[float, float] | None
    slope: str
    undefined: str = ""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What must hold for the share to be causal."""
        return tuple(text.format(m=self.mediator, y=self.y) for text in ASSUMPTIONS)

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "mediator": self.mediator, "y": self.y, "total": self.total.to_json(), "change": self.change.to_json(),
            "indirect": self.indirect and self.indirect.to_json(), "direct": self.direct and self.direct.to_json(),
            "share": self.share, "share_ci95": self.share_ci95 and list(self.share_ci95), "slope": self.slope,
            "undefined": self.undefined or None, "assumptions": list(self.assumptions),
        }  # fmt: skip


def through(
    arm: Sequence[Series], plain: Sequence[Series], y: str, mediator: str, *, flips: int = resampling.FLIPS,
    seed: int = 0,
) -> Through:  # fmt: skip
    """The effect of an arm on y that goes with its effect on a mediator, over the seeds that both arms have."""
    theirs = {s.run.seed: s for s in plain}
    paired = {s.run.seed: differences(s, theirs[s.run.seed], y, mediator) for s in arm if s.run.seed in theirs}
    paired = {s: of for s, of in paired.items() if len(of[0])}
    t = {s: float(of[1].mean()) for s, of in paired.items()}
    m = {s: float(of[2].mean()) for s, of in paired.items()}

    def gain(values: Mapping[int, float], spent: int = 1) -> Gain:
        return over_seeds(values, flips, seed, spent=spent)

    total, change = gain(t), gain(m)
    slopes = {s: slope_within(*of) for s, of in paired.items()}
    spent = 1
    places = min((len(of[0]) for of in paired.values()), default=0)
    if paired and all(math.isfinite(b) for b in slopes.values()):
        indirect = {s: slopes[s] * m[s] for s in paired}
        how = f"within seeds, over {count(places, 'place')}" + (
            " and more" * (len({len(of[0]) for of in paired.values()}) > 1)
        )
    elif len(paired) >= FEWEST_SEEDS:
        values = pseudo_values(np.array(list(t.values())), np.array(list(m.values())))
        indirect = dict(zip(paired, values.tolist(), strict=True))
        how, spent = f"over {len(paired)} seeds", 2  # the line over seeds, and the mean
    else:
        why = "no seed has both at the same places" if not paired else (
            f"{count(len(paired), 'paired seed')} of {count(places, 'place')}: an indirect effect needs "
            f"{FEWEST_PLACES} places a seed, or {FEWEST_SEEDS} seeds"
        )  # fmt: skip
        return Through(mediator, y, total, change, None, None, None, None, "none", why)
    if not all(math.isfinite(v) for v in indirect.values()):
        return Through(mediator, y, total, change, None, None, None, None, how, f"{mediator} does not vary")
    direct = gain({s: t[s] - indirect[s] for s in indirect}, spent)
    share, interval, why = share_of(np.array(list(indirect.values())), np.array(list(t.values())), spent)
    return Through(mediator, y, total, change, gain(indirect, spent), direct, share, interval, how, why)


def differences(arm: Series, plain: Series, y: str, mediator: str) -> tuple[Array, Array, Array]:
    """(places, T, M) of one seed: y of the arm minus the plain arm's, and the same of the mediator before it."""
    a, b = points(arm, y, mediator), points(plain, y, mediator)
    common, at_a, at_b = np.intersect1d(a[0], b[0], return_indices=True)
    return common, statistics.difference(a[1][at_a], b[1][at_b]), statistics.difference(a[2][at_a], b[2][at_b])


def points(series: Series, y: str, mediator: str) -> tuple[Array, Array, Array]:
    """(places, y, mediator before it) of one run, where both are defined: its tasks after the first, or its rows."""
    if series.tasks > 1:
        stop = -1 if series.unfinished_task() else None
        places = series.task[series.task_ends()][1:stop]
        of_y, before = series.per_task(y)[1:stop], series.per_task(mediator)[:-1][: len(places)]
    else:
        places, of_y, before = series.epoch, series.column(y), series.column(mediator)
    rows = np.isfinite(of_y) & np.isfinite(before)
    return places[rows], of_y[rows], before[rows]


def slope_within(places: Array, t: Array, m: Array) -> float:
    """Slope of T on M, a straight line in the place taken out of both; NaN below six places or where M is a line."""
    if len(places) < FEWEST_PLACES:
        return math.nan
    left = statistics.detrended(np.stack([t, m]), places)
    scatter = float(left[1] @ left[1])
    return float(left[0] @ left[1]) / scatter if scatter > 0 else math.nan


def pseudo_values(t: Array, m: Array) -> Array:
    """Jackknife pseudo-values n I - (n - 1) I_(-i) of I = (slope of T on M over seeds) x mean M."""
    n = len(t)
    whole = _over_seeds(t, m)
    return np.array([n * whole - (n - 1) * _over_seeds(np.delete(t, i), np.delete(m, i)) for i in range(n)])


def _over_seeds(t: Array, m: Array) -> float:
    if statistics.constant(m):
        return math.nan
    d = m - m.mean()
    return float(d @ (t - t.mean())) / float(d @ d) * float(m.mean())


def share_of(
    indirect: Array, total: Array, spent: int = 1
) -> tuple[float | None, tuple[float, float] | None, str]:  # fmt: skip
    """mean(indirect) / mean(total) of paired values with Fieller's 95 % interval, and why there is none.

    spent  degrees of freedom that the values have cost.

    All ratios r with |mean(I - r T)| <= t s(I - r T) / sqrt(n): the roots of a quadratic, which enclose an interval
    exactly where the interval of the total does not hold 0.
    """
    interval = statistics.t_interval(total, spent)
    if interval is None:
        return None, None, "one seed has no interval"
    if interval[0] <= 0 <= interval[1]:
        beyond = statistics.t_interval(total)
        after = "" if beyond is None or beyond[0] <= 0 <= beyond[1] else ", once the slope has cost a degree of freedom"
        return None, None, f"the interval of the total effect holds 0{after}: there is nothing to have a share of"
    from scipy.special import stdtrit

    n = len(total)
    g = float(stdtrit(n - spent, 0.975)) ** 2 / n
    i, t = float(indirect.mean()), float(total.mean())
    covariance = np.cov(indirect, total)
    a = t * t - g * float(covariance[1, 1])
    b = i * t - g * float(covariance[0, 1])
    c = i * i - g * float(covariance[0, 0])
    half = math.sqrt(max(b * b - a * c, 0.0))
    return i / t, ((b - half) / a, (b + half) / a), ""


def sentence(of: Through) -> str:
    """What a person is told: the share where there is one, with what it is a share of."""
    from ncpl_cli.analysis.words import rounded

    def told(gain: Gain) -> str:
        low, high = gain.ci95 or (None, None)
        error = None if low is None or high is None else (high - low) / 4
        text = "–" if gain.mean is None else ("+" if gain.mean > 0 else "") + rounded(gain.mean, error)
        return text if low is None else f"{text} ({rounded(low, error)} to {rounded(high, error)})"

    if of.indirect is None:
        return f"Through {of.mediator}: nothing can be said ({of.undefined})."
    text = (f"Through {of.mediator}, which changes by {told(of.change)}: of the effect on {of.y} of {told(of.total)}, "
            f"{told(of.indirect)} goes with it")  # fmt: skip
    if of.share is None or of.share_ci95 is None:
        return f"{text}; no share: {of.undefined} (slope {of.slope}; associated, not caused)."
    low, high = of.share_ci95
    return f"{text}, a share of {of.share:.2f} ({low:.2f} to {high:.2f}) (slope {of.slope}; associated, not caused)."
