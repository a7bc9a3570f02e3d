"""Formulas of correlation, each in one place: arrays in, arrays out, one series per row, NaN where undefined.

A correlation of fewer than four points, of a constant, or with |r| = 1 is undefined: it has no Fisher z, and a
zero in its place would read as "no association". No function here knows of runs, stores or p-values
(`resampling` has those).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST_POINTS = 4
"""Three points on a straight line happen by chance; Fisher's z has variance 1/(n - 3)."""

_CERTAIN = 1 - 1e-12  # |r| above this is a straight line up to rounding
_ROUNDING = 8 * np.finfo(np.float64).eps  # a standard deviation below this share of the mean is rounding


# correlation ---------------------------------------------------------------------------------------------------


def pearson(x: Array, y: Array) -> Array:
    """Pearson's r along the last axis: sum(dx dy) / sqrt(sum(dx^2) sum(dy^2)), d = deviation from the mean.

    Centred before squaring and scaled by the largest deviation, so offsets and tiny units cost no digits.
    """
    x, y = np.broadcast_arrays(x, y)
    n = x.shape[-1]
    if n < FEWEST_POINTS:
        return np.full(x.shape[:-1], np.nan)
    dx, mean_x = _centred(x)
    dy, mean_y = _centred(y)
    scale_x, scale_y = _scale(dx), _scale(dy)
    dx, dy = dx / scale_x, dy / scale_y
    scatter_x, scatter_y = (dx * dx).sum(-1), (dy * dy).sum(-1)
    flat = is_flat(np.sqrt(scatter_x / n) * scale_x[..., 0], mean_x) | is_flat(
        np.sqrt(scatter_y / n) * scale_y[..., 0], mean_y
    )
    return r_of((dx * dy).sum(-1), scatter_x, scatter_y, flat)


def _mean_ranks(x: Array) -> Array:
    """1 for the smallest along the last axis, ties sharing their mean rank; NaN throughout where something is NaN.

    As scipy.stats.rankdata, to import which takes longer than all the rest of `ncpl correlate`.
    """
    order = np.argsort(x, axis=-1, kind="stable")
    values, place = np.take_along_axis(x, order, -1), np.arange(x.shape[-1])
    new = values[..., 1:] != values[..., :-1]  # the first of its ties
    edge = np.ones((*x.shape[:-1], min(x.shape[-1], 1)), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, new], -1), place, 0), -1)
    last = np.where(np.concatenate([new, edge], -1), place, len(place))
    last = np.minimum.accumulate(last[..., ::-1], -1)[..., ::-1]
    found = np.empty(x.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, -1)
    return np.where(np.isnan(x).any(-1, keepdims=True), np.nan, found)


def ranks(x: Array) -> Array:
    """Ranks along the last axis, ties sharing their mean rank. What varies by no more than rounding is all ties."""
    found = _mean_ranks(np.asarray(x))
    if x.shape[-1]:
        d, mean = _centred(x)
        flat = is_flat(np.abs(d).max(-1), mean)
        found = np.where(flat[..., None], found.mean(-1, keepdims=True), found)
    return found


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rho along the last axis: Pearson's r of the ranks."""
    return pearson(ranks(x), ranks(y))


METHODS: dict[str, Callable[[Array, Array], Array]] = {"pearson": pearson, "spearman": spearman}
"""The correlations that may be asked for. The registry."""


def constant(x: Array) -> bool:
    """Whether a series is constant (or empty), or varies by no more than rounding."""
    if not len(x):
        return True
    d, mean = _centred(x)
    return bool(is_flat(np.abs(d).max(-1), mean))


def difference(a: Array, b: Array) -> Array:
    """a - b, exactly 0 where it is no more than the rounding of a and b: else rounding gets a sign, an r and a p."""
    return without_rounding(np.asarray(a - b), np.maximum(np.abs(a), np.abs(b)))


def without_rounding(left: Array, size: Array) -> Array:
    """What cancellation left of numbers as large as `size`: exactly 0 where that is only their rounding."""
    return np.where(np.abs(left) <= _ROUNDING * size, 0.0, left)


def differences(x: Array) -> Array:
    """First differences along the last axis; those that differ by no more than the rounding of the values are equal.

    The differences of a straight line are constant, and their noise is the values': eps times |x|, whatever the size
    of the steps. Neighbours in order that lie closer than that share one value, so that ranks share one rank.
    """
    d = np.diff(x, axis=-1)
    if d.shape[-1] < 2:
        return d
    noise = _ROUNDING * np.abs(x).max(-1, keepdims=True)
    order = np.argsort(d, axis=-1, kind="stable")
    ordered = np.take_along_axis(d, order, -1)
    apart = np.diff(ordered, axis=-1) > noise
    if apart.all():  # as is usual: nothing to be made equal
        return d
    first = np.where(np.concatenate([np.ones_like(apart[..., :1]), apart], -1), np.arange(d.shape[-1]), 0)
    shared = np.take_along_axis(ordered, np.maximum.accumulate(first, axis=-1), -1)
    found = np.empty_like(d)
    np.put_along_axis(found, order, shared, -1)
    return found


