"""Measures of the questions that B24 leaves open: onset of collapse, placebos of equal cost, doses, what goes with nc1.

Each is a pure function of the runs of a part's arms, one value a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ncpl_cli.analysis import doses, statistics
from ncpl_cli.analysis.finding import Arms, Finding, over_runs
from ncpl_cli.analysis.outcomes import LAST_TASKS
from ncpl_cli.analysis.study import Series
from ncpl_cli.analysis.through import through as split

Options = Mapping[str, Any]

QUICK = 9
"""Resampling gives p-values only, which no claim reads."""


def onset(series: Series, metric: str = "nc1") -> float:
    """The first epoch of the first task at which a metric is below half of what it was after epoch 1, and stays there
    to the task's end; NaN where that does not happen."""
    ends = series.task_ends()
    if not len(ends):
        return np.nan
    values, epochs = series.column(metric)[: ends[0] + 1], series.task_epoch[: ends[0] + 1]
    kept = np.isfinite(values)
    values, epochs = values[kept], epochs[kept]
    if len(values) < 2:
        return np.nan
    below = values < values[0] / 2
    if not below[-1]:
        return np.nan
    last_above = np.flatnonzero(~below)[-1]
    return float(epochs[last_above + 1])


def late_loss(series: Series) -> float:
    """Mean plasticity loss of the last ten tasks (of fewer than twenty the later half)."""
    values = series.per_task("plasticity_loss")[1:]
    last = values[-min(LAST_TASKS, max(1, len(values) // 2)) :]
    return float(np.mean(last)) if len(last) and np.isfinite(last).all() else np.nan


def later_accuracy(series: Series) -> float:
    """Mean first-epoch accuracy of the tasks after the first: what phase 1 is for."""
    values = series.per_task("online_accuracy")[1:]
    return float(np.mean(values)) if len(values) and np.isfinite(values).all() else np.nan


def phase_1(series: Series) -> float:
    """Train accuracy at the end of the first task."""
    values = series.per_task("train_accuracy")
    return float(values[0]) if len(values) else np.nan


# measures ----------------------------------------------------------------------------------------------------------


def onset_r(arms: Arms, options: Options) -> Finding | None:
    """Over arms, r of nc1's onset in the first task with the plasticity loss of the last ones: one r a seed.

    An arm whose nc1 does not halve counts at the epoch after the task's last one. Beside it both, by arm.
    """
    names = [name for name in options.get("arms", list(arms)) if arms.get(name)]
    table: dict[int, list[tuple[float, float]]] = {}
    beside: dict[str, float] = {}
    for name in names:
        pairs = []
        for series in arms[name]:
            epoch = onset(series)
            never = float(series.task_epoch[series.task_ends()[0]]) + 1
            pairs.append((never if np.isnan(epoch) else epoch, late_loss(series)))
            table.setdefault(series.run.seed, []).append(pairs[-1])
        beside |= {f"onset, {name}": float(np.mean([e for e, _ in pairs])),
                   f"loss, {name}": float(np.mean([v for _, v in pairs]))}  # fmt: skip
    rows = [np.array(pairs) for pairs in table.values() if len(pairs) == len(names)]
    return _of_r([statistics.pearson(row[:, 0], row[:, 1]) for row in rows if np.isfinite(row).all()], beside)


def onset_of(arms: Arms, options: Options) -> Finding | None:
    """The onset of nc1 in an arm."""
    found = over_runs([onset(s) for s in arms.get(options["arm"], ())])
    return found and Finding(found.value, found.ci95, found.runs)


def r_gap(arms: Arms, options: Options) -> Finding | None:
    """r of x with y over the tasks of `arm` minus that of `plain`, paired by seed in Fisher's z; beside it both.

    Where only `arm` is named, its own r.
    """
    r = {key: {s.run.seed: _r_of(s, options) for s in arms.get(options[key], ())}
         for key in ("arm", "plain") if key in options}  # fmt: skip
    means = {f"r, {options[key]}": one.value for key, of in r.items() if (one := _of_r(list(of.values()), {}))}
    if "plain" not in r:
        return _of_r(list(r["arm"].values()), {})
    seeds = sorted(r["arm"].keys() & r["plain"].keys())
    return over_runs([float(np.arctanh(r["arm"][s]) - np.arctanh(r["plain"][s])) for s in seeds], means)


def _r_of(series: Series, options: Options) -> float:
    x, y = (series.per_task(options[key])[1:] for key in "xy")
    kept = np.isfinite(x) & np.isfinite(y)
    return float(statistics.pearson(x[kept], y[kept]))


def _of_r(r: Sequence[Any], beside: Mapping[str, float]) -> Finding | None:
    found = statistics.summary(np.array(r, dtype=np.float64))
    if found.mean_r is None or found.fisher_mean_r is None:
        return None
    return Finding(found.fisher_mean_r, found.ci95, found.n, {"mean r": found.mean_r, **beside})


def over_placebo(arms: Arms, options: Options) -> Finding | None:
    """Later accuracy under a regulariser minus under the placebo of equal cost, paired by seed, mean over strengths.

    arms      the regulariser's strengths; `placebos`: those of the placebo, the plain arm (strength 0) among them
    Each strength is held against the placebo whose mean phase-1 train accuracy is nearest, found without looking at
    what came later; strengths with none within .02 are left out. Beside it the gain over the plain arm, the matches.
    """
    costs = {name: _mean(phase_1, arms.get(name, ())) for name in (*options["arms"], *options["placebos"])}
    found: dict[int, list[float]] = {}
    beside: dict[str, float] = {}
    for name in options["arms"]:
        near = [p for p in options["placebos"] if abs(costs[p] - costs[name]) <= 0.02 + 1e-12]
        beside[f"phase-1 train accuracy, {name}"] = costs[name]
        if not near:
            continue
        placebo = min(near, key=lambda p: abs(costs[p] - costs[name]))
        beside[f"phase-1 train accuracy, its match {placebo}"] = costs[placebo]
        theirs = {s.run.seed: later_accuracy(s) for s in arms[placebo]}
        for series in arms[name]:
            if series.run.seed in theirs:
                found.setdefault(series.run.seed, []).append(later_accuracy(series) - theirs[series.run.seed])
    plain = {s.run.seed: later_accuracy(s) for s in arms.get(options["plain"], ())}
    treated = [s for name in options["arms"] for s in arms.get(name, ()) if s.run.seed in plain]
    raw = [later_accuracy(s) - plain[s.run.seed] for s in treated]
    if raw:
        beside["gain over the plain arm"] = float(np.nanmean(raw))
    whole = max((len(of) for of in found.values()), default=0)
    return over_runs([float(np.mean(of)) for of in found.values() if len(of) == whole], beside)


def _mean(read: Callable[[Series], float], runs: Sequence[Series]) -> float:
    values = [v for s in runs if np.isfinite(v := read(s))]
    return float(np.mean(values)) if values else np.nan


def dose_slope(arms: Arms, options: Options) -> Finding | None:
    """Slope of later accuracy over `doses` ({arm: dose}; positive holds back), one a seed; beside it the bend."""
    values: dict[int, dict[float, float]] = {}
    for name, dose in options["doses"].items():
        for series in arms.get(name, ()):
            if np.isfinite(later := later_accuracy(series)):
                values.setdefault(series.run.seed, {})[float(dose)] = later
    of = doses.dose_of(options.get("of", "dose"), values, QUICK)
    if of.slope.mean is None:
        return None
    beside = {f"later accuracy, {name}": _mean(later_accuracy, arms.get(name, ())) for name in options["doses"]}
    beside |= {f"phase-1 train accuracy, {name}": _mean(phase_1, arms.get(name, ())) for name in options["doses"]}
    beside |= {"bend": of.bend.mean} if of.bend.mean is not None else {}
    return Finding(of.slope.mean, of.slope.ci95, len(of.slope.per_seed), beside)


def through(arms: Arms, options: Options) -> Finding | None:
    """What of an arm's effect on `y` goes with its effect on `mediator` before it (see analysis/through).

    The indirect effect, or with `of = "share"` the share, which there is only where the total effect is told from 0.
    """
    found = split(arms.get(options["arm"], ()), arms.get(options["plain"], ()), options["y"], options["mediator"],
                  flips=QUICK)  # fmt: skip
    if found.indirect is None or found.indirect.mean is None:
        return None
    beside = {"total effect": found.total.mean, f"effect on {found.mediator}": found.change.mean,
              "indirect": found.indirect.mean, "share": found.share}  # fmt: skip
    known = {name: value for name, value in beside.items() if value is not None}
    said = f"slope {found.slope}; {found.undefined or 'associated, not caused'}"
    runs = len(found.indirect.per_seed)
    if options.get("of") == "share":
        return None if found.share is None else Finding(found.share, found.share_ci95, runs, known, said)
    return Finding(found.indirect.mean, found.indirect.ci95, runs, known, said)


MEASURES: dict[str, Callable[[Arms, Options], Finding | None]] = {
    f.__name__: f for f in (onset_r, onset_of, r_gap, over_placebo, dose_slope, through)
}
