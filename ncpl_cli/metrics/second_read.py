"""The second read of the features, once the class means are known: scatter, nearest means, the classifier's classes.

Every sample minus its own class mean is projected on the at most K-1 directions in which the class means differ, which
is exact and needs no d x d matrix. Few classes are read sample by sample in a compiled loop; many are read in blocks of
matrix products. Products of all samples with all classes only sort out which classes can be the nearest at all, in
float32 and with a bound on its rounding; between those the differences decide, in float64.

Samples are read in fixed blocks whose results are added in order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.metrics.moments import Array, Means, centre_rows, each_block
from ncpl_cli.metrics.read_kernels import (
    add_places,
    add_rows,
    from_origin,
    largest_of,
    nearest_of,
    project,
    shrink,
)

MANY = 96
"""From this number of directions and classes on products of blocks are faster than the loop over samples."""

ENTRIES = 1 << 22
"""Products of a block with all classes that are kept at once: they stay in the cache."""

PRODUCTS = 512
"""Samples of a block of products at most."""

Classifier = tuple[Array, Array | None]


@dataclass(frozen=True)
class Scatter:
    """What the second read gives.

    within         within-class scatter along each direction, (r,): sum over samples, own class mean removed
    around         the same around the given means, whether or not they are these samples' own, (r,)
    distance       sum of squared distances to the given mean of the own class, (C,)
    nearest        the class whose mean is nearest, (N,), the first of several; empty where it is not asked for
    predicted      the class of the largest logit, (N,), the first of several; None without a classifier
    """

    within: Array
    around: Array
    distance: Array
    nearest: NDArray[np.int64]
    predicted: NDArray[np.int64] | None


class SecondRead:
    """Reads samples in any number of parts: `read` each, then `scatter`."""

    def __init__(
        self, means: Means, directions: Array, classifier: Classifier | None = None, *, nearest: bool = True
    ) -> None:
        """`directions` (r, d) are orthonormal rows; `classifier` (weight (C, d), bias (C,)): its classes too."""
        self.means, self.directions = means, np.ascontiguousarray(directions)
        weight, bias = classifier if classifier is not None else (np.empty((0, directions.shape[1])), None)
        self.weight, self.bias = np.ascontiguousarray(weight), np.zeros(len(weight)) if bias is None else bias
        self.classes, self.wants_nearest = len(means.counts), nearest
        self.places = means.centred @ self.directions.T  # K x r
        self.seen = np.zeros(self.classes, np.int64)
        self.distance = np.zeros(self.classes)
        self.around = np.zeros(len(directions))
        many = len(directions) + len(weight) >= MANY or self.classes >= MANY
        self._part: Callable[..., Any] = self._products if many else self._loop
        # sums of the centred rows: what the rounding of the class means left, along the directions or as it is
        self.left = np.zeros((self.classes, directions.shape[1] if many else len(directions)))
        if many:
            self._bounds = (_Bound(self.places, 0.5 * (self.places**2).sum(1)), _Bound(self.weight, self._at_origin()))

    def read(
        self, x: NDArray[Any], labels: NDArray[np.int64], threads: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Add samples (n, d); gives the class whose mean is nearest to each, and the predicted one."""
        self.seen += np.bincount(labels, minlength=self.classes)
        nearest = np.empty(len(x) if self.wants_nearest else 0, np.int64)
        predicted = np.empty(len(x) if len(self.weight) else 0, np.int64)
        self._part(x, labels, nearest, predicted, threads)
        return nearest, predicted if len(self.weight) else None

    def within(self) -> Array:
        """Scatter along the directions, own class means removed: sum of (z - m)^2 = sum of z^2 - n m^2."""
        drift = self.left @ self.directions.T if self._part == self._products else self.left
        removed = (drift**2 / np.maximum(self.seen, 1)[:, None]).sum(0)
        found: Array = np.maximum(self.around - removed, 0.0)
        return found

    def _at_origin(self) -> Array:
        """The negative logits of the origin."""
        return -(self.weight @ self.means.origin + self.bias)

    def _loop(
        self, x: NDArray[Any], labels: NDArray[np.int64], nearest: NDArray[np.int64], predicted: NDArray[np.int64],
        threads: int,
    ) -> None:  # fmt: skip
        places = np.full((self.classes, len(self.directions)), np.nan)
        places[self.means.present] = self.places
        count = each_block(None, len(x))
        around, left = np.zeros((count, len(self.directions))), np.zeros((count, *self.left.shape))
        distance, some = np.zeros((count, self.classes)), nearest if self.wants_nearest else np.empty(len(x), np.int64)

        def read(b: int, part: slice) -> None:
            project(
                x[part], labels[part], self.means.origin, self.means.offsets, self.directions, self.weight, places,
                self.bias, around[b], left[b], distance[b], some[part], predicted[part],
            )  # fmt: skip

        each_block(read, len(x), threads)
        self.around += around.sum(0)
        self.left += left.sum(0)
        self.distance += distance.sum(0)

    def _products(
        self, x: NDArray[Any], labels: NDArray[np.int64], nearest: NDArray[np.int64], predicted: NDArray[np.int64],
        threads: int,
    ) -> None:  # fmt: skip
        means, own = self.means, np.full(self.classes, -1)
        own[means.present] = np.arange(len(means.present))
        size = int(np.clip(ENTRIES // max(1, len(self.places), len(self.weight)), 64, PRODUCTS))
        directions, offsets = torch.from_numpy(self.directions), means.offsets[means.present]
        z = np.empty((min(size, len(x)), x.shape[1]))
        for start in range(0, len(x), size):
            part = slice(start, min(start + size, len(x)))
            block, y = z[: part.stop - start], labels[part]
            centre_rows(x[part], y, means.origin, means.offsets, block)
            add_rows(block, y, self.distance, self.left)
            if self.wants_nearest or len(self.directions):
                along = (torch.from_numpy(block) @ directions.T).numpy()  # n x r
                self.around += np.einsum("nr,nr->r", along, along)
            if self.wants_nearest:
                add_places(along, self.places, own[y])
                products, slack = self._bounds[0](along)
                _each_row(
                    nearest_of, threads, products, slack, along, x[part], self.places, means.origin, offsets,
                    nearest[part],
                )  # fmt: skip
            if len(self.weight):
                from_origin(x[part], means.origin, block)  # where a common offset loosens no bound
                products, slack = self._bounds[1](block)
                _each_row(
                    largest_of, threads, products, slack, x[part], x[part], self.weight, self.bias, predicted[part]
                )
        if self.wants_nearest:
            nearest[:] = means.present[nearest]


class _Bound:
    """Products in float32 of samples with all classes, beside a bound on what their rounding can do.

    level_c - sample . row_c for each class c: the smallest is the class that is looked for. All are brought to size 1.
    """

    def __init__(self, rows: Array, levels: Array) -> None:
        self.size = float(np.sqrt((rows**2).sum(1).max(initial=0.0))) or 1.0
        self.rows = torch.from_numpy((rows / self.size).astype(np.float32)).T
        self.levels = levels - levels.mean() if len(levels) else levels
        eps = float(np.finfo(np.float32).eps)
        self.of_rows = (rows.shape[1] + 8) * eps

    def __call__(self, samples: Array) -> tuple[NDArray[np.float32], Array]:
        norms = np.sqrt(np.einsum("nd,nd->n", samples, samples))
        size = float(norms.max(initial=0.0)) or 1.0
        levels = self.levels / (size * self.size)
        few = np.empty(samples.shape, np.float32)
        shrink(samples, 1 / size, few)
        found = torch.addmm(torch.from_numpy(levels.astype(np.float32)), torch.from_numpy(few), self.rows, alpha=-1)
        slack = self.of_rows * (norms / size + float(np.abs(levels).max(initial=0.0)))
        return found.numpy(), slack


def scatter(
    x: NDArray[Any], labels: NDArray[np.int64], means: Means, directions: Array, *,
    classifier: Classifier | None = None, nearest: bool = True, threads: int = 1,
) -> Scatter:  # fmt: skip
    """Scatter of features (N, d) around their class means along `directions` (r, d), orthonormal rows.

    `classifier` (weight (C, d), bias (C,)): its classes too, in float64 whatever the features' precision.
    """
    reading = SecondRead(means, directions, classifier, nearest=nearest)
    near, predicted = reading.read(x, labels, threads)
    return Scatter(reading.within(), reading.around, reading.distance, near, predicted)


def _each_row(kernel: Any, threads: int, *arrays: Any) -> None:
    """Run a kernel over the rows of products, some to each thread; the first four arrays and the last are cut alike."""
    n = len(arrays[0])
    if threads <= 1 or n < 2 * threads:
        kernel(*arrays)
        return
    cuts = np.linspace(0, n, threads + 1).astype(int)
    cut = (*(True for _ in range(4)), *(False for _ in arrays[4:-1]), True)
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(
                lambda i: kernel(
                    *(a[cuts[i] : cuts[i + 1]] if c else a for a, c in zip(arrays, cut, strict=True))
                ),
                range(threads),
            )
        )  # fmt: skip