def _centred(x: Array) -> tuple[Array, Array]:
    mean = x.mean(-1, keepdims=True)
    return x - mean, mean[..., 0]


def _scale(deviation: Array) -> Array:
    largest = np.abs(deviation).max(-1, keepdims=True)
    return np.where(largest > 0, largest, 1.0)


def is_flat(deviation: Array, mean: Array) -> NDArray[np.bool_]:
    """Constant, or varying by no more than rounding."""
    return np.asarray(deviation <= _ROUNDING * np.abs(mean))


def r_of(products: Array, scatter_x: Array, scatter_y: Array, flat: NDArray[np.bool_]) -> Array:
    """r from sums of products and of squares; NaN where a side is flat, has no scatter, or |r| is 1 up to rounding."""
    scatter = np.sqrt(scatter_x * scatter_y)
    undefined = flat | ~(scatter > 0)
    r = products / np.where(undefined, 1.0, scatter)
    return np.where(undefined | ~(np.abs(r) < _CERTAIN), np.nan, r)


def pearson_between(x: Array, y: Array) -> Array:
    """Pearson's r of every row of x with every row of y: (rows, n), (others, n) -> (rows, others)."""
    if x.shape[-1] < FEWEST_POINTS:
        return np.full((len(x), len(y)), np.nan)
    sides = []
    for values in (x, y):
        d, mean = _centred(values)
        scale = _scale(d)
        d = d / scale
        size = np.sqrt((d * d).sum(-1))
        flat = is_flat(size / math.sqrt(d.shape[-1]) * scale[..., 0], mean)
        sides.append(d / np.where(flat, np.nan, size)[:, None])
    r = sides[0] @ sides[1].T
    return np.where(np.abs(r) < _CERTAIN, r, np.nan)


# what a shared trend leaves ------------------------------------------------------------------------------------


def residuals(values: Array, regressors: Array) -> Array:
    """What a linear regression on `regressors` (k x n, or rows x k x n) and a constant leaves of each row of values.

    By an orthonormal basis (QR) of the centred and scaled regressors: no normal equations, which square the condition.
    Regressors that are constant or depend on the others add nothing.
    """
    centred, _ = _centred(regressors)
    centred = centred / _scale(centred)
    basis, upper = np.linalg.qr(np.swapaxes(centred, -1, -2))  # ... x n x k
    sizes = np.abs(np.diagonal(upper, axis1=-2, axis2=-1))
    basis = basis * (sizes > 1e-10 * math.sqrt(values.shape[-1]))[..., None, :]
    left, _ = _centred(values)
    for _ in range(2):  # twice is enough: the second projection removes what rounding left of the first
        left = left - (basis @ (np.swapaxes(basis, -1, -2) @ left[..., None]))[..., 0]
        left, _ = _centred(left)
    # exact linear dependence leaves rounding, which must not be correlated
    noise = np.abs(values).max(-1, keepdims=True) * 64 * _ROUNDING
    return np.where(np.abs(left).max(-1, keepdims=True) <= noise, 0.0, left)


def detrended(values: Array, axis: Array) -> Array:
    """Residuals of a straight line in the axis, per row."""
    return residuals(values, axis[None, :])


def partial(x: Array, y: Array, controls: Array, *, method: str = "pearson") -> Array:
    """Correlation of x and y given controls (rows x k x n): r of what a linear regression on them leaves of each.

    Equals (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)) for one control z. `spearman`: of ranks throughout.
    Undefined with fewer than four points more than controls, and where a control determines x or y.
    """
    if x.shape[-1] < FEWEST_POINTS + controls.shape[-2]:
        return np.full(x.shape[:-1], np.nan)
    if method == "spearman":
        x, y, controls = ranks(x), ranks(y), ranks(controls)
    return pearson(residuals(x, controls), residuals(y, controls))


def autocorrelations(x: Array) -> Array:
    """Autocorrelation of each row at lags 0 .. n-1: sum(d_t d_(t+k)) / sum(d_t^2) (by FFT)."""
    n = x.shape[-1]
    d, mean = _centred(x)
    scale = _scale(d)
    d = np.where(is_flat(np.abs(d).max(-1), mean)[..., None], 0.0, d / scale)
    spectrum = np.fft.rfft(d, 2 * n, axis=-1)
    products = np.fft.irfft(spectrum * spectrum.conj(), 2 * n, axis=-1)[..., :n]
    total = products[..., :1]
    return products / np.where(total > 0, total, np.nan)


