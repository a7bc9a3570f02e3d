"""What a run reached, in one number: over its tasks, at their end, how it changes; or over and at its probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis.study import Series

Array = NDArray[np.float64]

LAST_TASKS = 10
"""The end of a run: its last ten tasks, or the later half of fewer than twenty."""

MEAN, SLOPE = "mean over tasks", "slope over tasks"
PROBES, LAST_PROBE = "mean over probes", "last probe"
LAST = "last value"

Outcome = Callable[[Series], float]


def outcomes(runs: Sequence[Series], y: str) -> Mapping[str, Outcome]:
    """The outcomes of y for runs that are compared, by name; each reads the tasks that all of these runs have.

    Several tasks: the mean over tasks, the last ten tasks and the slope (least squares, per task), one value a task
    (online accuracy at the task's first epoch, as everywhere). One task: the mean over rows that have y and the last of
    them where y belongs to probes, else the last value.
    """
    if any(s.tasks > 1 for s in runs):
        tasks = common_tasks(runs)
        last = min(LAST_TASKS, max(1, tasks // 2))

        def per_task(series: Series) -> Array:
            return series.per_task(y)[:tasks]

        return {
            MEAN: lambda s: mean(per_task(s)),
            f"last {last} tasks" if last > 1 else "last task": lambda s: mean(per_task(s)[tasks - last :]),
            SLOPE: lambda s: slope(per_task(s)),
        }
    if y.startswith(("probe_", "warm_start_")):
        return {PROBES: lambda s: mean(s.column(y)), LAST_PROBE: lambda s: last_of(s.column(y))}
    return {LAST: lambda s: last_of(s.column(y))}


def common_tasks(runs: Sequence[Series]) -> int:
    """How many tasks all runs have, a half-trained last one not counted."""
    return min(len(s.task_ends()) - s.unfinished_task() for s in runs)


def mean(values: Array) -> float:
    """Mean of the defined values; NaN of none."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else float("nan")


def last_of(values: Array) -> float:
    """The last defined value; NaN of none."""
    found = values[np.isfinite(values)]
    return float(found[-1]) if len(found) else float("nan")


def slope(values: Array) -> float:
    """Least-squares change a task, over the defined values; NaN below three."""
    at = np.flatnonzero(np.isfinite(values)).astype(np.float64)
    if len(at) < 3:
        return float("nan")
    d = at - at.mean()
    return float((d @ (values[at.astype(int)] - values[at.astype(int)].mean())) / (d @ d))
