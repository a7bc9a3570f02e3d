"""Measures of claims about mechanisms and remedies (L24): gaps between arms, doses, interactions, signs within runs.

Each is a pure function of the runs of a part's arms, one value a seed. A claim says where a value is read:

    task = N     at the last epoch of that task (of metrics of its first epoch, there); -1: of the last task
    last = K     mean over the last K tasks
    else         the last value that was recorded
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.finding import Arms, Finding, over_runs
from ncpl_cli.analysis.measures import less
from ncpl_cli.analysis.study import Series

Options = Mapping[str, Any]

CLIPPED = "clipped mean loss"
"""What may be asked beside a regression: the loss over the last task, mean of min(loss over target variance, 1)."""


def value_of(series: Series, address: str, options: Options) -> float:
    """A metric of a run where a claim reads it; NaN where it was not recorded."""
    if address == CLIPPED:
        return clipped_loss(series)
    if "task" in options or "last" in options:
        values = series.per_task(address)
        if "last" in options:
            values = values[-options["last"] :]
            return float(values.mean()) if len(values) else np.nan
        return float(values[options["task"]]) if -len(values) <= options["task"] < len(values) else np.nan
    kept = series.column(address)
    kept = kept[np.isfinite(kept)]
    return float(kept[-1]) if len(kept) else np.nan


def clipped_loss(series: Series) -> float:
    """Mean over the last task's epochs of the online loss over the targets' variance, at most 1 an epoch: what was not
    learned in time counts, and how far it was off at first does not."""
    settings = series.run.settings
    deviation = settings.get("scale", 1.0) if settings.get("refit") == "same" else 1.0
    losses = series.column("online_loss")[series.task == series.task[-1]] / float(deviation) ** 2  # type: ignore[arg-type]
    return float(np.minimum(losses, 1.0).mean()) if len(losses) else np.nan


def by_seed(arms: Arms, arm: str, address: str, options: Options) -> dict[int, float]:
    """A metric of an arm by seed."""
    return {series.run.seed: value_of(series, address, options) for series in arms.get(arm, ())}


def _beside(arms: Arms, names: Sequence[str], options: Options) -> dict[str, float]:
    """The means of arms, of the claim's metric and of those named beside it."""
    found: dict[str, float] = {}
    others = options.get("beside", ())
    for address in (options["metric"], *others):
        for arm in dict.fromkeys((*names, *options.get("also", ()))):
            if one := over_runs(list(by_seed(arms, arm, address, options).values())):
                found[f"{address}, {arm}" if others else arm] = one.value
    return found


# measures ----------------------------------------------------------------------------------------------------------


def arm_value(arms: Arms, options: Options) -> Finding | None:
    """A metric of one arm; beside it, others."""
    found = over_runs(list(by_seed(arms, options["arm"], options["metric"], options).values()))
    if found is None:
        return None
    beside = _beside(arms, [], options)
    if "last" in options and options["last"] > 1:
        values = [s.per_task(options["metric"])[-options["last"] :] for s in arms.get(options["arm"], ())]
        whole = [v for v in values if len(v) == options["last"]]
        means = np.stack(whole).mean(0) if whole else np.array([])
        beside |= {f"task {i - len(means)} from the end": float(v) for i, v in enumerate(means) if np.isfinite(v)}
    return Finding(found.value, found.ci95, found.runs, beside)


def arm_gap(arms: Arms, options: Options) -> Finding | None:
    """A metric of `arm` minus that of `plain`, paired by seed."""
    one, other = (by_seed(arms, options[key], options["metric"], options) for key in ("arm", "plain"))
    found = over_runs(less(one, other))
    if found is None:
        return None
    return Finding(found.value, found.ci95, found.runs, _beside(arms, [options["arm"], options["plain"]], options))


def smallest_gap(arms: Arms, options: Options) -> Finding | None:
    """The smallest of several gaps between arms (`pairs` of higher and lower), paired by seed: above 0, all hold."""
    found = []
    for high, low in options["pairs"]:
        gap = over_runs(less(*(by_seed(arms, arm, options["metric"], options) for arm in (high, low))))
        if gap is None:
            return None
        found.append((gap, f"{high} minus {low}"))
    smallest, which = min(found, key=lambda one: one[0].value)
    gaps = {f"{name}": gap.value for gap, name in found}
    beside = _beside(arms, [arm for pair in options["pairs"] for arm in pair], options) | gaps
    return Finding(smallest.value, smallest.ci95, smallest.runs, beside, f"the smallest gap is {which}")


def rising(arms: Arms, options: Options) -> Finding | None:
    """The smallest step from each arm of `arms` to the next, paired by seed: above 0, they rise in that order."""
    pairs = [[high, low] for low, high in itertools.pairwise(options["arms"])]
    return smallest_gap(arms, {**options, "pairs": pairs})