def effective_n(x: Array, y: Array) -> Array:
    """How many independent points a pair of autocorrelated rows is worth: n / (1 + 2 sum_k rho_x(k) rho_y(k)).

    (Bayley & Hammersley 1946 with Bartlett's product.) The sum ends at the first product that is not positive: beyond
    it sample autocorrelations are noise, and summed over all lags they cancel to nothing.
    """
    n = x.shape[-1]
    if n < FEWEST_POINTS:
        return np.full(x.shape[:-1], np.nan)
    products = (autocorrelations(x) * autocorrelations(y))[..., 1:]
    counted = np.cumprod(products > 0, axis=-1)
    total = (np.where(counted == 1, products, 0.0)).sum(-1)
    constant = np.isnan(products).all(-1)
    return np.where(constant, np.nan, n / (1 + 2 * total))


# runs put together ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A correlation over independent units (runs, or blocks of runs that share a seed).

    mean_r          plain mean of the units' r, over all runs where it is defined
    fisher_mean_r   tanh of the mean z, z = artanh r averaged within a block: the centre of ci95
    ci95            tanh(mean z +- t(.975, n - 1) s / sqrt(n)); None below two units
    spread_of_z     sample standard deviation of z over units
    same_sign       (runs that have the sign of the mean, runs where r is defined)
    leave_one_out   smallest and largest mean_r when one unit is left out; None below three
    """

    n: int
    mean_r: float | None
    fisher_mean_r: float | None
    ci95: tuple[float, float] | None
    spread_of_z: float | None
    same_sign: tuple[int, int]
    leave_one_out: tuple[float, float] | None


def in_blocks(values: Array, blocks: Sequence[object]) -> Array:
    """Mean over the rows of each block, blocks in order of appearance; NaN rows do not count."""
    names = list(dict.fromkeys(blocks))
    if len(names) == len(blocks):
        return values
    rows = np.array([names.index(b) for b in blocks])
    found = np.full((len(names), *values.shape[1:]), np.nan)
    for i in range(len(names)):
        part = values[rows == i]
        count = np.isfinite(part).sum(0)
        found[i] = np.where(count > 0, np.nansum(part, axis=0) / np.maximum(count, 1), np.nan)
    return found


def summary(r: Array, blocks: Sequence[object] | None = None) -> Summary:
    """Mean correlation over runs with the interval that a t distribution over the runs' Fisher z gives."""
    blocks = list(range(len(r))) if blocks is None else blocks
    kept = np.isfinite(r)
    r, blocks = r[kept], [b for b, keep in zip(blocks, kept, strict=True) if keep]
    if not len(r):
        return Summary(0, None, None, None, None, (0, 0), None)
    mean_r = float(r.mean())
    z = in_blocks(np.arctanh(r), blocks)
    units = in_blocks(r, blocks)
    n = len(z)
    centre = float(z.mean())
    interval = t_interval(z)
    return Summary(
        n=n,
        mean_r=mean_r,
        fisher_mean_r=math.tanh(centre),
        ci95=None if interval is None else (math.tanh(interval[0]), math.tanh(interval[1])),
        spread_of_z=float(z.std(ddof=1)) if n > 1 else None,
        same_sign=(int((np.sign(r) == np.sign(mean_r)).sum()), len(r)),
        leave_one_out=_leave_one_out(units) if n > 2 else None,
    )


def t_interval(values: Array, spent: int = 1) -> tuple[float, float] | None:
    """95 % interval of a mean: mean +- t(.975, n - spent) s / sqrt(n); None where no degree of freedom is left.

    spent  what was estimated from the same values: their mean; of pseudo-values also what they are values of
    """
    n = len(values)
    if n <= spent:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(n - spent, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    centre = float(values.mean())
    return centre - half, centre + half


def jackknife_interval(whole: float, left: Sequence[float], *, corrected: bool = True) -> tuple[float, float] | None:
    """95 % interval of a correlation from its values with one unit left out each: t over pseudo-values of Fisher's z.

    z_i* = n z - (n - 1) z_(-i); None below three units. `corrected` centres it at their mean, which extrapolates to
    many units; where the number of units is part of what is estimated (as in r of averaged series) it stays at z.
    """
    n = len(left)
    if n < 3:
        return None
    z = math.atanh(whole)
    pseudo = np.array([n * z - (n - 1) * math.atanh(r) for r in left])
    interval = t_interval(pseudo if corrected else pseudo - pseudo.mean() + z)
    return None if interval is None else (math.tanh(interval[0]), math.tanh(interval[1]))


def _leave_one_out(values: Array) -> tuple[float, float]:
    means = (values.sum() - values) / (len(values) - 1)
    return float(means.min()), float(means.max())
