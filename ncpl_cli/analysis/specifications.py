"""Every defensible way to correlate two metrics within runs: the axes of choice, and r of each run through each way.

    metric    every recorded collapse metric, split and layer (signs turned so that low always means more collapse)
    series    raw | detrended (a straight line in the axis) | differenced | within task (levels around the task's mean)
    controls  none | train_accuracy | epoch (the axis) | both
    window    whole | first W | last W | mean of all sliding W
    method    pearson | spearman

What is done to x and y in a window is done to its points and to the recorded control; the axis stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.tracks import Place, Track

Array = NDArray[np.float64]

RAW, DETRENDED, DIFFERENCED, WITHIN = "raw", "detrended", "differenced", "within task"
NONE, AXIS, BOTH = "none", "epoch", "both"
WHOLE, FIRST, LAST, SLIDING = "whole", "first", "last", "mean of sliding"

MOST_WINDOWS = 256
"""Sliding windows that are averaged; of more every k-th is taken, evenly (neighbours share all points but one)."""


@dataclass(frozen=True)
class Specification:
    """One way through the axes."""

    metric: str
    series: str
    controls: str
    window: str
    method: str

    @property
    def choices(self) -> dict[str, str]:
        """The choice on each axis."""
        return {"metric": self.metric, "series": self.series, "controls": self.controls, "window": self.window,
                "method": self.method}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Points:
    """Runs that have their points at the same places: x, y, control (runs x n)."""

    place: Place
    x: Array
    y: Array
    control: Array | None

    def windows(self, window: int) -> list[tuple[str, list[tuple[int, int]]]]:
        """(name, pieces as first and last + 1 point): the whole, and the full windows where there are any."""
        axis = self.place.axis
        found = [(WHOLE, [(0, len(axis))])]
        spacing = float(np.median(np.diff(axis)))
        ends = np.flatnonzero(axis >= axis[0] + window - spacing)
        if len(ends) < 2:  # none, or one that is the whole
            return found
        first = np.searchsorted(axis, axis[ends] - window, side="right")
        pieces = list(zip(first.tolist(), (ends + 1).tolist(), strict=True))
        kept = np.unique(np.round(np.linspace(0, len(pieces) - 1, min(len(pieces), MOST_WINDOWS))).astype(int))
        return [*found, (FIRST, pieces[:1]), (LAST, pieces[-1:]), (SLIDING, [pieces[i] for i in kept])]

    def treated(self, pieces: Sequence[tuple[int, int]], series: str) -> Iterator[Treated]:
        """The pieces after one treatment of the series; those that differ in their number of points apart."""
        runs = len(self.x)
        together: dict[bytes, list[NDArray[np.intp]]] = {}
        for start, stop in pieces:
            rows = np.arange(start, stop)
            # pieces whose task borders lie elsewhere have their differences and task means elsewhere
            borders = np.diff(self.place.task[rows]) if self.place.several and series in (DIFFERENCED, WITHIN) else 0
            together.setdefault(np.append(borders, stop - start).tobytes(), []).append(rows)
        for of in together.values():
            rows = np.stack(of)  # pieces x m
            m = len(of[0])
            place = self.place.cut(rows[0])
            sides = [side[:, rows].reshape(-1, m) for side in (self.x, self.y, self.control) if side is not None]
            axis = np.tile(self.place.axis[rows], (runs, 1))
            if series == DETRENDED:
                sides = [statistics.residuals(side, axis[:, None, :]) for side in sides]
            elif series == WITHIN:
                sides = [place.around_tasks(side) for side in sides]
            elif series == DIFFERENCED:
                axis = axis[:, 1:][:, np.diff(place.task) == 0] if place.several else axis[:, 1:]
                sides = [place.differences(side) for side in sides]
            if axis.shape[1] >= statistics.FEWEST_POINTS:
                yield Treated(sides[0], sides[1], sides[2] if len(sides) > 2 else None, axis)


@dataclass(frozen=True, eq=False)
class Treated:
    """Pieces of equal length after one treatment of the series: (runs * pieces) x m."""

    x: Array
    y: Array
    control: Array | None
    axis: Array

    @cached_property
    def ranked(self) -> Treated:
        """The same as ranks."""
        control = None if self.control is None else statistics.ranks(self.control)
        return Treated(statistics.ranks(self.x), statistics.ranks(self.y), control, statistics.ranks(self.axis))

    def r(self, controls: str) -> Array:
        """r of each row with these controls held fixed; NaN where it is undefined."""
        if controls == NONE:
            return statistics.pearson(self.x, self.y)
        held = [self.axis] if controls in (AXIS, BOTH) else []
        held += [self.control] if self.control is not None and controls != AXIS else []
        return statistics.partial(self.x, self.y, np.stack(held, axis=1))


def r_of_runs(tracks: Sequence[Track], metric: str, window: int, *, control: str | None) -> dict[Specification, Array]:
    """Each specification of one metric with r of every run (NaN where undefined).

    control  the recorded control that the tracks carry, if any
    """
    kinds = [RAW, DETRENDED, DIFFERENCED]
    if any(t.place().several and len(np.unique(t.place().task)) > 1 for t in tracks):
        kinds.append(WITHIN)
    sets: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((NONE, AXIS), ())]
    if control is not None:
        sets.append(((control, BOTH), (control,)))
    found: dict[Specification, Array] = {}
    for names, held in sets:
        for members, points in _together(tracks, held):
            for label, pieces in points.windows(window):
                where = label if label == WHOLE else f"{label} {window}"
                for series in kinds:
                    for (method, name), r in _mean_over_pieces(points, pieces, series, names).items():
                        key = Specification(metric, series, name, where, method)
                        found.setdefault(key, np.full(len(tracks), np.nan))[members] = r
    return found


def _together(tracks: Sequence[Track], held: Sequence[str]) -> Iterator[tuple[list[int], Points]]:
    """Runs by the places of their points, those with too few points left out."""
    places: dict[bytes, list[int]] = {}
    for i, t in enumerate(tracks):
        places.setdefault(t.place(held).key, []).append(i)
    for members in places.values():
        place = tracks[members[0]].place(held)
        if len(place.axis) >= statistics.FEWEST_POINTS:
            points = [tracks[i].points(held) for i in members]
            x, y = (np.array([p[part] for p in points]) for part in (1, 2))
            control = np.array([p[3][0] for p in points]) if held else None
            yield members, Points(place, x, y, control)


def _mean_over_pieces(
    points: Points, pieces: Sequence[tuple[int, int]], series: str, controls: Sequence[str]
) -> dict[tuple[str, str], Array]:
    """{(method, controls): r per run}, the mean over the pieces in which r is defined."""
    found: dict[tuple[str, str], list[Array]] = {}
    for treated in points.treated(pieces, series):
        for method, values in (("pearson", treated), ("spearman", treated.ranked)):
            for name in controls:
                found.setdefault((method, name), []).append(values.r(name).reshape(len(points.x), -1))
    means = {}
    for key, parts in found.items():
        r = np.concatenate(parts, axis=1)
        n = np.isfinite(r).sum(1)
        means[key] = np.where(n > 0, np.nansum(r, axis=1) / np.maximum(n, 1), np.nan)
    return means
