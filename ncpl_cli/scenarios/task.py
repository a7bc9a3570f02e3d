"""What a scenario shows a network: a task is which labels, which pixels and which order, never a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Split


@dataclass(frozen=True, eq=False)
class Task:
    """One task over a shared data set.

    index         0, 1, ...
    epochs        how many epochs at most
    order         task epoch (1, 2, ...) -> indices into the training split, in the order they are shown
    pixel_order   flattened pixels as the network sees them: `x[:, pixel_order]`; None = as they are
    train_labels  labels of the training split (N,), `test_labels` of the test split
    stop_nc1      end the task after the first epoch whose train nc1 is below this
    stop_accuracy  end it after the first epoch whose running train accuracy (`online_accuracy`) is above this
    phase         `task`, or of a warm start `warm-up` or `probe`: what interventions go by
    changes       whether interventions do at its start what they do at a change of task or phase
    parts         splits that are measured in place of the data set's own, and further ones (`unseen`), by name
    """

    index: int
    epochs: int
    order: Callable[[int], NDArray[np.int64]]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    pixel_order: NDArray[np.int64] | None = None
    stop_nc1: float | None = None
    stop_accuracy: float | None = None
    phase: str = "task"
    changes: bool = False
    parts: Mapping[str, Split] = field(default_factory=dict)

    @cached_property
    def classes_trained(self) -> NDArray[np.int64]:
        """The classes among the samples that are trained on, sorted (K,)."""
        part = self.parts.get("train")
        return np.unique(self.train_labels if part is None else part.labels)


def option(default: Any, help: str, *, identity: bool = True, choices: tuple[str, ...] | None = None) -> Any:
    """A scenario's option: a dataclass field that the command line and sweeps show by themselves."""
    return field(default=default, metadata={"help": help, "identity": identity, "choices": choices})


def epochs_of(epochs: tuple[int, ...], task: int) -> int:
    """The entry of a per-task list; the last one repeats."""
    return epochs[min(task, len(epochs) - 1)]


def shortest(epochs: tuple[int, ...]) -> tuple[int, ...]:
    """A per-task list without the repetitions at its end, which say nothing."""
    while len(epochs) > 1 and epochs[-1] == epochs[-2]:
        epochs = epochs[:-1]
    return epochs


def sample_order(seed: int, task: int, size: int, *, repeat: bool = False) -> Callable[[int], NDArray[np.int64]]:
    """A new random order of all samples for each epoch of a task; `repeat` gives every epoch the first one."""

    def order(task_epoch: int) -> NDArray[np.int64]:
        return rng.stream(seed, "data order", task, 1 if repeat else task_epoch).permutation(size)

    return order
