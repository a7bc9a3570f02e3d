"""Sufficient statistics of features by class, in float64: two reads of the features, whatever their precision.

First read: class sums. Second read: every sample minus its own class mean, projected on the at most K-1 directions
in which the class means differ. No d x d matrix and no pseudo-inverse: that is exact, and all that nc1, cdnv and the
nearest-mean rule need. Centring before squaring is what keeps deep collapse right: with class sums plus X^T X the
float32 answer at nc1 = 1e-11 is wrong by a factor of 5e4.

Samples are read in fixed blocks whose results are added in order, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

BLOCK = 4096
"""Samples of a block."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Class counts (C,), class means (C, d; zero where a class is absent) and the global mean (d,)."""

    counts: NDArray[np.int64]
    means: Array
    centre: Array

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes that have samples: K of them."""
        return np.flatnonzero(self.counts)

    @property
    def centred(self) -> Array:
        """The present classes' means minus the global mean, (K, d)."""
        return self.means[self.present] - self.centre


@dataclass(frozen=True)
class Scatter:
    """What the second read gives.

    within         within-class scatter along each direction, (r,): sum over samples, own class mean removed
    distance       sum of squared distances to the own class mean, (C,)
    nearest        the class whose mean is nearest, (N,)
    """

    within: Array
    distance: Array
    nearest: NDArray[np.int64]


@njit(nogil=True, cache=True, error_model="numpy")
def _sums(x, labels, sums):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        row, target = x[i], sums[labels[i]]
        for j in range(x.shape[1]):
            target[j] += row[j]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _project(x, labels, means, directions, places, within, drift, distance, nearest):  # type: ignore[no-untyped-def]
    """One block: add to within (r,), drift (C, r) and distance (C,); fill nearest."""
    d, r = x.shape[1], directions.shape[0]
    z, p = np.empty(d), np.empty(r)
    for i in range(x.shape[0]):
        own = labels[i]
        row, mean = x[i], means[own]
        square = 0.0
        for j in range(d):
            z[j] = row[j] - mean[j]
            square += z[j] * z[j]
        distance[own] += square
        for k in range(r):
            direction = directions[k]
            dot = 0.0
            for j in range(d):
                dot += z[j] * direction[j]
            within[k] += dot * dot
            drift[own, k] += dot
            p[k] = dot + places[own, k]
        best, least = -1, np.inf
        for c in range(places.shape[0]):
            gap = 0.0
            for k in range(r):
                gap += (p[k] - places[c, k]) ** 2
            if gap < least:  # an absent class has NaN for its place and is never nearest
                best, least = c, gap
        nearest[i] = best


def class_means(x: NDArray[Any], labels: NDArray[np.int64], classes: int, *, threads: int = 1,
                global_mean: str = "sample") -> Means:  # fmt: skip
    """Class counts and means of features (N, d). `global_mean`: `sample` (B24, Z21) or `class` (P20)."""
    counts = np.bincount(labels, minlength=classes)
    blocks = _blocks(len(x))
    parts = np.zeros((len(blocks), classes, x.shape[1]))
    _each(lambda b: _sums(x[blocks[b]], labels[blocks[b]], parts[b]), len(blocks), threads)
    sums = parts.sum(0)
    means = sums / np.maximum(counts, 1)[:, None]
    present = counts > 0
    centre = sums.sum(0) / max(1, len(x)) if global_mean == "sample" else means[present].mean(0)
    return Means(counts, means, centre)


def scatter(
    x: NDArray[Any], labels: NDArray[np.int64], means: Means, directions: Array, *, threads: int = 1
) -> Scatter:
    """Scatter of features (N, d) around their class means along `directions` (r, d), orthonormal rows."""
    classes, r = len(means.counts), len(directions)
    places = (means.means - means.centre) @ directions.T  # C x r
    places[means.counts == 0] = np.nan
    blocks = _blocks(len(x))
    within, drift = np.zeros((len(blocks), r)), np.zeros((len(blocks), classes, r))
    distance, nearest = np.zeros((len(blocks), classes)), np.empty(len(x), np.int64)
    directions = np.ascontiguousarray(directions)

    def read(b: int) -> None:
        part = blocks[b]
        _project(
            x[part], labels[part], means.means, directions, places, within[b], drift[b], distance[b], nearest[part]
        )

    _each(read, len(blocks), threads)
    # what the rounding of the class means left: sum of (z - m)^2 = sum of z^2 - n m^2
    left = (drift.sum(0) ** 2 / np.maximum(means.counts, 1)[:, None]).sum(0)
    return Scatter(np.maximum(within.sum(0) - left, 0.0), distance.sum(0), nearest)


def around(x: NDArray[Any], labels: NDArray[np.int64], means: Means, directions: Array) -> Array:
    """Sum over samples of squared distances to the given class means along each direction, (r,)."""
    total = np.zeros(len(directions))
    for part in _blocks(len(x)):
        z = x[part].astype(np.float64) - means.means[labels[part]]
        total += ((z @ directions.T) ** 2).sum(0)
    return total


def second_moment(x: NDArray[Any], labels: NDArray[np.int64], means: Means, *, threads: int = 1) -> Array:
    """Sum over samples of (h - mu_y)(h - mu_y)^T, (d, d): products in the features' precision, sums in float64."""
    rows, centre = torch.from_numpy(x), torch.from_numpy(means.means.astype(x.dtype))
    index = torch.from_numpy(labels)
    blocks = _blocks(len(x))
    kept: list[torch.Tensor] = [rows] * len(blocks)

    def read(b: int) -> None:
        z = rows[blocks[b]] - centre[index[blocks[b]]]
        kept[b] = z.T @ z

    _each(read, len(blocks), threads)
    total = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64)
    for part in kept:
        total += part
    return total.numpy()


def nearest_mean(x: NDArray[Any], means: Means, *, threads: int = 1) -> NDArray[np.int64]:
    """The class whose mean is nearest to each sample (N,): distances in the span of the means, from their centre."""
    directions, _ = between(means, x.dtype)
    return scatter(x, np.full(len(x), means.present[0]), means, directions, threads=threads).nearest


def between(means: Means, precision: Any) -> tuple[Array, Array]:
    """The directions (r, d) in which class means differ and the singular values s (r,) there.

    A = centred class means (K, d) = U diag(s) V^T. Kept are at most K-1 values above what the features' precision
    leaves of a difference of means: a spurious one would be inverted into nonsense.
    """
    centred = means.centred
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    largest = max(float(np.abs(means.means).max(initial=0.0)), float(s.max(initial=0.0)))
    # half a unit in the last place of the largest mean, in each of d coordinates
    tolerance = 0.5 * float(np.finfo(np.dtype(precision)).eps) * largest * np.sqrt(centred.shape[1])
    r = min(int((s > tolerance).sum()), max(0, len(centred) - 1))
    return v[:r], s[:r]


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _each(task: Any, count: int, threads: int) -> None:
    """Do every block; the compiled loops release the GIL, so plain threads use the cores."""
    if threads <= 1 or count <= 1:
        for number in range(count):
            task(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(task, range(count)))
