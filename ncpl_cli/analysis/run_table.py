"""Runs as rows: x and the controls after the first task, y at each task; and r over such rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.results import Excluded, number
from ncpl_cli.analysis.study import Group, Series

Array = NDArray[np.float64]

AMOUNT = "first_task_epochs"
"""The amount of first-task training: epochs of task 0."""


@dataclass(frozen=True, eq=False)
class Table:
    """One row a run: x and the controls after the first task, y at each task (NaN where a run has none)."""

    series: tuple[Series, ...]
    tasks: tuple[int, ...]
    x: Array
    y: Array
    amount: Array
    controls: Mapping[str, Array]

    @property
    def mean_y(self) -> Array:
        """y of each run, averaged over the tasks that all runs have; NaN where there is none."""
        common = np.isfinite(self.y).all(0)
        if not common.any():
            return np.full(len(self.x), np.nan)
        y = self.y[:, common]
        return statistics.without_rounding(y.mean(1), np.abs(y).max(1))  # losses that cancel leave rounding

    @property
    def setting(self) -> NDArray[np.intp]:
        """A number for each combination of settings (of imported runs: name), which runs of one arm share."""
        keys = [
            repr((s.run.names if s.run.imported else (), sorted((k, repr(v)) for k, v in s.run.settings.items())))
            for s in self.series
        ]
        order = list(dict.fromkeys(keys))
        return np.array([order.index(key) for key in keys], dtype=np.intp)

    @property
    def blocks(self) -> NDArray[np.intp]:
        """A number for each seed: runs of one seed share initialisation and data order."""
        seeds = [s.run.seed for s in self.series]
        order = list(dict.fromkeys(seeds))
        return np.array([order.index(seed) for seed in seeds], dtype=np.intp)


def run_table(group: Group, x: str, y: str, controls: Sequence[str]) -> tuple[Table | None, tuple[Excluded, ...]]:
    """The table of a group, None where no run has a row; and the runs that have none, with the reason.

    x and the controls stand at the last recorded epoch of task 0, y at each later task; of runs of one task y is its
    last defined value (task 0).
    """
    several = any(s.tasks > 1 for s in group.series)
    excluded = [Excluded(s.run.id, s.run.seed, s.run.status) for s in group.left_out]
    rows: list[tuple[Series, float, dict[int, float], float, list[float]]] = []
    for series in group.series:
        ends = series.task_ends()
        if not len(ends) or (several and len(ends) < 2):
            excluded.append(Excluded(series.run.id, series.run.seed, "no task after the first one"))
            continue
        first = int(ends[0])
        values = _by_task(series, y, several)
        after = float(series.column(x)[first])
        if not math.isfinite(after) or not values:
            what = f"{x} is undefined after the first task" if values else f"no value of {y}"
            excluded.append(Excluded(series.run.id, series.run.seed, what))
            continue
        held = [_held(series, c, first) for c in controls]
        rows.append((series, after, values, float(series.task_epoch[first]), held))
    if not rows:
        return None, tuple(excluded)
    tasks = sorted({task for _, _, values, _, _ in rows for task in values})
    return Table(
        series=tuple(row[0] for row in rows),
        tasks=tuple(tasks),
        x=np.array([row[1] for row in rows]),
        y=np.array([[row[2].get(task, math.nan) for task in tasks] for row in rows]),
        amount=np.array([row[3] for row in rows]),
        controls={c: np.array([row[4][i] for row in rows]) for i, c in enumerate(controls)},
    ), tuple(excluded)


def _held(series: Series, control: str, row: int) -> float:
    """A control after the first task: a metric, or a setting that is a number."""
    setting = series.run.settings.get(control)
    return float(setting if isinstance(setting, int | float) else series.column(control)[row])


def _by_task(series: Series, y: str, several: bool) -> dict[int, float]:
    """y at each task after the first; where there is one task only, its last defined value."""
    if not several:
        column = series.column(y)
        found = column[np.isfinite(column)]
        return {0: float(found[-1])} if len(found) else {}
    tasks = series.task[series.task_ends()]
    values = series.per_task(y)
    if series.unfinished_task():
        tasks, values = tasks[:-1], values[:-1]
    return {int(t): float(v) for t, v in zip(tasks[1:], values[1:], strict=True) if math.isfinite(v)}


# formulas on columns -------------------------------------------------------------------------------------------


def columns(x: Array, y: Array, method: str, controls: Sequence[Array] = ()) -> Array:
    """r over runs of x with each column of y, each over the runs that have it."""
    return np.array([np.nan if (r := one(x, column, method, controls)) is None else r for column in y.T])


def one(x: Array, y: Array, method: str, controls: Sequence[Array] = ()) -> float | None:
    """r of x and y (each over runs), controls held fixed; None where fewer than the fewest points or none varies.

    Only runs in which x, y and every control are finite count.
    """
    rows = np.isfinite(x) & np.isfinite(y)
    for control in controls:
        rows &= np.isfinite(control)
    if not controls:
        return number(statistics.METHODS[method](x[rows], y[rows]))
    held = np.array([control[rows] for control in controls])
    if rows.sum() < statistics.FEWEST_POINTS or not all(varies(h) for h in held):
        return None
    return number(statistics.partial(x[None, rows], y[None, rows], held[None], method=method)[0])


def ranked(x: Array, method: str) -> Array:
    """x as it is correlated: as ranks (ties at their mean) under spearman."""
    return statistics.ranks(x) if method == "spearman" else x


def ranked_columns(y: Array, method: str) -> Array:
    """Columns as ranks where ranks are correlated; columns with missing values stay as they are."""
    if method != "spearman":
        return y
    return np.stack([statistics.ranks(c) if np.isfinite(c).all() else c for c in y.T], axis=1)


def varies(values: Array) -> bool:
    values = values[np.isfinite(values)]
    return len(values) > 1 and not statistics.constant(values)
