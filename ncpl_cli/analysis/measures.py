"""Measures that any study's claims may name: pure functions of the runs of its arms, one value a seed.

A metric is written as everywhere, `nc1@test/layer1`. `since`, `until`: an epoch (0 = untrained), `end` (the last one
recorded) or `best`: the epoch at which the *other* seeds are highest on average, since the best epoch of a seed itself
selects its noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.finding import Arms, Finding, over_runs
from ncpl_cli.analysis.study import Series

Options = Mapping[str, Any]

LOST = 0.05
"""An arm whose train accuracy ends further below the plain arm's was not trained (as compare flags it)."""


def at(series: Series, address: str, when: int | str) -> float:
    """A metric after an epoch, or at the last epoch that has it; NaN where it was not recorded."""
    if when == 0:
        return series.untrained.get(address, np.nan)
    column = series.column(address)
    if when == "end":
        kept = column[np.isfinite(column)]
        return float(kept[-1]) if len(kept) else np.nan
    kept = column[series.epoch == when]
    return float(kept[0]) if len(kept) else np.nan


def best_epoch(others: Sequence[Series], address: str) -> int | None:
    """The epoch at which the mean of these runs is highest, of those that all of them recorded; None without one."""
    if not others:
        return None
    columns = [dict(zip(s.epoch.tolist(), s.column(address).tolist(), strict=True)) for s in others]
    shared = [e for e in columns[0] if all(np.isfinite(c.get(e, np.nan)) for c in columns)]
    return int(max(shared, key=lambda e: (np.mean([c[e] for c in columns]), -e))) if shared else None


def per_seed(runs: Sequence[Series], address: str, when: int | str) -> dict[int, float]:
    """A metric by seed."""
    if when != "best":
        return {s.run.seed: at(s, address, when) for s in runs}
    found = {}
    for series in runs:
        epoch = best_epoch([s for s in runs if s.run.seed != series.run.seed], address)
        found[series.run.seed] = np.nan if epoch is None else at(series, address, epoch)
    return found


