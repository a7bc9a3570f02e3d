"""Which images of which classes: draws by seed of which the smaller is part of the larger, so that arms are paired."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError

Index = NDArray[np.int64]


def class_order(seed: int, classes: int) -> Index:
    """The classes in the run's own order."""
    return rng.stream(seed, "class order").permutation(classes).astype(np.int64)


def of_class(seed: int, split: Split, label: int) -> Index:
    """All images of a class in the run's own order: its first m are what m a class means."""
    rows = np.flatnonzero(split.labels == label)
    return rows[rng.stream(seed, "images of class", label).permutation(len(rows))].astype(np.int64)


def relabelled(split: Split, rows: Index, number: Index) -> Split:
    """Some images of a split under new labels: number[label]."""
    return split.take(rows).under(number[split.labels[rows]])


def smallest_class(data: Dataset) -> int:
    """Training images of the class that has fewest."""
    return int(np.bincount(data.train.labels, minlength=data.classes).min())


def check_per_class(per_class: int, data: Dataset, option: str) -> None:
    """Raise InputError where a class has fewer training images."""
    if per_class > (most := smallest_class(data)):
        raise InputError(
            f"{option} is impossible: it takes {per_class} images of a class, and the smallest class of {data.name} "
            f"has {most} to train on."
        )
