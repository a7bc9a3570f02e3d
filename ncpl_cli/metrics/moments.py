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

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ncpl_cli.data.rows import SOURCE, TILE, add_tile
from ncpl_cli.metrics.rotations import FEW, rotated

BLOCK = 4096
"""Samples of a block."""

SMALL_BLOCK = 512
"""Samples of a block of the second moment: what is centred in float64 is multiplied while it is in the cache."""

TILE_SAMPLES = 128
"""Samples that go through all tiles together: two columns of tiles of them stay in the first-level cache."""

MOST_PARTS = 1 << 25
"""Sums by block, class and dimension that are kept at once."""

ORIGIN_SAMPLES = 31
"""Samples whose coordinate-wise median is the origin. An odd number, so that it is a value of the features."""

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

    @cached_property
    def present(self) -> NDArray[np.int64]:
        """The classes that have samples: K of them."""
        return np.flatnonzero(self.counts)

    @cached_property
    def centred(self) -> Array:
        """The present classes' means minus the global mean, (K, d)."""
        return self.offsets[self.present] - self.centre


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


def class_means(x: NDArray[Any], labels: NDArray[np.int64], classes: int, *, threads: int = 1,
                global_mean: str = "sample") -> Means:  # fmt: skip
    """Class counts and means of features (N, d). `global_mean`: `sample` (B24, Z21) or `class` (P20)."""
    counts = np.bincount(labels, minlength=classes)
    origin = origin_of(x)
    sums = _class_sums(x, labels, origin, classes, threads)
    offsets = sums / np.maximum(counts, 1)[:, None]
    present = counts > 0
    centre = sums.sum(0) / max(1, len(x)) if global_mean == "sample" else offsets[present].mean(0)
    return Means(counts, origin, offsets, centre, magnitude_of(x, origin, offsets[present]))


