"""How alike two tasks are, measured: what they show at the same place, and what they call it.

Linear CKA of the input kernels would say nothing here: it is 1 for every reordering of the pixels, which leaves all
inner products between images as they are. What a network has learned is tied to places, and so is this.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.records import Address
from ncpl_cli.scenarios.task import Task

NAMES = ("input_similarity", "label_agreement")
PREVIOUS, FIRST, EARLIER = "previous", "first", "earlier"
"""The splits: against the task before, the first one, and the mean over all earlier ones."""

SAMPLES = 2000

_COVARIANCES: weakref.WeakKeyDictionary[Split, NDArray[np.float64]] = weakref.WeakKeyDictionary()


def covariance(split: Split) -> NDArray[np.float64]:
    """Of the pixels (D, D), over 2 000 images that stand for all."""
    if split not in _COVARIANCES:
        drawn = split.drawn(SAMPLES).images.reshape(min(SAMPLES, len(split)), -1).astype(np.float64)
        drawn = drawn - drawn.mean(0)
        _COVARIANCES[split] = drawn.T @ drawn / len(drawn)
    return _COVARIANCES[split]


def input_similarity(data: Dataset, one: Task, other: Task) -> float:
    """sum_d Cov(x_p(d), x_q(d)) / sum_d Var(x_d), p and q the tasks' pixel orders: 1 = the same, near 0 = unrelated."""
    pixels = covariance(data.train)
    same = np.arange(data.pixels)
    p, q = (same if task.pixel_order is None else task.pixel_order for task in (one, other))
    return float(pixels[p, q].sum() / np.trace(pixels))


def label_agreement(one: Task, other: Task) -> float:
    """Share of the training images that both tasks give the same label."""
    return float((one.train_labels == other.train_labels).mean())


def task_similarity(data: Dataset, seen: Sequence[Task]) -> dict[Address, float]:
    """Both of the last task with the one before, the first one, and on average with all before; empty for the first."""
    now, before = seen[-1], seen[:-1]
    if not before:
        return {}
    found = {
        "input_similarity": [input_similarity(data, now, other) for other in before],
        "label_agreement": [label_agreement(now, other) for other in before],
    }
    return {
        Address(name, split): value
        for name, values in found.items()
        for split, value in ((PREVIOUS, values[-1]), (FIRST, values[0]), (EARLIER, float(np.mean(values))))
    }
