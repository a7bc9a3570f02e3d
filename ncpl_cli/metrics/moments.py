"""Sufficient statistics of features by class, in float64: two reads of the features, whatever their precision.

First read: class sums. Second read: every sample minus its own class mean, projected on the at most K-1 directions
in which the class means differ. No d x d matrix and no pseudo-inverse: that is exact, and all that nc1, cdnv and the
nearest-mean rule need. Centring before squaring is what keeps deep collapse right: with class sums plus X^T X the
float32 answer at nc1 = 1e-11 is wrong by a factor of 5e4.

Everything is measured from an origin amid the samples, so that a large common offset costs no digits: the difference
of two neighbouring floating-point numbers is exact.

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

SMALL_BLOCK = 512
"""Samples of a block of the second moment: what is centred in float64 is multiplied while it is in the cache."""

ORIGIN_SAMPLES = 31
"""Samples whose coordinate-wise median is the origin. An odd number, so that it is a value of the features."""

TILE = 4
"""Samples projected together: each direction is loaded once for them."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """Class counts (C,), the origin (d,), and from it the class means (C, d; zero where absent) and global mean (d,).

    magnitude: the size of the features themselves; what their rounding can do to a mean is a part of that.
    """

    counts: NDArray[np.int64]
    origin: Array
    offsets: Array
    centre: Array
    magnitude: float

    @property
    def present(self) -> NDArray[np.int64]:
        """The classes that have samples: K of them."""
        return np.flatnonzero(self.counts)

    @property
    def centred(self) -> Array:
        """The present classes' means minus the global mean, (K, d)."""
        return self.offsets[self.present] - self.centre


@dataclass(frozen=True)
class Scatter:
    """What the second read gives.

    within         within-class scatter along each direction, (r,): sum over samples, own class mean removed
    around         the same around the given means, whether or not they are these samples' own, (r,)
    distance       sum of squared distances to the given mean of the own class, (C,)
    nearest        the class whose mean is nearest, (N,)
    predicted      the class of the largest logit, (N,); None without a classifier
    """

    within: Array
    around: Array
    distance: Array
    nearest: NDArray[np.int64]
    predicted: NDArray[np.int64] | None


@njit(nogil=True, cache=True, error_model="numpy")
def _sums(x, labels, origin, sums):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        row, target = x[i], sums[labels[i]]
        for j in range(x.shape[1]):
            target[j] += row[j] - origin[j]


@njit(nogil=True, cache=True, error_model="numpy")
def centre_row(row, origin, offset, target):  # type: ignore[no-untyped-def]
    """Fill target (d,) with a row minus its mean. No reordering here: the origin goes first, which is exact."""
    for j in range(len(row)):
        target[j] = (row[j] - origin[j]) - offset[j]


@njit(nogil=True, cache=True, error_model="numpy")
def centre_rows(x, labels, origin, offsets, z):  # type: ignore[no-untyped-def]
    """Fill z (n, d) with rows of x minus the means of their classes."""
    for i in range(x.shape[0]):
        centre_row(x[i], origin, offsets[labels[i]], z[i])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _project(  # type: ignore[no-untyped-def]
    x, labels, origin, offsets, directions, places, logits, within, drift, distance, nearest, predicted
):
    """One block: add to within (r,), drift (C, r) and distance (C,); fill nearest and predicted (n,).

    directions (r + C, d) are those of the class means and then the classifier's rows; places (C, r) and logits (C, C)
    are the class means there.
    """
    d, q, r = x.shape[1], directions.shape[0], places.shape[1]
    z, p = np.zeros((TILE, d)), np.empty((TILE, q))
    z0, z1, z2, z3 = z[0], z[1], z[2], z[3]
    for first in range(0, x.shape[0], TILE):
        size = min(TILE, x.shape[0] - first)
        for t in range(size):
            own, row = labels[first + t], z[t]
            centre_row(x[first + t], origin, offsets[own], row)
            square = 0.0
            for j in range(d):
                square += row[j] * row[j]
            distance[own] += square
        for k in range(q):
            direction = directions[k]
            p0, p1, p2, p3 = 0.0, 0.0, 0.0, 0.0
            for j in range(d):
                u = direction[j]
                p0 += z0[j] * u
                p1 += z1[j] * u
                p2 += z2[j] * u
                p3 += z3[j] * u
            p[0, k], p[1, k], p[2, k], p[3, k] = p0, p1, p2, p3
        for t in range(size):
            i, own, dot = first + t, labels[first + t], p[t]
            for k in range(r):
                within[k] += dot[k] * dot[k]
                drift[own, k] += dot[k]
                dot[k] += places[own, k]
            best, least = -1, np.inf
            for c in range(places.shape[0]):
                gap = 0.0
                for k in range(r):
                    gap += (dot[k] - places[c, k]) ** 2
                if gap < least:  # an absent class has NaN for its place and is never nearest
                    best, least = c, gap
            nearest[i] = best
            if q > r:
                best, most = 0, -np.inf
                for c in range(q - r):
                    logit = dot[r + c] + logits[own, c]
                    if logit > most:
                        best, most = c, logit
                predicted[i] = best


