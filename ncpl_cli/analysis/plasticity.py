"""How much plasticity was lost, by both definitions, and how much of the published one is averaging.

B24's A_0 is the mean accuracy over all epochs of the first task, and so grows with their number by itself. Against
the shortest first task, paired by seed:

    published effect of N epochs  plasticity_loss_b24(N) - plasticity_loss_b24(shortest)
    first epochs only             plasticity_loss(N) - plasticity_loss(shortest)
    share that is averaging       1 - (first epochs only) / (published effect)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.study import Series

TASKS_AFTER = 10
"""A loss right after the first task is the mean over so many tasks, as one task's accuracy is noisy."""

SMALLEST_EFFECT = 0.005
"""A published effect below this is nothing that a share could be taken of."""


@dataclass(frozen=True)
class Estimate:
    """A mean over runs with its 95 % t interval (None below two)."""

    mean: float
    ci95: tuple[float, float] | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and interval of the finite values; None without one."""
    found = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
    return Estimate(float(found.mean()), statistics.t_interval(found), len(found)) if len(found) else None


def loss(series: Series, metric: str, *, last: bool = False) -> float:
    """A run's mean loss over the first TASKS_AFTER tasks after the first one, or over its last; NaN without any."""
    values = series.per_task(metric)[1 : -1 if series.unfinished_task() else None]
    part = values[-TASKS_AFTER:] if last else values[:TASKS_AFTER]
    part = part[np.isfinite(part)]
    return float(part.mean()) if len(part) else float("nan")


def first_task_epochs(series: Series) -> int:
    """How many epochs the first task lasted."""
    ends = series.task_ends()
    return int(series.task_epoch[ends[0]]) if len(ends) else 0


@dataclass(frozen=True)
class Averaging:
    """The effect of a longer first task on the loss after it, against the shortest one, paired by seed.

    share   of the published effect that is averaging; None where the published effect is below SMALLEST_EFFECT
    """

    epochs: int
    published: Estimate
    first_epochs: Estimate
    share: float | None


def averaging(runs: Sequence[Series]) -> list[Averaging]:
    """One entry for each length of the first task above the shortest."""
    by_length: dict[int, dict[int, Series]] = {}
    for series in runs:
        if series.tasks > 1:
            by_length.setdefault(first_task_epochs(series), {})[series.run.seed] = series
    if len(by_length) < 2:
        return []
    shortest, *longer = sorted(by_length)
    found = []
    for epochs in longer:
        published = _paired(by_length[epochs], by_length[shortest], "plasticity_loss_b24")
        ours = _paired(by_length[epochs], by_length[shortest], "plasticity_loss")
        if published is not None and ours is not None:
            share = 1 - ours.mean / published.mean if published.mean >= SMALLEST_EFFECT else None
            found.append(Averaging(epochs, published, ours, share))
    return found


def _paired(arm: Mapping[int, Series], base: Mapping[int, Series], metric: str) -> Estimate | None:
    return estimate([loss(arm[seed], metric) - loss(base[seed], metric) for seed in arm if seed in base])
