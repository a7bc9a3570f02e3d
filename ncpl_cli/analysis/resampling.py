"""p-values by resampling whole runs: exact where that is few enough, else seeded and counted.

The independent unit is the run. Epochs of one run are not exchangeable (autocorrelation), runs are: under "no
association" a run's Fisher z is as likely negative as positive, so its sign may be flipped.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.analysis.statistics import constant

Array = NDArray[np.float64]

FEWEST_RUNS = 6
"""With five runs the smallest two-sided p is 2/32 = .0625: it could never be called significant."""

EXACT = 1 << 16
"""Up to so many flips (16 runs) or permutations (8 runs) all are done."""

FLIPS = 99_999
"""Beyond that, so many drawn ones: p = (b + 1) / (FLIPS + 1)."""

_TIE = 1 - 1e-9  # two sums that are equal but for rounding count as equal
_BLOCK = 1 << 19

_PRODUCT = 1 << 18
"""Multiplications in one matrix product: fits the cache, and is what OpenBLAS still does on one thread. With more,
its threads wait for each other on a busy machine: ten times slower here."""


@dataclass(frozen=True)
class SignFlips:
    """p-values of columns (windows, lags) of a runs x columns table under flips of the runs' signs.

    p         per column, two-sided: share of flips with |sum z| at least as large as observed
    p_family  per column, paid for all columns: share of flips whose largest |t| over columns is at least this one's
    flips     how many flips p rests on; `exact` when that is all 2^runs of them
    """

    p: Array
    p_family: Array
    flips: int
    exact: bool


def sign_flips(z: Array, *, flips: int = FLIPS, seed: int = 0) -> SignFlips:
    """Sign-flip test of mean z = 0 for every column of z (runs x columns), and of all columns together (max |t|).

    Columns with fewer than six runs get no p and are not part of the family.
    """
    runs, columns = z.shape
    present = np.isfinite(z)
    counts = present.sum(0)
    tested = np.flatnonzero(counts >= FEWEST_RUNS)
    p, p_family = np.full(columns, np.nan), np.full(columns, np.nan)
    exact = runs <= math.log2(EXACT)
    if not len(tested):
        return SignFlips(p, p_family, 0, exact)
    flipped = signs(runs, None if exact else flips, seed)  # flips x runs
    table = np.where(present, z, 0.0)[:, tested]
    size = np.sqrt((table**2).sum(0))
    table = table / np.where(size > 0, size, 1.0)
    n = counts[tested].astype(np.float64)
    observed = np.abs(table.sum(0))
    equal = bool((n == n[0]).all())  # then |sum| / sqrt(sum of squares) orders as |t| does
    top = observed if equal else _t(observed, n)
    larger = np.zeros(len(tested), dtype=np.int64)
    largest = np.zeros(len(flipped))
    width = min(len(tested), max(16, _PRODUCT // (64 * runs)))
    step = max(1, _PRODUCT // (width * runs))
    if len(tested) > width:
        step = min(step, 255)  # then hits are counted in bytes, which adds eight times as many at once
    counter = np.uint8 if step <= 255 else np.intp
    for left in range(0, len(tested), width):
        columns_here = slice(left, left + width)
        part, bound = np.ascontiguousarray(table[:, columns_here]), observed[columns_here] * _TIE
        for first in range(0, len(flipped), step):
            flips_here = slice(first, first + step)
            sums = flipped[flips_here] @ part  # flips x columns
            np.abs(sums, out=sums)
            larger[columns_here] += np.add.reduce(sums >= bound, axis=0, dtype=counter)
            if not equal:
                sums = _t(sums, n[columns_here])
            np.maximum(largest[flips_here], sums.max(1), out=largest[flips_here])
    largest.sort()
    beaten = len(flipped) - np.searchsorted(largest, top * _TIE)
    extra = 0 if exact else 1  # the observed one is among all flips, not among drawn ones
    p[tested] = (larger + extra) / (len(flipped) + extra)
    p_family[tested] = (beaten + extra) / (len(flipped) + extra)
    return SignFlips(p, p_family, len(flipped) * 2 if exact else len(flipped), exact)


def _t(q: Array, n: Array) -> Array:
    """|t| from q = |sum| / sqrt(sum of squares): t = q sqrt((n - 1) / (n - q^2))."""
    t: Array = q * np.sqrt((n - 1) / np.maximum(n - q**2, 1e-12))
    return t


@lru_cache(maxsize=8)
def signs(runs: int, flips: int | None, seed: int) -> Array:
    """Rows of +1 and -1: all that differ (the last run's sign is held, since a mirror image has the same |sum|)."""
    if flips is None:
        bits = np.arange(1 << (runs - 1))[:, None] >> np.arange(runs)[None, :] & 1
    else:
        bits = rng.stream(seed, "sign flips", runs, flips).integers(0, 2, (flips, runs))
    found: Array = np.where(bits == 1, -1.0, 1.0)
    found.flags.writeable = False
    return found


@dataclass(frozen=True)
class SeedSwap:
    """Does x of a run belong to y of the same run, or do both merely follow the training clock?

    matched_r, swapped_r  mean r of x with y of the same run, and of x with y of another run
    p                     share of pairings of runs whose mean z lies at least as far from the mean of all pairings
    """

    matched_r: float | None
    swapped_r: float | None
    p: float | None
    permutations: int
    exact: bool

    @property
    def share(self) -> float | None:
        """Share of the matched r that x has with y of another run as well: what a driver shared by all runs makes."""
        if self.matched_r is None or self.swapped_r is None or self.matched_r == 0:
            return None
        return max(0.0, self.swapped_r / self.matched_r)


def seed_swap(r: Array, *, permutations: int = FLIPS, seed: int = 0) -> SeedSwap:
    """Permutation test on r (runs x runs), r[i, j] between x of run i and y of run j. No p below six runs."""
    runs = len(r)
    own = np.eye(runs, dtype=bool)
    if runs < 2 or not np.isfinite(r).all():
        return SeedSwap(None, None, None, 0, True)
    matched, swapped = float(r[own].mean()), float(r[~own].mean())
    if runs < FEWEST_RUNS:
        return SeedSwap(matched, swapped, None, 0, True)
    z = np.arctanh(r)
    z = z - z.mean()  # the mean over all pairings
    exact = math.factorial(runs) <= EXACT
    orders = _orders(runs, None if exact else permutations, seed)
    found = np.abs(z[np.arange(runs), orders].mean(1))
    observed = abs(float(z[own].mean()))
    extra = 0 if exact else 1
    p = (int((found >= observed * _TIE - 1e-15).sum()) + extra) / (len(orders) + extra)
    return SeedSwap(matched, swapped, p, len(orders), exact)


@lru_cache(maxsize=4)
def _orders(runs: int, permutations: int | None, seed: int) -> NDArray[np.intp]:
    if permutations is None:
        return np.array(list(itertools.permutations(range(runs))))
    tiled = np.tile(np.arange(runs), (permutations, 1))
    return rng.stream(seed, "seed swap", runs, permutations).permuted(tiled, axis=1)


@dataclass(frozen=True)
class Permuted:
    """p-values of correlations over runs: `p` per column of y, `p_family` paid for all columns (max |r|)."""

    p: Array
    p_family: Array
    permutations: int


def permutation(x: Array, y: Array, blocks: NDArray[np.intp], *, permutations: int = FLIPS, seed: int = 0) -> Permuted:
    """Permutation test of Pearson's r over runs between x (runs) and each column of y (runs x columns).

    x changes hands only within a block (runs that share a seed, hence initialisation and data order); where every
    run is a block of its own, freely. No p below six runs. Undefined where y has NaN.
    """
    runs, columns = y.shape
    p, p_family = np.full(columns, np.nan), np.full(columns, np.nan)
    tested = np.array([i for i, c in enumerate(y.T) if np.isfinite(c).all() and not constant(c)], dtype=np.intp)
    alone = len(set(blocks.tolist())) == runs
    labels = np.zeros(runs, dtype=np.intp) if alone else blocks
    movable = any(not constant(x[labels == b]) for b in set(labels.tolist()))
    if runs < FEWEST_RUNS or not len(tested) or not movable:
        return Permuted(p, p_family, 0)
    dx = x - x.mean()
    dy = y[:, tested] - y[:, tested].mean(0)
    dx, dy = dx / np.sqrt((dx**2).sum()), dy / np.sqrt((dy**2).sum(0))
    observed = np.abs(dx @ dy)
    draw = rng.stream(seed, "permutation within blocks", runs, permutations)
    moved = np.tile(dx, (permutations, 1))
    for block in dict.fromkeys(labels.tolist()):
        part = np.flatnonzero(labels == block)
        if len(part) > 1:
            moved[:, part] = draw.permuted(moved[:, part], axis=1)
    larger = np.zeros(len(tested), dtype=np.int64)
    largest = np.empty(permutations)
    step = max(1, _BLOCK // len(tested))
    for first in range(0, permutations, step):
        found = np.abs(moved[first : first + step] @ dy)
        larger += (found >= observed * _TIE).sum(0)
        largest[first : first + step] = found.max(1)
    largest.sort()
    p[tested] = (larger + 1) / (permutations + 1)
    p_family[tested] = (permutations - np.searchsorted(largest, observed * _TIE) + 1) / (permutations + 1)
    return Permuted(p, p_family, permutations)


def benjamini_yekutieli(p: Array) -> Array:
    """Adjusted p-values that hold the false discovery rate under any dependence (Benjamini & Yekutieli 2001).

    q_(i) = min over j >= i of p_(j) m (1 + 1/2 + ... + 1/m) / j, at most 1. NaN stays NaN and is not counted.
    """
    found = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    m = len(tested)
    if not m:
        return found
    order = tested[np.argsort(p[tested], kind="stable")]
    rank = np.arange(1, m + 1)
    scaled = p[order] * m * (1 / rank).sum() / rank
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found