def dose(arms: Arms, options: Options) -> Finding | None:
    """Spearman's correlation of a metric with a numeric setting over `arms`, one a seed.

    Of a few doses it is often exactly 1, where Fisher's z has no interval: a t interval of the seeds' values, within
    -1 and 1.
    """
    found = {arm: by_seed(arms, arm, options["metric"], options) for arm in options["arms"]}
    doses = {arm: {float(s.run.settings.get(options["setting"], np.nan)) for s in arms.get(arm, ())} for arm in found}  # type: ignore[arg-type]
    if any(len(of) != 1 for of in doses.values()):
        return None
    x = np.array([next(iter(of)) for of in doses.values()])
    seeds = sorted(set.intersection(*(set(of) for of in found.values())))
    rows = [np.array([of[seed] for of in found.values()]) for seed in seeds]
    r = [_spearman(x, y) for y in rows if np.isfinite(y).all()]
    one = over_runs(r, _beside(arms, options["arms"], options))
    if one is None or one.ci95 is None:
        return one
    return replace(one, ci95=(max(one.ci95[0], -1.0), min(one.ci95[1], 1.0)))


def _spearman(x: Any, y: Any) -> float:
    """Of a few points, where 1 is an answer and not a reason to doubt the data."""
    a, b = (statistics.ranks(values) for values in (x, y))
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


def interaction(arms: Arms, options: Options) -> Finding | None:
    """both - one - other + none of four `arms`, paired by seed: 0 where two effects add up, below 0 where less.

    Beside it both single effects, their sum and what the pair gives.
    """
    both, one, other, none = (by_seed(arms, arm, options["metric"], options) for arm in options["arms"])
    seeds = sorted(both.keys() & one.keys() & other.keys() & none.keys())
    found = over_runs([both[s] - one[s] - other[s] + none[s] for s in seeds])
    if found is None:
        return None
    names = options["arms"]
    effects = {
        f"{names[1]} minus {names[3]}": [one[s] - none[s] for s in seeds],
        f"{names[2]} minus {names[3]}": [other[s] - none[s] for s in seeds],
        f"{names[0]} minus {names[3]}": [both[s] - none[s] for s in seeds],
        "the sum of the single effects": [one[s] + other[s] - 2 * none[s] for s in seeds],
    }
    beside = {name: float(np.nanmean(values)) for name, values in effects.items()}
    return Finding(found.value, found.ci95, found.runs, _beside(arms, names, options) | beside)


def task_change(arms: Arms, options: Options) -> Finding | None:
    """A metric of one arm at its last task minus that at task `since`."""
    found, ends = [], []
    for series in arms.get(options["arm"], ()):
        values = series.per_task(options["metric"])
        if len(values) > options["since"]:
            found.append(float(values[-1] - values[options["since"]]))
            ends.append((float(values[options["since"]]), float(values[-1])))
    one = over_runs(found)
    if one is None:
        return None
    means = np.nanmean(ends, axis=0)
    beside = {f"task {options['since']}": float(means[0]), "last task": float(means[1])}
    return Finding(one.value, one.ci95, one.runs, beside)


def signs_within(arms: Arms, options: Options) -> Finding | None:
    """r of x with y over the tasks of each run, by arm; of the arms named in `signs` the one furthest from its sign.

    signs  {arm: 1 or -1}: the r of an arm counts with its sign, so that above 0 all are as they should be
    Tasks from `since` (1) on: the first begins from an initialisation. Interval from the runs' Fisher z.
    """
    beside: dict[str, float] = {}
    found: list[Finding] = []
    for arm in (*options["signs"], *options.get("also", ())):
        one = _of_r(np.array([_r_over_tasks(series, options) for series in arms.get(arm, ())]), {})
        if one is None:
            if arm in options["signs"]:
                return None
            continue
        beside[f"r in {arm}"] = one.value
        if arm in options["signs"]:
            ends = one.ci95 and sorted(options["signs"][arm] * end for end in one.ci95)
            found.append(
                Finding(options["signs"][arm] * one.value, (ends[0], ends[1]) if ends else None, one.runs)
            )  # fmt: skip
    smallest = min(found, key=lambda one: one.value)
    return Finding(smallest.value, smallest.ci95, smallest.runs, beside)


def _r_over_tasks(series: Series, options: Options) -> float:
    since = options.get("since", 1)
    x, y = (series.per_task(options[key])[since:] for key in "xy")
    kept = np.isfinite(x) & np.isfinite(y)
    if kept.sum() < statistics.FEWEST_POINTS:
        return np.nan
    return float(statistics.pearson(x[kept], y[kept]))


def _of_r(r: Any, beside: Mapping[str, float]) -> Finding | None:
    found = statistics.summary(r)
    if found.mean_r is None or found.fisher_mean_r is None:
        return None
    return Finding(found.fisher_mean_r, found.ci95, found.n, {**beside, "mean r": found.mean_r})


MEASURES: dict[str, Callable[[Arms, Options], Finding | None]] = {
    f.__name__: f
    for f in (arm_value, arm_gap, smallest_gap, rising, dose, interaction, task_change, signs_within)
}  # fmt: skip
