"""What is held fixed within runs: the axis, recorded controls, the task, and all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import statistics
from ncpl_cli.analysis.study import Group
from ncpl_cli.analysis.tracks import Correlation, Place, Track
from ncpl_cli.errors import InputError

Array = NDArray[np.float64]

TASK = "task"
"""The control that is no metric: levels within a task are left."""


@dataclass(frozen=True)
class Held:
    """One set of what is held fixed, by its label."""

    label: str
    axis: bool
    controls: tuple[str, ...]
    task: bool = False

    def correlation(self, method: str) -> Correlation:
        """The partial correlation of a run given this set; undefined with too few points for it."""

        def f(x: Array, y: Array, held: Array, place: Place) -> Array:
            if self.axis:
                held = np.concatenate([held, np.broadcast_to(place.axis, (len(x), 1, len(place.axis)))], axis=1)
            if not self.task:
                return statistics.partial(x, y, held, method=method)
            tasks = len(np.unique(place.task))
            if x.shape[-1] < statistics.FEWEST_POINTS + tasks + held.shape[1]:
                return np.full(len(x), np.nan)
            if method == "spearman":
                x, y, held = statistics.ranks(x), statistics.ranks(y), statistics.ranks(held)
            x, y, held = place.around_tasks(x), place.around_tasks(y), place.around_tasks(held)
            return statistics.partial(x, y, held) if held.shape[1] else statistics.pearson(x, y)

        return f


def sets(unit: str, held: Sequence[str], *, by_task: bool = False) -> list[Held]:
    """The training amount, each control, the task, and all of them."""
    found = [Held(unit, True, ()), *(Held(name, False, (name,)) for name in held)]
    if by_task:
        found.append(Held(TASK, False, (), True))
    names = [unit, *held, *([TASK] if by_task else [])]
    if len(names) > 1:
        found.append(Held("+".join(names), True, tuple(held), by_task))
    return found


def check_task(tracks: Sequence[Track], across: str) -> None:
    """Raise InputError where no task has several points: then nothing is left within tasks."""
    if across != "epochs" or not any(t.place().several for t in tracks):
        raise InputError(
            "--control task leaves the levels within a task, and here each task has one point.",
            "add --across epochs, where tasks have several epochs",
        )


def usable(tracks: Sequence[Track], asked: Sequence[str], names: Sequence[str], unit: str, group: Group) -> list[str]:
    """Controls that vary within runs; one that was asked for and does not is the user's error."""
    usable = []
    for name in names:
        values = [t.points([name])[3][0] for t in tracks]
        varies = any(len(v) > statistics.FEWEST_POINTS and not statistics.constant(v) for v in values)
        if varies:
            usable.append(name)
        elif name in asked:
            if not any(len(v) for v in values) and not any(name in s.run.settings for s in group.series):
                raise InputError(
                    f"--control {name} has no value in any {unit} of group {group.name or group.scenario!r}.",
                    "ncpl export shows what is recorded",
                )
            raise InputError(
                f"--control {name} is constant within runs, so it cannot explain what varies within them.",
                "compare runs with each other instead: add --across runs",
            )
    return usable
