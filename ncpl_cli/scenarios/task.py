"""What a scenario shows a network: a task is which labels, which pixels and which order, never a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
