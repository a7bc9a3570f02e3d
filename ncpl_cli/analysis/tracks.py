"""Runs laid out on an axis, and r of each run: of the whole series, in sliding windows, at lags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import statistics, windows
from ncpl_cli.analysis.study import Series

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Place:
    """Where points lie: on the axis, and in which task."""

    axis: Array
    task: Array

    @cached_property
    def several(self) -> bool:
        """Whether some task has several points: then differences and lags do not cross from one task to the next."""
        return len(np.unique(self.task)) < len(self.task)

    @property
    def key(self) -> bytes:
        """The same for points at the same places."""
        return self.axis.tobytes() + self.task.tobytes()

    def differences(self, x: Array) -> Array:
        """First differences; none from one task to the next, unless each task has one point."""
        found = statistics.differences(x)
        return found[..., np.diff(self.task) == 0] if self.several else found

    def around_tasks(self, x: Array) -> Array:
        """Levels within a task: values minus the mean of their task, 0 where that is only rounding."""
        _, number = np.unique(self.task, return_inverse=True)
        member = number[:, None] == np.arange(number.max(initial=-1) + 1)  # n x tasks
        left = x - (x @ (member / member.sum(0))) @ member.T
        return statistics.without_rounding(left, 8 * np.abs(x).max(-1, keepdims=True))

    def cut(self, rows: NDArray[np.intp]) -> Place:
        """Some of the points."""
        return Place(self.axis[rows], self.task[rows])


@dataclass(frozen=True, eq=False)
class Track:
    """A run's recorded rows on the chosen axis, with the task of each; `points`: those with both values."""

    series: Series
    axis: Array
    task: Array
    x: Array
    y: Array
    controls: Mapping[str, Array]

    @cached_property
    def both(self) -> NDArray[np.bool_]:
        """Rows where x and y are both defined."""
        return np.isfinite(self.x) & np.isfinite(self.y)

    def place(self, control: Sequence[str] = ()) -> Place:
        """Where those points lie."""
        rows = self.both
        for name in control:
            rows = rows & np.isfinite(self.controls[name])
        return Place(self.axis[rows], self.task[rows])

    @cached_property
    def _all_points(self) -> tuple[Array, Array, Array, Array]:
        return self.axis[self.both], self.x[self.both], self.y[self.both], np.empty((0, int(self.both.sum())))

    def points(self, control: Sequence[str] = ()) -> tuple[Array, Array, Array, Array]:
        """Axis, x, y and controls (k x n) on the rows where all of them are defined."""
        if not control:
            return self._all_points
        held = np.array([self.controls[c] for c in control])
        rows = self.both & np.isfinite(held).all(0)
        return self.axis[rows], self.x[rows], self.y[rows], held[:, rows]


def track(series: Series, x: str, y: str, across: str, controls: Iterable[str]) -> Track:
    """A run on its epochs, or on its tasks with one point each."""
    if across == "epochs":
        read: Callable[[str], Array] = series.column
        axis, task, rows = series.epoch, series.task, slice(None)
    else:
        read = series.per_task
        rows = slice(None, -1) if series.unfinished_task() else slice(None)
        axis = task = series.task[series.task_ends()][rows]
    held = {c: read(c)[rows] for c in controls}
    return Track(series, axis, task, read(x)[rows], read(y)[rows], held)


Correlation = Callable[[Array, Array, Array, Place], Array]
"""(x, y: rows x n; controls: rows x k x n; place: n) -> r per row."""


def per_run(tracks: Sequence[Track], f: Correlation, control: Sequence[str] = ()) -> Array:
    """f of every run, computed together for the runs that have their points at the same places."""
    found = np.full(len(tracks), np.nan)
    points = [t.points(control) for t in tracks]
    together: dict[bytes, list[int]] = {}
    for i, t in enumerate(tracks):
        together.setdefault(t.place(control).key, []).append(i)
    for members in together.values():
        place = tracks[members[0]].place(control)
        if len(place.axis) < statistics.FEWEST_POINTS:
            continue
        x, y, held = (np.array([points[i][part] for i in members]) for part in (1, 2, 3))
        found[members] = f(x, y, held, place)
    return found


# windows and lags ----------------------------------------------------------------------------------------------


def sliding(tracks: Sequence[Track], window: int, method: str) -> tuple[Array, Array, NDArray[np.intp]]:
    """Ends of all windows, r (runs x windows) and points (runs x windows).

    A window labelled e covers (e - W, e], slides by one recorded row, and exists for a run when
    e >= its first point + W - its spacing and e <= its last point: only full windows count. The spacing is each run's
    own (the median step between its points), so a run recorded more often moves no window of another.
    """
    axes = [t.points()[0] for t in tracks]
    ends = np.unique(np.concatenate(axes)) if axes else np.array([])
    r = np.full((len(tracks), len(ends)), np.nan)
    counts = np.zeros(r.shape, dtype=np.intp)
    together: dict[bytes, list[int]] = {}
    for i, axis in enumerate(axes):
        together.setdefault(axis.tobytes(), []).append(i)
    for members in together.values():
        axis = axes[members[0]]
        if len(axis) < 2:
            continue
        spacing = float(np.median(np.diff(axis)))
        full = np.flatnonzero((ends >= axis[0] + window - spacing) & (ends <= axis[-1]))
        first = np.searchsorted(axis, ends[full] - window, side="right")
        last = np.searchsorted(axis, ends[full], side="right") - 1
        x, y = (np.array([tracks[i].points()[part] for i in members]) for part in (1, 2))
        place = np.ix_(np.array(members), full)
        r[place] = windows.windows(x, y, first, last, method)
        counts[place] = last - first + 1
    some = counts.any(0)
    return ends[some], r[:, some], counts[:, some]


def lagged(tracks: Sequence[Track], lags: tuple[int, int], method: str) -> tuple[list[int], Array]:
    """r of x with y that many points later, runs x lags; a lag is counted in the spacing of a run's points."""
    shifts = list(range(lags[0], lags[1] + 1))
    found = np.full((len(tracks), len(shifts)), np.nan)
    for i, t in enumerate(tracks):
        axis = t.points()[0]
        if len(axis) < statistics.FEWEST_POINTS:
            continue
        spacing = float(np.median(np.diff(axis)))
        has_x, has_y = np.isfinite(t.x), np.isfinite(t.y)
        at_x, x, at_y, y = t.axis[has_x], t.x[has_x], t.axis[has_y], t.y[has_y]
        of_x, of_y, several = t.task[has_x], t.task[has_y], t.place().several
        for j, lag in enumerate(shifts):
            target = at_x + lag * spacing
            place = np.searchsorted(at_y, target - spacing * 1e-6)
            hit = (place < len(at_y)) & (np.abs(at_y[np.minimum(place, len(at_y) - 1)] - target) < spacing * 1e-3)
            if several:  # what was a task ago is no lag within one
                hit &= of_x == of_y[np.minimum(place, len(of_y) - 1)]
            found[i, j] = statistics.METHODS[method](x[hit], y[place[hit]])
    return shifts, found