def class_means(x: NDArray[Any], labels: NDArray[np.int64], classes: int, *, threads: int = 1,
                global_mean: str = "sample") -> Means:  # fmt: skip
    """Class counts and means of features (N, d). `global_mean`: `sample` (B24, Z21) or `class` (P20)."""
    counts = np.bincount(labels, minlength=classes)
    origin = origin_of(x)
    blocks = _blocks(len(x))
    parts = np.zeros((len(blocks), classes, x.shape[1]))
    _each(lambda b: _sums(x[blocks[b]], labels[blocks[b]], origin, parts[b]), len(blocks), threads)
    sums = parts.sum(0)
    offsets = sums / np.maximum(counts, 1)[:, None]
    present = counts > 0
    centre = sums.sum(0) / max(1, len(x)) if global_mean == "sample" else offsets[present].mean(0)
    return Means(counts, origin, offsets, centre, magnitude_of(x, origin, offsets[present]))


def origin_of(x: NDArray[Any]) -> Array:
    """A point amid the samples (n, d): the coordinate-wise median of a few, which an outlier does not move."""
    return np.asarray(np.median(_few(x), axis=0)) if len(x) else np.zeros(x.shape[1])


def magnitude_of(x: NDArray[Any], origin: Array, offsets: Array) -> float:
    """The size of the features: the largest class mean, or the mean absolute feature of a few samples if larger."""
    largest = float(np.abs(offsets + origin).max(initial=0.0))
    return max(largest, float(np.abs(_few(x)).mean()) if x.size else 0.0)


def _few(x: NDArray[Any]) -> Array:
    return x[np.linspace(0, len(x) - 1, ORIGIN_SAMPLES).astype(np.int64)].astype(np.float64)


def scatter(
    x: NDArray[Any], labels: NDArray[np.int64], means: Means, directions: Array, *,
    classifier: tuple[Array, Array | None] | None = None, threads: int = 1,
) -> Scatter:  # fmt: skip
    """Scatter of features (N, d) around their class means along `directions` (r, d), orthonormal rows.

    `classifier` (weight (C, d), bias (C,)): its predictions too, in float64 whatever the features' precision.
    """
    classes, r = len(means.counts), len(directions)
    places = (means.offsets - means.centre) @ directions.T  # C x r
    places[means.counts == 0] = np.nan
    logits = np.empty((classes, 0))
    if classifier is not None:
        weight, bias = classifier
        logits = means.offsets @ weight.T + at_origin(means, weight, bias)  # C x C
        directions = np.concatenate([directions, weight])
    directions = np.ascontiguousarray(directions)
    blocks = _blocks(len(x))
    within, drift = np.zeros((len(blocks), r)), np.zeros((len(blocks), classes, r))
    distance, nearest = np.zeros((len(blocks), classes)), np.empty(len(x), np.int64)
    predicted = np.empty(len(x) if classifier is not None else 0, np.int64)

    def read(b: int) -> None:
        part = blocks[b]
        _project(
            x[part], labels[part], means.origin, means.offsets, directions, places, logits, within[b], drift[b],
            distance[b], nearest[part], predicted[part],
        )  # fmt: skip

    _each(read, len(blocks), threads)
    around = within.sum(0)
    # what the rounding of the class means left: sum of (z - m)^2 = sum of z^2 - n m^2
    left = (drift.sum(0) ** 2 / np.maximum(np.bincount(labels, minlength=classes), 1)[:, None]).sum(0)
    return Scatter(
        np.maximum(around - left, 0.0), around, distance.sum(0), nearest, None if classifier is None else predicted
    )