def _class_sums(
    x: NDArray[Any], labels: NDArray[np.int64], origin: Array, classes: int, threads: int
) -> Array:  # fmt: skip
    """Sums by class from the origin, (C, d): by blocks of samples, or of many classes by columns."""
    blocks, d = each_block(None, len(x)), x.shape[1]
    if blocks * classes * d <= MOST_PARTS:
        parts = np.zeros((blocks, classes, d))
        each_block(lambda b, part: _sums(x[part], labels[part], origin, parts[b]), len(x), threads)
        return parts.sum(0)  # type: ignore[no-any-return]
    sums = np.zeros((classes, d))
    columns = [slice(d * i // threads, d * (i + 1) // threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda c: _sums(x[:, c], labels, origin[c], sums[:, c]), columns))
    return sums


def origin_of(x: NDArray[Any]) -> Array:
    """A point amid the samples (n, d): the coordinate-wise median of a few, which an outlier does not move."""
    if not len(x):
        return np.zeros(x.shape[1])
    return np.ascontiguousarray(np.partition(_few(x), ORIGIN_SAMPLES // 2, axis=0)[ORIGIN_SAMPLES // 2])


def magnitude_of(x: NDArray[Any], origin: Array, offsets: Array) -> float:
    """The size of the features: the largest class mean, or the mean absolute feature of a few samples if larger."""
    largest = float(np.abs(offsets + origin).max(initial=0.0))
    return max(largest, float(np.abs(_few(x)).mean()) if x.size else 0.0)


def _few(x: NDArray[Any]) -> Array:
    return x[_places(len(x))].astype(np.float64)


@lru_cache(maxsize=64)
def _places(n: int) -> NDArray[np.int64]:
    """Which samples of n are looked at."""
    return np.linspace(0, n - 1, ORIGIN_SAMPLES).astype(np.int64)


def at_origin(means: Means, weight: Array, bias: Array | None) -> Array:
    """The logits W origin + b, (C,): in long doubles, since a large offset leaves a small difference of large terms."""
    logits = weight.astype(np.longdouble) @ means.origin.astype(np.longdouble)
    return (logits + (0.0 if bias is None else bias)).astype(np.float64)


def second_moment(x: NDArray[Any], labels: NDArray[np.int64], means: Means) -> Array:
    """Sum over samples of (h - mu_y)(h - mu_y)^T, (d, d), in float64.

    In float64 throughout: vci divides by the smallest eigenvalues, which products in float32 would make up.
    """
    n, d = x.shape
    if add_tile is not None and d <= PANEL:
        whole = -(-d // TILE[1]) * TILE[1]
        sums = np.zeros(whole * whole)
        _in_tiles()(x, labels, means.origin, means.offsets, sums)
        return symmetric(torch.from_numpy(sums).view(whole, whole)[:d, :d])
    z = torch.empty(min(SMALL_BLOCK, n), d, dtype=torch.float64)
    total = torch.zeros(d, d, dtype=torch.float64)
    for start in range(0, n, SMALL_BLOCK):
        part = slice(start, min(start + SMALL_BLOCK, n))
        block = z[: part.stop - start]
        centre_rows(x[part], labels[part], means.origin, means.offsets, block.numpy())
        add_square(total, block)
    return symmetric(total)


def gram_of(moment: Array, means: Means) -> Array:
    """The Gram matrix X^T X (d, d) of the features themselves, from their `second_moment` and class means."""
    rows = (means.offsets + means.origin) * np.sqrt(means.counts)[:, None]  # zero where a class is absent
    return moment + rows.T @ rows


@cache
def _in_tiles() -> Callable[..., None]:
    """The compiled second moment of few features, tile by tile: BLAS takes two thirds longer for narrow products."""
    source, (high, wide) = SOURCE, TILE

    @njit(nogil=True, cache=True, error_model="numpy")
    def add(x, labels, origin, offsets, sums):  # type: ignore[no-untyped-def]
        """Add to sums (columns * columns,) the tiles on and above the diagonal; columns are d, filled up to tiles."""
        n, d = x.shape
        full, tiles = d // wide, -(-d // wide)
        z = np.zeros(tiles * TILE_SAMPLES * wide)
        for start in range(0, n if source else 0, TILE_SAMPLES):
            size = min(TILE_SAMPLES, n - start)
            for i in range(size):
                row, offset = x[start + i], offsets[labels[start + i]]
                for tile in range(tiles):
                    to, j = (tile * TILE_SAMPLES + i) * wide, tile * wide
                    if tile < full:  # of known length, which becomes vectors
                        for c in range(wide):
                            z[to + c] = (row[j + c] - origin[j + c]) - offset[j + c]
                    else:
                        for c in range(d - j):
                            z[to + c] = (row[j + c] - origin[j + c]) - offset[j + c]
            for right in range(tiles):
                for first in range(0, (right + 1) * wide, high):
                    left, r = first // wide, first % wide
                    add_tile(
                        z, left * TILE_SAMPLES * wide + r, right * TILE_SAMPLES * wide, size, sums,
                        (first * tiles + right) * wide, tiles * wide,
                    )  # fmt: skip

    return add


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


PANEL, NARROW_PANEL = 128, 32
"""Columns of a panel of a symmetric product, of a matrix wider than PANEL or not: what lies below the diagonal is not
computed."""


def add_square(total: torch.Tensor, z: torch.Tensor) -> None:
    """Add z^T z of z (n, d) to the upper panels of total (d, d)."""
    panel = PANEL if z.shape[1] > PANEL else NARROW_PANEL
    for first in range(0, z.shape[1], panel):
        columns = slice(first, first + panel)
        total[columns, first:].addmm_(z[:, columns].T, z[:, first:])


def symmetric(total: torch.Tensor) -> Array:
    """The whole of a symmetric matrix (d, d) of which the upper panels are known."""
    if total.device.type == "cpu":
        return _mirrored(total.numpy(), np.empty(total.shape))  # type: ignore[no-any-return]
    upper = torch.triu(total).double()
    return (upper + torch.triu(upper, 1).T).numpy()


@njit(nogil=True, cache=True, error_model="numpy")
def _mirrored(upper, whole):  # type: ignore[no-untyped-def]
    for i in range(len(upper)):
        for j in range(i, len(upper)):
            whole[i, j] = whole[j, i] = upper[i, j]
    return whole


def between(means: Means, precision: Any) -> tuple[Array, Array]:
    """The directions (r, d) in which class means differ and the singular values s (r,) there.

    A = centred class means (K, d) = U diag(s) V^T. Kept are at most K-1 values above what the features' precision
    leaves of a difference of means: a spurious one would be inverted into nonsense.
    """
    centred = means.centred
    s, v = row_space(centred)
    # half a unit in the last place of the features, in each of d coordinates; in float64 the sums' own rounding too
    unit = max(0.5 * float(np.finfo(np.dtype(precision)).eps), 8 * float(np.finfo(np.float64).eps))
    tolerance = unit * max(means.magnitude, float(s.max(initial=0.0))) * np.sqrt(centred.shape[1])
    r = min(int((s > tolerance).sum()), max(0, len(centred) - 1))
    return v[:r], s[:r]


def row_space(a: Array) -> tuple[Array, Array]:
    """Singular values of a (K, d), largest first, and the right singular vectors as rows: (m,), (m, d), m = min(K, d).

    Of few rows by rotations; else by a QR decomposition first, which leaves a square of the smaller side. It is
    torch's, which keeps to its threads; numpy takes all.
    """
    if not np.isfinite(a).all():
        return np.empty(0), np.empty((0, a.shape[1]))
    if len(a) <= min(FEW, a.shape[1]) and (found := rotated(a)) is not None:
        return found
    rows = torch.from_numpy(np.ascontiguousarray(a))
    if 2 * len(a) <= a.shape[1]:
        q, r = torch.linalg.qr(rows.T)
        _, s, v = torch.linalg.svd(r.T, full_matrices=False)
        v = v @ q.T
    else:
        r = torch.linalg.qr(rows, mode="r").R if len(a) >= 2 * a.shape[1] else rows
        _, s, v = torch.linalg.svd(r, full_matrices=False)
    return s.numpy(), v.numpy()


def each_block(task: Callable[[int, slice], None] | None, count: int, threads: int = 1) -> int:
    """Do every block of `count` samples, by number and rows; gives how many blocks there are.

    The compiled loops release the GIL, so plain threads use the cores.
    """
    blocks = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    if task is None:
        pass
    elif threads <= 1 or len(blocks) <= 1:
        for number, part in enumerate(blocks):
            task(number, part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(task, range(len(blocks)), blocks))
    return len(blocks)
