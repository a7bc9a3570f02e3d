"""Networks that had learned equally much in phase 1: what is compared later, and which points may be held together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis.gain import Gain
from ncpl_cli.analysis.study import Series

Array = NDArray[np.float64]

MATCHED_WITHIN = 0.02
"""Two networks had learned equally much when their phase-1 train accuracies differ by no more than this."""


@dataclass(frozen=True)
class Matched:
    """The gain over plain networks that had learned equally much in phase 1; `unmatched`: share without such a one."""

    gain: Gain
    pairs: int
    unmatched: float

    def to_json(self) -> dict[str, Any]:
        """The gain's keys, and how much of the arm could be matched."""
        return {**self.gain.to_json(), "pairs": self.pairs, "unmatched_share": self.unmatched}


@dataclass(frozen=True, eq=False)
class Later:
    """What came later in one run: the place (probe's epoch or task), y, and how much phase 1 had taught by then."""

    place: Array
    y: Array
    learned: Array


def later(series: Series, y: str) -> Later:
    """y of a run where it is finite, with what phase 1 had learned there.

    Several tasks: one point a task after the first (an unfinished last one left out), phase 1 the first task, which is
    the same for all points (`learned` NaN); else one point a recorded epoch, with its train accuracy.
    """
    if series.tasks > 1:  # one point a task after the first; phase 1 is the first task, the same for all points
        stop = -1 if series.unfinished_task() else None
        places, values = series.task[series.task_ends()][1:stop], series.per_task(y)[1:stop]
        learned = np.full(len(values), np.nan)
    else:
        places, values, learned = series.epoch, series.column(y), series.column("train_accuracy")
    rows = np.isfinite(values)
    return Later(places[rows], values[rows], learned[rows])


def match(arm: Later, plain: Later) -> Array:
    """y of each point of the arm minus y of the plain point with the nearest phase-1 train accuracy, where near."""
    known = np.isfinite(plain.learned)
    learned, values = plain.learned[known], plain.y[known]
    if not len(learned):
        return np.array([])
    found = []
    for value, accuracy in zip(arm.y, arm.learned, strict=True):
        if math.isfinite(accuracy):
            nearest = int(np.argmin(np.abs(learned - accuracy)))
            if abs(learned[nearest] - accuracy) <= MATCHED_WITHIN + 1e-12:
                found.append(value - values[nearest])
    return np.array(found)
