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
from numba import njit
from numpy.typing import NDArray

from ncpl_cli.metrics.moments import Array, Means, centre_row, centre_rows, each_block

TILE = 4
"""Samples projected together: each direction is loaded once for them."""

MANY = 96
"""From this number of directions and classes on products of blocks are faster than the loop over samples."""

ENTRIES = 1 << 22
"""Products of a block with all classes that are kept at once: they stay in the cache."""

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
            _project(
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
        size = int(np.clip(ENTRIES // max(1, len(self.places), len(self.weight)), 64, 2048))
        directions = torch.from_numpy(self.directions)
        z = np.empty((min(size, len(x)), x.shape[1]))
        for start in range(0, len(x), size):
            part = slice(start, min(start + size, len(x)))
            block, y = z[: part.stop - start], labels[part]
            centre_rows(x[part], y, means.origin, means.offsets, block)
            _add_rows(block, y, self.distance, self.left)
            if self.wants_nearest or len(self.directions):
                along = (torch.from_numpy(block) @ directions.T).numpy()  # n x r
                self.around += np.einsum("nr,nr->r", along, along)
            if self.wants_nearest:
                along += self.places[own[y]]
                products, slack = self._bounds[0](along)
                _each_row(_nearest, threads, products, slack, along, self.places, nearest[part])
            if len(self.weight):
                block += means.offsets[y]  # from the origin: where a common offset loosens no bound
                products, slack = self._bounds[1](block)
                _each_row(_largest, threads, products, slack, x[part], self.weight, self.bias, predicted[part])
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
        found = torch.addmm(
            torch.from_numpy(levels.astype(np.float32)), torch.from_numpy((samples / size).astype(np.float32)),
            self.rows, alpha=-1,
        )  # fmt: skip
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
    """Run a kernel over the rows of products, some rows to each thread; arrays of as many rows are cut alike."""
    n = len(arrays[0])
    if threads <= 1 or n < 2 * threads:
        kernel(*arrays)
        return
    cuts = np.linspace(0, n, threads + 1).astype(int)
    cut = (True, True, True, *(False for _ in arrays[3:-1]), True)
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(
                lambda i: kernel(
                    *(a[cuts[i] : cuts[i + 1]] if c else a for a, c in zip(arrays, cut, strict=True))
                ),
                range(threads),
            )
        )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _project(  # type: ignore[no-untyped-def]
    x, labels, origin, offsets, directions, weight, places, bias, around, left, distance, nearest, predicted
):
    """One block: add to around (r,), left (C, r) and distance (C,); fill nearest and predicted (n,).

    directions (r, d) are those of the class means, places (C, r) the class means there; weight (C, d), bias (C,).
    """
    d, r, rows = x.shape[1], directions.shape[0], weight.shape[0]
    z, raw, p = np.zeros((TILE, d)), np.zeros((TILE, d)), np.empty((TILE, r + rows))
    for first in range(0, x.shape[0], TILE):
        size = min(TILE, x.shape[0] - first)
        for t in range(size):
            own, row = labels[first + t], z[t]
            centre_row(x[first + t], origin, offsets[own], row)
            square = 0.0
            for j in range(d):
                square += row[j] * row[j]
            distance[own] += square
            if rows:
                for j in range(d):
                    raw[t, j] = x[first + t, j]
        _products_of(z, directions, p, 0)
        _products_of(raw, weight, p, r)
        for t in range(size):
            i, own, dot = first + t, labels[first + t], p[t]
            for k in range(r):
                around[k] += dot[k] * dot[k]
                left[own, k] += dot[k]
                dot[k] += places[own, k]
            best, least = -1, np.inf
            for c in range(places.shape[0]):
                gap = 0.0
                for k in range(r):
                    gap += (dot[k] - places[c, k]) ** 2
                if gap < least:  # an absent class has NaN for its place and is never nearest
                    best, least = c, gap
            nearest[i] = best
            if rows:
                best, most = 0, -np.inf
                for c in range(rows):
                    logit = dot[r + c] + bias[c]
                    if logit > most:
                        best, most = c, logit
                predicted[i] = best


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _products_of(z, rows, p, first):  # type: ignore[no-untyped-def]
    """Fill p (TILE, first + q) from `first` on with the products of z (TILE, d) and rows (q, d)."""
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for k in range(rows.shape[0]):
        row = rows[k]
        p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
        for j in range(z.shape[1]):
            u = row[j]
            p0 += z0[j] * u
            p1 += z1[j] * u
            p2 += z2[j] * u
            p3 += z3[j] * u
        p[0, first + k], p[1, first + k], p[2, first + k], p[3, first + k] = p0, p1, p2, p3


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _add_rows(z, labels, distance, left):  # type: ignore[no-untyped-def]
    """Add centred rows z (n, d) to left (C, d) and their squares to distance (C,)."""
    for i in range(z.shape[0]):
        row, target, square = z[i], left[labels[i]], 0.0
        for j in range(z.shape[1]):
            target[j] += row[j]
            square += row[j] * row[j]
        distance[labels[i]] += square


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _smallest(row, slack):  # type: ignore[no-untyped-def]
    """The bound below which an entry may be the smallest, how many are, and the last of them."""
    least = row[0]
    for c in range(row.shape[0]):
        least = min(least, row[c])
    limit, count, last = least + slack, 0, 0
    for c in range(row.shape[0]):
        count += row[c] <= limit
    if count == 1:
        while row[last] > limit:
            last += 1
    return limit, count, last


@njit(nogil=True, cache=True, error_model="numpy")
def _nearest(products, slack, samples, places, nearest):  # type: ignore[no-untyped-def]
    """Fill nearest (n,): the first row of places (K, r) that is nearest to samples (n, r), from the differences."""
    for i in range(products.shape[0]):
        row = products[i]
        limit, count, best = _smallest(row, 2 * slack[i])
        if count != 1:
            best, least = 0, np.inf
            for c in range(places.shape[0]):
                if count == 0 or row[c] <= limit:
                    gap = _gap(samples[i], places[c])
                    if gap < least:
                        best, least = c, gap
        nearest[i] = best


@njit(nogil=True, cache=True, error_model="numpy")
def _largest(products, slack, x, weight, bias, predicted):  # type: ignore[no-untyped-def]
    """Fill predicted (n,): the first class of the largest logit x . w + b, as the network computes it."""
    for i in range(products.shape[0]):
        row = products[i]
        limit, count, best = _smallest(row, 2 * slack[i])
        if count != 1:
            best, most = 0, -np.inf
            for c in range(weight.shape[0]):
                if count == 0 or row[c] <= limit:
                    logit = _dot(x[i], weight[c]) + bias[c]
                    if logit > most:
                        best, most = c, logit
        predicted[i] = best


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _gap(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(len(a)):
        total += (a[j] - b[j]) ** 2
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(len(a)):
        total += a[j] * b[j]
    return total
