"""What a scenario shows a network: a task is which labels, which pixels and which order, never a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng


@dataclass(frozen=True, eq=False)
class Task:
    """One task over a shared data set.

    index         0, 1, ...
    epochs        how many epochs at most
    order         task epoch (1, 2, ...) -> indices into the training split, in the order they are shown
    pixel_order   flattened pixels as the network sees them: `x[:, pixel_order]`; None = as they are
    train_labels  labels of the training split (N,), `test_labels` of the test split
    stop_nc1      end the task after the first epoch whose train nc1 is below this
    """

    index: int
    epochs: int
    order: Callable[[int], NDArray[np.int64]]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    pixel_order: NDArray[np.int64] | None = None
    stop_nc1: float | None = None


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
