"""`correlate --predict`: which diagnostic, read before task t, ranks how well task t is learned?

Within each run Kendall's tau-b over tasks between the diagnostic at the end of task t - 1 and the outcome of task t; in
warm starts over probes, the diagnostic on the row that the probe branches off. Then over runs, as everywhere: the run
is the unit. A diagnostic that is chosen because it ranks well is judged on seeds that had no part in choosing it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import resampling, statistics
from ncpl_cli.analysis.results import number
from ncpl_cli.analysis.study import WHOLE_TASK, Group, Series, Study, groups
from ncpl_cli.analysis.words import count, p_text, signed
from ncpl_cli.errors import InputError, NothingFound, unknown
from ncpl_cli.records import Address

Array = NDArray[np.float64]

FEWEST_TASKS = 5
"""Tasks below which a rank correlation of a run is undefined."""


@dataclass(frozen=True)
class Predictor:
    """One diagnostic over runs.

    tau        mean over runs; ci95 t over the runs' tau, p by sign flips, p_by paid for all diagnostics
    detrended  the same after a straight line in the task is taken from both: does it rank more than the clock does?
    held_out   mean over seeds of the seed's tau, with the sign that the other seeds give it
    """

    metric: str
    tau: float
    ci95: tuple[float, float] | None
    p: float | None
    detrended: float | None
    held_out: float | None
    runs: int
    tasks: int
    p_by: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        return {
            "metric": self.metric, "tau": self.tau, "ci95": self.ci95 and list(self.ci95), "p_sign_flip": self.p,
            "p_benjamini_yekutieli": self.p_by, "detrended": self.detrended, "held_out": self.held_out,
            "n_runs": self.runs, "tasks": self.tasks,
        }  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """All diagnostics of one group, strongest first.

    held_out  mean over seeds of the tau, on that seed, of the diagnostic that ranks best on the others; p: the share of
              sign flips of whole runs, chosen and judged anew each time, that reach it (an interval from the seeds'
              values would cover in 65 to 80 % only: each helps to choose for the others); `chosen`: which diagnostic
              that was, by left-out seed
    """

    group: Group
    y: str
    unit: str
    predictors: tuple[Predictor, ...]
    held_out: float | None
    held_out_p: float | None
    chosen: dict[int, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """An entry of `groups`."""
        return {
            "scenario": self.group.scenario, "name": self.group.name, "settings": dict(self.group.settings),
            "predict": self.y, "unit": self.unit, "metrics": [p.to_json() for p in self.predictors],
            "held_out": {"tau": self.held_out, "p_sign_flip": self.held_out_p,
                         "chosen": {str(seed): metric for seed, metric in self.chosen.items()}},
            "notes": list(self.notes),
        }  # fmt: skip


def predict(study: Study, y: str, *, flips: int = resampling.FLIPS, seed: int = 0) -> tuple[Prediction, ...]:
    """Every recorded diagnostic against y in every group; raises InputError where nothing can be ranked."""
    if not study.series:
        raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
    y = str(Address.parse(y))
    if y not in study.addresses():
        raise unknown("metric of these runs", y, study.addresses())
    found = [one for group in groups(study) if (one := _group(group, y, flips, seed)) is not None]
    if not found:
        raise NothingFound(
            f"no run has {y} at {FEWEST_TASKS} tasks (or probes) with a diagnostic before them.",
            "train more tasks: --tasks 20",
        )
    return tuple(found)


def pairs_of(series: Series, x: str, y: str) -> tuple[Array, Array, Array]:
    """(place, diagnostic before, outcome) of one run: tasks 1, 2, ..., or the rows that a probe branches off."""
    if series.tasks > 1:
        ends = series.task_ends()
        stop = len(ends) - series.unfinished_task()
        last = series.per_task(x) if Address.parse(x).metric in WHOLE_TASK else series.column(x)[ends]
        return series.task[ends][1:stop], last[: stop - 1], series.per_task(y)[1:stop]
    return series.epoch, series.column(x), series.column(y)


def kendall(x: Array, y: Array) -> float:
    """Kendall's tau-b where both are defined; NaN with fewer than five points or a constant."""
    from scipy.stats import kendalltau

    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < FEWEST_TASKS or statistics.constant(x) or statistics.constant(y):
        return math.nan
    return float(kendalltau(x, y).statistic)


