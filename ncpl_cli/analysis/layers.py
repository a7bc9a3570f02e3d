"""Which layer collapses first: when each layer of a run has gone half of its way, and which is lowest at the end.

    half(layer) = first recorded epoch at which v <= v_first - (v_first - v_last) / 2

It is taken within each run, of the metric at every recorded layer of one split, over the first task where that has
three recorded epochs, else over all of the run; over runs stand medians, and the number of runs in which a layer was
the first. A layer that never falls has no half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ncpl_cli.analysis.study import Group, Study, groups
from ncpl_cli.records import Address


@dataclass(frozen=True)
class LayerCourse:
    """One layer over the runs of a group. `half`: median epoch; `first_in`: runs in which no layer was earlier."""

    layer: str
    first: float
    last: float
    half: float | None
    first_in: int
    runs: int


@dataclass(frozen=True)
class LayerOrder:
    """The layers of a group in the order of their halves, and what that says."""

    name: str | None
    settings: dict[str, object]
    scenario: str
    layers: tuple[LayerCourse, ...]
    sentence: str


def layer_orders(study: Study, metric: str = "nc1", split: str = "train") -> list[LayerOrder]:
    """Every group with at least two recorded layers, input and last among them; empty where there is none."""
    found = []
    addresses = [a for a in map(Address.parse, study.addresses()) if a.metric == metric and a.split == split]
    layers = [a.layer for a in addresses]
    for group in [g for g in groups(study) if g.series] if len(layers) > 1 else ():
        courses = _of(group, metric, split, layers)
        telling = {key: value for key, value in group.settings.items() if value is not None}
        said = _said(courses, metric) if courses else ""
        found.append(LayerOrder(group.name, telling, group.series[0].run.scenario, tuple(courses), said))
    return [order for order in found if order.layers]


def _of(group: Group, metric: str, split: str, layers: Sequence[str]) -> list[LayerCourse]:
    halves = np.full((len(group.series), len(layers)), np.inf)
    ends = np.full((len(group.series), len(layers), 2), np.nan)
    for i, series in enumerate(group.series):
        for j, layer in enumerate(layers):
            values = series.column(str(Address(metric, split, layer)))
            kept = np.isfinite(values)
            first_task = kept & (series.task == 0)
            kept = first_task if first_task.sum() > 2 else kept  # at a new task every layer begins anew
            epochs, values = series.epoch[kept], values[kept]
            if len(values) < 2:
                continue
            ends[i, j] = values[0], values[-1]
            below = np.flatnonzero(values <= values[0] - (values[0] - values[-1]) / 2)
            if values[-1] < values[0] and len(below):
                halves[i, j] = epochs[below[0]]
    seen = np.isfinite(ends[:, :, 1])
    courses = []
    for j, layer in enumerate(layers):
        if seen[:, j].any():
            earliest = halves.min(axis=1)
            middle = float(np.median(halves[seen[:, j], j]))
            first = int((seen[:, j] & np.isfinite(halves[:, j]) & (halves[:, j] == earliest)).sum())
            begin, end = (float(np.nanmean(ends[:, j, k])) for k in (0, 1))
            half = middle if np.isfinite(middle) else None
            courses.append(LayerCourse(layer, begin, end, half, first, int(seen[:, j].sum())))
    return sorted(courses, key=lambda c: (np.inf if c.half is None else c.half, c.last)) if len(courses) > 1 else []


def _said(courses: Sequence[LayerCourse], metric: str) -> str:
    falling = [c for c in courses if c.half is not None]
    lowest = min(courses, key=lambda c: c.last)
    end = f"at the end {lowest.layer} has the lowest {metric} ({lowest.last:.3g})"
    if not falling:
        return f"In no layer does {metric} fall over these epochs; {end}."
    first = falling[0]
    ties = [c.layer for c in falling[1:] if c.half == first.half]
    who = f"{first.layer} collapses first" if not ties else f"{', '.join([first.layer, *ties])} collapse together"
    return (
        f"{who}: half of its fall in {metric} by epoch {first.half:g} (median; earliest of all layers in "
        f"{first.first_in} of {first.runs} runs); {end}."
    )
