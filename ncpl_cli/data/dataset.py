"""What a data set is, once loaded: uint8 images and integer labels, shared by every run and task."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.rng import stream


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, channels, height, width) as uint8 and labels (N,) as int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The samples at `index`, in that order."""
        return replace(self, images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of images and labels; pixel values are `image / scale`, in [0, 1]."""

    name: str
    train: Split
    test: Split
    classes: int
    scale: float = 255.0
    validation: Split | None = None

    def shuffled(self) -> Dataset:
        """The samples of each split in a fixed random order.

        Where not all are measured the first ones stand for the whole, which samples in order of class do not.
        """
        mixed = [split.take(stream(0, "sample order", i).permutation(len(split)))
                 for i, split in enumerate((self.train, self.test))]  # fmt: skip
        return replace(self, train=mixed[0], test=mixed[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def pixels(self) -> int:
        """Values an image has when flattened."""
        return int(np.prod(self.shape))

    @cached_property
    def channel_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel over the training split, of values in [0, 1]: (channels,) each.

        From a histogram of the 256 values: exact, and a fraction of the time of a float copy.
        """
        values = np.arange(256) / self.scale
        images = self.train.images
        counts = np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])
        share = counts / counts.sum(1, keepdims=True)
        mean = share @ values
        return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (16 digits) of the content, whatever the files it came from."""
        digest = hashlib.sha256()
        for split in (self.train, self.test, self.validation):
            if split is not None:
                digest.update(str(split.images.shape).encode())
                digest.update(np.ascontiguousarray(split.images).data)
                digest.update(split.labels.astype("<i8").tobytes())
        digest.update(f"{self.classes} {self.scale}".encode())
        return digest.hexdigest()[:16]