def _group(group: Group, y: str, flips: int, seed: int) -> Prediction | None:
    runs = [s for s in group.series if np.isfinite(s.column(y)).sum() >= FEWEST_TASKS]
    addresses = dict.fromkeys(a for s in runs for a, column in s.columns.items() if np.isfinite(column).any())
    several = any(s.tasks > 1 for s in runs)
    if not several:  # on one row the outcome itself and what follows from it are no diagnostics
        addresses = {a: None for a in addresses if not a.startswith(("probe_", "warm_start_"))}
    addresses.pop(y, None) if not several else None
    taus: dict[str, Array] = {}
    trendless: dict[str, Array] = {}
    tasks = 0
    for x in addresses:
        both = [pairs_of(s, x, y) for s in runs]
        found = np.array([kendall(before, after) for _, before, after in both])
        if np.isfinite(found).any():
            taus[x] = found
            trendless[x] = np.array([_detrended(*of) for of in both])
            tasks = max(tasks, *(int((np.isfinite(b) & np.isfinite(a)).sum()) for _, b, a in both))
    if not taus:
        return None
    names = list(taus)
    table = np.stack([taus[x] for x in names], axis=1)  # runs x diagnostics
    p = resampling.sign_flips(table, flips=flips, seed=seed).p
    predictors = [_predictor(x, table[:, i], p[i], trendless[x], tasks) for i, x in enumerate(names)]
    adjusted = resampling.benjamini_yekutieli(p)
    predictors = [replace(of, p_by=number(q)) for of, q in zip(predictors, adjusted, strict=True)]
    predictors.sort(key=lambda of: (-of.runs, -abs(of.tau)))  # what only some runs have does not lead
    complete = np.flatnonzero(np.isfinite(table).all(0))
    held_out, held_out_p, chosen = _left_out(table[:, complete], flips, seed)
    unit = "task" if several else "probe"
    result = Prediction(
        group, y, unit, tuple(predictors), held_out, held_out_p,
        {of.run.seed: names[complete[j]] for of, j in zip(runs, chosen, strict=False)}, (),
    )  # fmt: skip
    return replace(result, notes=tuple(_notes(result, len(runs))))


def _detrended(place: Array, x: Array, y: Array) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < FEWEST_TASKS:
        return math.nan
    x, y = (statistics.detrended(v[both][None], place[both])[0] for v in (x, y))
    return kendall(x, y)


def _predictor(x: str, tau: Array, p: float, trendless: Array, tasks: int) -> Predictor:
    defined = np.isfinite(tau)
    kept, interval = tau[defined], statistics.t_interval(tau[defined])
    others = [np.delete(kept, i).mean() for i in range(len(kept))] if len(kept) > 1 else []
    held_out = float(np.mean([np.sign(m) * t for m, t in zip(others, kept, strict=True)])) if others else None
    left = trendless[np.isfinite(trendless)]
    return Predictor(
        metric=x, tau=float(kept.mean()), p=number(p), held_out=held_out, runs=len(kept), tasks=tasks,
        ci95=None if interval is None else (max(interval[0], -1.0), min(interval[1], 1.0)),
        detrended=float(left.mean()) if len(left) else None,
    )  # fmt: skip


def _left_out(table: Array, flips: int, seed: int) -> tuple[float | None, float | None, tuple[int, ...]]:
    """Of each run the tau, with its sign, of the diagnostic with the largest |mean tau| over the other runs: their
    mean, its p by sign flips of whole runs (None below six), and which diagnostic it was for each run."""
    runs = len(table)
    if runs < 2 or not table.shape[1]:
        return None, None, ()
    mean, chosen = _judged(np.ones((1, runs)), table)
    if runs < resampling.FEWEST_RUNS:
        return float(mean[0]), None, tuple(chosen[0])
    exact = runs <= math.log2(resampling.EXACT)
    flipped, _ = _judged(resampling.signs(runs, None if exact else flips, seed), table)
    extra = 0 if exact else 1  # the observed one is among all flips, not among drawn ones
    p = (int((flipped >= mean[0] - 1e-12).sum()) + extra) / (len(flipped) + extra)
    return float(mean[0]), p, tuple(chosen[0])


def _judged(signs: Array, table: Array) -> tuple[Array, NDArray[np.intp]]:
    """For every row of signs (draws x runs): the mean of the left-out runs' tau, and what was chosen for each run."""
    sums = signs @ table
    total, chosen = np.zeros(len(signs)), np.empty(signs.shape, dtype=np.intp)
    for i, own in enumerate(table):
        others = sums - signs[:, i : i + 1] * own
        best = chosen[:, i] = np.abs(others).argmax(1)
        total += np.sign(others[np.arange(len(signs)), best]) * signs[:, i] * own[best]
    return total / len(table), chosen


def _notes(result: Prediction, runs: int) -> list[str]:
    lines = []
    best = result.predictors[0]
    n = len(result.predictors)
    before = f"before a {result.unit}" if result.unit == "task" else "where a probe branches off"
    lines.append(
        f"Of {count(n, 'diagnostic')} {best.metric} {before} ranks {result.y} best: tau = {signed(best.tau)} over "
        f"{count(best.runs, 'run')}"
        + (f"; p = {p_text(best.p_by)}, paid for all {n}" if best.p_by is not None else "")
        + (f"; without a straight line in the {result.unit} {signed(best.detrended)}." if best.detrended is not None
           else ".")
    )  # fmt: skip
    if result.held_out is not None:
        which = list(dict.fromkeys(result.chosen.values()))
        same = f"always {which[0]}" if len(which) == 1 else f"{len(which)} different ones"
        sure = "" if result.held_out_p is None else f" (p = {p_text(result.held_out_p)}, sign flips of whole runs)"
        lines.append(
            f"Chosen on the other seeds and judged on the one left out, the best diagnostic ({same}) ranks with tau = "
            f"{signed(result.held_out)}{sure}."
        )
    if best.detrended is not None and abs(best.detrended) < abs(best.tau) / 2:
        lines.append("Most of it is the clock: diagnostic and outcome both drift with training.")
    if runs < resampling.FEWEST_RUNS:
        lines.append(f"{count(runs, 'run')}: no p-value is printed below six.")
    return lines