def at_origin(means: Means, weight: Array, bias: Array | None) -> Array:
    """The logits W origin + b, (C,): in long doubles, since a large offset leaves a small difference of large terms."""
    logits = weight.astype(np.longdouble) @ means.origin.astype(np.longdouble)
    return (logits + (0.0 if bias is None else bias)).astype(np.float64)


def second_moment(x: NDArray[Any], labels: NDArray[np.int64], means: Means) -> Array:
    """Sum over samples of (h - mu_y)(h - mu_y)^T, (d, d), in float64.

    In float64 throughout: vci divides by the smallest eigenvalues, which products in float32 would make up.
    """
    n, d = x.shape
    z = torch.empty(min(SMALL_BLOCK, n), d, dtype=torch.float64)
    total = torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, n, SMALL_BLOCK):
        part = slice(start, min(start + SMALL_BLOCK, n))
        block = z[: part.stop - start]
        centre_rows(x[part], labels[part], means.origin, means.offsets, block.numpy())
        add_square(total, block)
    return symmetric(total)


def span_moment(x: NDArray[Any], labels: NDArray[np.int64], means: Means) -> tuple[Array, Array]:
    """`second_moment` and the centred class means (K, m), both in an orthonormal basis of the m directions in which
    the samples differ: exact, and small where there are fewer samples than features (n + K < d).
    """
    z = np.empty(x.shape)
    centre_rows(x, labels, means.origin, means.offsets, z)
    rows = torch.from_numpy(np.concatenate([z, means.centred]))  # n + K x d
    _, s, v = torch.linalg.svd(rows, full_matrices=False)
    basis = v[s > max(rows.shape) * np.finfo(np.float64).eps * s[0]]  # m x d
    inside = (rows @ basis.T).numpy()
    return inside[: len(x)].T @ inside[: len(x)], inside[len(x) :]


PANEL = 128
"""Columns of a panel of a symmetric product: what lies below the diagonal is not computed."""


def add_square(total: torch.Tensor, z: torch.Tensor) -> None:
    """Add z^T z of z (n, d) to the upper panels of total (d, d)."""
    for first in range(0, z.shape[1], PANEL):
        columns = slice(first, first + PANEL)
        total[columns, first:].addmm_(z[:, columns].T, z[:, first:])


def symmetric(total: torch.Tensor) -> Array:
    """The whole of a symmetric matrix (d, d) of which the upper panels are known."""
    upper = torch.triu(total).double()
    return (upper + torch.triu(upper, 1).T).numpy()


def between(means: Means, precision: Any) -> tuple[Array, Array]:
    """The directions (r, d) in which class means differ and the singular values s (r,) there.

    A = centred class means (K, d) = U diag(s) V^T. Kept are at most K-1 values above what the features' precision
    leaves of a difference of means: a spurious one would be inverted into nonsense.
    """
    centred = means.centred
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    # half a unit in the last place of the features, in each of d coordinates; in float64 the sums' own rounding too
    unit = max(0.5 * float(np.finfo(np.dtype(precision)).eps), 8 * float(np.finfo(np.float64).eps))
    tolerance = unit * max(means.magnitude, float(s.max(initial=0.0))) * np.sqrt(centred.shape[1])
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