def less(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """One minus the other, for each seed that both have."""
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def named(options: Options) -> list[str]:
    """The metrics of `metrics`, or the one of `metric`."""
    return list(options["metrics"]) if "metrics" in options else [options["metric"]]


# measures ----------------------------------------------------------------------------------------------------------


def change(arms: Arms, options: Options) -> Finding | None:
    """A metric at `until` (end) minus at `since` in one arm; of several metrics the highest change: all lie below it.

    With `extreme = "lowest"` the lowest of them; with `scale = "ratio"` the one over the other, as `ratio` averages.
    Beside it each metric's change and its values at both ends.
    """
    runs, since, until = arms.get(options["arm"], ()), options.get("since", 0), options.get("until", "end")
    ratios = options.get("scale") == "ratio"
    found: list[Finding] = []
    beside: dict[str, float] = {}
    for metric in named(options):
        before, after = per_seed(runs, metric, since), per_seed(runs, metric, until)
        one = _geometric(after, before) if ratios else over_runs(less(after, before))
        if one is None:
            return None
        found.append(one)
        ends = [over_runs(list(values.values())) for values in (before, after)]
        beside |= {f"{metric} {word}": e.value for word, e in zip(("before", "after"), ends, strict=True) if e}
        if len(named(options)) > 1:
            beside[f"change of {metric}"] = one.value
    pick = min if options.get("extreme") == "lowest" else max
    value = pick(found, key=lambda one: one.value)
    return Finding(value.value, value.ci95, value.runs, beside | _context(runs, options))


def difference(arms: Arms, options: Options) -> Finding | None:
    """A metric at the end (or `at`) of one arm minus that of the plain arm, paired by seed; beside it, both.

    Void where the arm has hardly been trained (what a treatment ruins is no effect of collapse), and where the metric
    of `treated` has not moved its `way` (higher, lower): an arm of more collapse must have it.
    """
    metric, when = options["metric"], options.get("at", "end")
    both = [arms.get(options[key], ()) for key in ("arm", "plain")]
    one, other = (per_seed(runs, metric, when) for runs in both)
    found = over_runs(less(one, other))
    if found is None:
        return None
    beside: dict[str, float] = {}
    for key, runs in zip(("arm", "plain"), both, strict=True):
        for name in (metric, *options.get("beside", ())):
            value = over_runs(list(per_seed(runs, name, when).values()))
            beside |= {f"{name}, {options[key]}": value.value} if value else {}
    void = _untrained(options, *both) or _untreated(options, *both)
    return Finding(found.value, found.ci95, found.runs, beside | _context(both[0], options), void=void)


def _untrained(options: Options, arm: Sequence[Series], plain: Sequence[Series]) -> str:
    """In a sentence, that training itself failed in an arm; empty where it did not."""
    own, other = (over_runs(list(per_seed(runs, "train_accuracy", "end").values())) for runs in (arm, plain))
    if own is None or other is None or own.value >= other.value - LOST:
        return ""
    return (
        f"training itself failed in this arm: train accuracy {own.value:.2f} and {other.value:.2f}, {options['arm']} "
        f"and {options['plain']}"
    )


def _untreated(options: Options, arm: Sequence[Series], plain: Sequence[Series]) -> str:
    """In a sentence, that an arm was not moved as it was meant to be (`treated`: metric and way); else empty."""
    if not (treated := options.get("treated")):
        return ""
    metric, way = treated["metric"], treated["way"]
    moved = over_runs(less(per_seed(arm, metric, "end"), per_seed(plain, metric, "end")))
    if moved is None or (moved.value > 0) is (way == "higher"):
        return ""
    return f"{metric} is not {way} in this arm ({moved.value:+.3g} against {options['plain']}), as was meant"


def over_pixels(arms: Arms, options: Options) -> Finding | None:
    """An error on raw pixels minus that on the features at the end (or `at`): above 0, features are worth having."""
    runs, metric, when = arms.get(options["arm"], ()), options["metric"], options.get("at", "end")
    pixels = f"{metric.partition('/')[0]}/input"
    found = over_runs([at(s, pixels, 0) - at(s, metric, when) for s in runs])
    if found is None:
        return None
    beside = {name: one.value for name in (metric, *options.get("beside", ()))
              if (one := over_runs([at(s, name, when) for s in runs]))}  # fmt: skip
    return Finding(found.value, found.ci95, found.runs, beside | _context(runs, options))


def ordering(arms: Arms, options: Options) -> Finding | None:
    """The smallest step, in one arm, from each metric to the next of `metrics`: above 0, they rise in that order.

    Metrics that no run has are left out (layers of another network). Beside it every value.
    """
    runs, when = arms.get(options["arm"], ()), options.get("at", "end")
    values = {metric: per_seed(runs, metric, when) for metric in options["metrics"]}
    known = {m: of for m, of in values.items() if any(np.isfinite(v) for v in of.values())}
    chain = list(known.values())
    steps = [over_runs(less(high, low)) for low, high in itertools.pairwise(chain)]
    found = [step for step in steps if step is not None]
    if not found or len(found) < len(chain) - 1:
        return None
    means = {m: over_runs(list(of.values())) for m, of in known.items()}
    smallest = min(found, key=lambda step: step.value)
    beside = {m: one.value for m, one in means.items() if one}
    return Finding(smallest.value, smallest.ci95, smallest.runs, beside)


def ratio(arms: Arms, options: Options) -> Finding | None:
    """A metric over another at the end (or `at`) of one arm: the geometric mean over runs, its interval in logarithms.

    Beside it the same at the epochs `beside_at`.
    """
    runs = arms.get(options["arm"], ())

    def of(epoch: int | str) -> Finding | None:
        above, below = (per_seed(runs, options[key], epoch) for key in ("metric", "over"))
        return _geometric(above, below)

    found = of(options.get("at", "end"))
    if found is None:
        return None
    beside = {f"epoch {e}": one.value for e in options.get("beside_at", ()) if (one := of(e))}
    return Finding(found.value, found.ci95, found.runs, beside)


def _geometric(above: Mapping[int, float], below: Mapping[int, float]) -> Finding | None:
    """The geometric mean over seeds of one value over another; its interval is that of the mean logarithm."""
    seeds = sorted(above.keys() & below.keys())
    found = over_runs([float(np.log(above[s] / below[s])) for s in seeds if above[s] > 0 and below[s] > 0])
    if found is None:
        return None
    interval = None if found.ci95 is None else (float(np.exp(found.ci95[0])), float(np.exp(found.ci95[1])))
    return Finding(float(np.exp(found.value)), interval, found.runs)


def r_over_arms(arms: Arms, options: Options) -> Finding | None:
    """Pearson's r of x with y over the named arms at their end, one r a seed; interval from the seeds' Fisher z."""
    values = {key: [per_seed(arms.get(a, ()), options[key], "end") for a in options["arms"]] for key in "xy"}
    seeds = sorted(set.intersection(*(set(of) for of in (*values["x"], *values["y"]))))
    table = [[np.array([of[seed] for of in values[key]]) for key in "xy"] for seed in seeds]
    r = np.array([statistics.pearson(x, y) for x, y in table if np.isfinite(x).all() and np.isfinite(y).all()])
    found = statistics.summary(r)
    if found.mean_r is None or found.fisher_mean_r is None:
        return None
    beside = {"mean r": found.mean_r, "lowest": float(np.nanmin(r)), "highest": float(np.nanmax(r))}
    return Finding(found.fisher_mean_r, found.ci95, found.n, beside)


def _context(runs: Sequence[Series], options: Options) -> dict[str, float]:
    """What an error on unseen classes must be read beside: raw pixels, and the untrained network."""
    found: dict[str, float] = {}
    for metric in named(options):
        if metric.startswith(("few_shot", "readout")):
            place = metric if "@" in metric else f"{metric}@train"
            for word, address in (("raw pixels", f"{place.partition('/')[0]}/input"), ("untrained network", metric)):
                value = over_runs([at(s, address, 0) for s in runs])
                found |= {f"{metric}, {word}": value.value} if value else {}
    return found


MEASURES: dict[str, Callable[[Arms, Options], Finding | None]] = {
    f.__name__: f for f in (change, difference, over_pixels, ordering, ratio, r_over_arms)
}

NAMES = ("metric", "metrics", "over", "x", "y", "beside", "reads")
"""Options of a claim that name metrics."""


def addresses(options: Options) -> list[str]:
    """Every metric that a claim's measure reads, the raw pixels' among them."""
    found: list[str] = [options["treated"]["metric"]] if "treated" in options else []
    for key in NAMES:
        named_here = options.get(key, ())
        found += [named_here] if isinstance(named_here, str) else list(named_here)
    pixels = [f"{one.partition('/')[0]}/input" for one in found if one.startswith(("few_shot", "readout"))]
    return list(dict.fromkeys([*found, *pixels]))
