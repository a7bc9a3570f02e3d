"""Stratified choices of samples: the same for everyone, whatever the run's seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import InputError


def stratified(labels: NDArray[np.int64], count: int, purpose: str, *, balanced: bool = False) -> NDArray[np.int64]:
    """Sorted indices of `count` samples.

    Classes are represented in proportion (largest remainders), or where `balanced` as equally as their sizes allow.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if balanced:
        take = np.zeros(len(classes), dtype=np.int64)
        while take.sum() < count:  # one more of every class that still has one, until the count is met
            open_classes = np.flatnonzero(take < sizes)
            step = max(1, (count - int(take.sum())) // len(open_classes))
            for c in open_classes[: max(1, count - int(take.sum()))]:
                take[c] += min(step, sizes[c] - take[c], count - take.sum())
    else:
        share = sizes * (count / len(labels))
        take = np.floor(share).astype(np.int64)
        rest = np.argsort(take - share, kind="stable")[: count - int(take.sum())]
        take[rest] += 1
    draw = rng.stream(0, purpose)
    chosen = [draw.permutation(np.flatnonzero(labels == c))[:n] for c, n in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def without(size: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices below `size` that are not in `index`."""
    keep = np.ones(size, dtype=bool)
    keep[index] = False
    return np.flatnonzero(keep).astype(np.int64)


def limit_train(data: Dataset, count: int) -> Dataset:
    """The data set with a class-balanced training split of `count` samples in all."""
    if not data.classes <= count <= len(data.train):
        raise InputError(
            f"--train-samples {count} is impossible for {data.name}: "
            f"allowed are {data.classes} (one a class) to {len(data.train)}."
        )
    index = stratified(data.train.labels, count, "train samples", balanced=True)
    return replace(data, train=data.train.take(index), left_over=data.train.take(without(len(data.train), index)))


def hold_out(data: Dataset, fraction: float) -> Dataset:
    """The data set with a stratified share of the training split set aside as `validation`."""
    count = round(fraction * len(data.train))
    if not (0 < fraction < 1 and 0 < count < len(data.train)):
        raise InputError(f"--validation-fraction {fraction} is impossible: it lies between 0 and 1, exclusive.")
    index = stratified(data.train.labels, count, "validation")
    rest = without(len(data.train), index)
    return replace(data, train=data.train.take(rest), validation=data.train.take(index))
