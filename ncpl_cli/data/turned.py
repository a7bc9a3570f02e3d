"""MNIST with 44 classes: the same images turned by quarters and mirrored, made when they are looked at.

The turns of 0, 1, 8 and 9 are no new classes, nor is a mirrored 3. (STUDIES G22: many classes on a laptop.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.data.dataset import Dataset, Split

TURNED_AND_MIRRORED = (2, 4, 5, 6, 7)
TURNED = (3,)
CLASSES = 8 * len(TURNED_AND_MIRRORED) + 4 * len(TURNED)

BLOCK = 16384
"""Images made at a time where they need not be kept."""


class TurnedSplit(Split):
    """A choice of images of a base, each in one of eight orientations: 0 to 3 quarter turns, + 4 mirrored before that.

    Nothing is copied until `images` is asked for; a smaller choice (`take`) makes only what is in it.
    """

    def __init__(
        self, base: NDArray[np.uint8], index: NDArray[np.int64], orientation: NDArray[np.int64],
        labels: NDArray[np.int64],
    ) -> None:  # fmt: skip
        for name, value in {"base": base, "index": index, "orientation": orientation, "labels": labels}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "further", {})

    base: NDArray[np.uint8]
    index: NDArray[np.int64]
    orientation: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> Split:
        """The samples at `index`, in that order, not made yet."""
        return TurnedSplit(self.base, self.index[index], self.orientation[index], self.labels[index])

    def under(self, labels: NDArray[np.int64]) -> Split:
        """The same images with other labels (N,)."""
        return TurnedSplit(self.base, self.index, self.orientation, labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width): those of the base, which is square."""
        channels, height, width = self.base.shape[1:]
        return channels, height, width

    @cached_property
    def images(self) -> NDArray[Any]:
        """All images, made now and kept."""
        return self._made(slice(None))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The images, some at a time and not kept."""
        for start in range(0, len(self), BLOCK):
            yield self._made(slice(start, start + BLOCK))

    def _made(self, part: slice) -> NDArray[np.uint8]:
        index, orientation = self.index[part], self.orientation[part]
        made = np.empty((len(index), *self.base.shape[1:]), np.uint8)
        for kind in range(8):
            rows = np.flatnonzero(orientation == kind)
            chosen = self.base[index[rows]]
            made[rows] = np.rot90(chosen[..., ::-1] if kind >= 4 else chosen, kind % 4, axes=(2, 3))
        return made


def turned(mnist: Dataset) -> Dataset:
    """The 44 classes over MNIST's images: every image of a digit in each of the digit's orientations."""
    return Dataset("mnist44", _split(mnist.train), _split(mnist.test), CLASSES)


def _split(split: Split) -> TurnedSplit:
    orientations = dict.fromkeys(TURNED_AND_MIRRORED, 8) | dict.fromkeys(TURNED, 4)
    first = dict(zip(orientations, np.cumsum([0, *orientations.values()]).tolist(), strict=False))
    count = np.array([orientations.get(digit, 0) for digit in range(10)])[split.labels]
    index = np.repeat(np.arange(len(split)), count)
    # 0, 1, ... within each image
    orientation = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    labels = np.array([first.get(digit, 0) for digit in range(10)])[split.labels[index]] + orientation
    return TurnedSplit(split.images, index.astype(np.int64), orientation.astype(np.int64), labels.astype(np.int64))
