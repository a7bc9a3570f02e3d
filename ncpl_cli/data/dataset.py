"""What a data set is, once loaded: images and integer labels, shared by every run and task."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.rng import content_order, stream


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, channels, height, width) as uint8, or float32 where that would lose something; labels (N,) int64.

    further  other labels of the same images by name, such as super-classes: (N,) each
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    further: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The samples at `index`, in that order."""
        further = {name: labels[index] for name, labels in self.further.items()}
        return Split(self.images[index], self.labels[index], further)

    def under(self, labels: NDArray[np.int64]) -> Split:
        """The same images with other labels (N,)."""
        return Split(self.images, labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The images, some at a time."""
        yield self.images

    @cached_property
    def mixed(self) -> NDArray[np.int64]:
        """All samples in a fixed random order, whatever order they are in."""
        return content_order(self.images)

    def draw(self, count: int) -> NDArray[np.int64]:
        """`count` samples that stand for all, drawn once, whatever order they are in; where it has fewer, all."""
        return np.arange(len(self)) if count >= len(self) else self.mixed[:count]

    @cached_property
    def _parts(self) -> dict[int, Split]:
        return {}

    def drawn(self, count: int) -> Split:
        """The samples of `draw`, made once."""
        if count >= len(self):
            return self
        return self._parts.setdefault(count, self.take(self.draw(count)))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of images and labels; pixel values are `image / scale`, in [0, 1] unless they are the user's floats.

    notes          what was taken otherwise than it was given, a sentence each
    normalisation  mean and deviation of each channel that networks take in place of the channels' own
    left_over      training images that `--train-samples` leaves out: no part of what is trained on, nor of the digest
    """

    name: str
    train: Split
    test: Split
    classes: int
    scale: float = 255.0
    validation: Split | None = None
    notes: tuple[str, ...] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    left_over: Split | None = None

    def shuffled(self) -> Dataset:
        """The samples of each split in a fixed random order.

        Digests of data sets, and so the identities of stored runs, rest on it.
        """
        mixed = [split.take(stream(0, "sample order", i).permutation(len(split)))
                 for i, split in enumerate((self.train, self.test))]  # fmt: skip
        return replace(self, train=mixed[0], test=mixed[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.train.shape

    @property
    def pixels(self) -> int:
        """Values an image has when flattened."""
        return math.prod(self.shape)

    @cached_property
    def channel_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel's pixel values over the training split: (channels,) each.

        `normalisation` where it is given. Of bytes from a histogram of the 256 values: exact, and a fraction of the
        time of a float copy.
        """
        if self.normalisation is not None:
            return np.array(self.normalisation[0]), np.array(self.normalisation[1])
        blocks = self.train.blocks()
        images = next(blocks)
        if images.dtype != np.uint8:
            channels = [images[:, c].astype(np.float64) / self.scale for c in range(images.shape[1])]
            return np.array([c.mean() for c in channels]), np.array([c.std() for c in channels])
        values = np.arange(256) / self.scale
        counts = np.sum([_histogram(block) for block in itertools.chain([images], blocks)], axis=0)
        share = counts / counts.sum(1, keepdims=True)
        mean = share @ values
        return mean, np.sqrt((share * (values - mean[:, None]) ** 2).sum(1))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (16 digits) of the content and a given normalisation, whatever the files it came from."""
        digest = hashlib.sha256()
        for split in (self.train, self.test, self.validation):
            if split is not None:
                for number, block in enumerate(split.blocks()):
                    if number == 0:
                        kind = "" if block.dtype == np.uint8 else f" {block.dtype}"
                        digest.update(f"{(len(split), *split.shape)}{kind}".encode())
                    digest.update(np.ascontiguousarray(block).data)
                digest.update(split.labels.astype("<i8").tobytes())
        given = "" if self.normalisation is None else f" {self.normalisation}"
        digest.update(f"{self.classes} {self.scale}{given}".encode())
        return digest.hexdigest()[:16]


def _histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 values occurs in each channel: (channels, 256)."""
    return np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])
