"""What an engine is: something that changes the parameters of a cohort's networks by one epoch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli.scenarios.task import Task


@dataclass(frozen=True, slots=True)
class Progress:
    """What one epoch of training one run showed.

    correct  predictions that were right before the update that used the sample; None where the task asks for numbers
    loss     mean of the objective's losses before those updates
    samples  samples seen; seconds  wall time of the epoch (of the whole cohort where it trains at once)
    finite   whether all parameters are still finite
    extra    what interventions have to say, by metric id
    """

    correct: int | None
    loss: float
    samples: int
    seconds: float
    finite: bool
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of right predictions; NaN where nothing is right or wrong."""
        return math.nan if self.correct is None else self.correct / self.samples


class Engine(Protocol):
    """Trains R networks of one shape at once; `networks[r]` holds run r's parameters between epochs.

    notes  what a person should know of how it trains; whoever has said one takes it out
    """

    networks: Sequence[nn.Module]
    notes: list[str]

    def train_epoch(
        self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float, task_epoch: int = 1
    ) -> list[Progress]:
        """One pass over `orders[r]` of task `tasks[r]` for every run r, at learning rate `lr`.

        task_epoch  names the draws by which images are moved, where a task has them moved
        """
        ...

    def change(self, purpose: str, which: Collection[int] | None = None) -> None:
        """Let the interventions do what they do at a change of task or phase, to some runs (default: all).

        `purpose` names their random streams.
        """
        ...

    def state(self) -> list[dict[str, Tensor]]:
        """What every run remembers beside its parameters (moments, step counts), for a checkpoint: copies."""
        ...

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned."""
        ...
