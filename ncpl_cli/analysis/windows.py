"""r of every sliding window of many series, in time that does not grow with the window."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ncpl_cli.analysis.statistics import FEWEST_POINTS, METHODS, is_flat, r_of

Array = NDArray[np.float64]

_BLOCK = 1 << 20  # numbers held at once by the batched paths: fits the cache of a laptop core


def sliding_pearson(x: Array, y: Array, points: int) -> Array:
    """Pearson's r of every window of `points` consecutive columns: (rows, n) -> (rows, n - points + 1).

    A window is the end of one block of `points` columns and the beginning of the next (van Herk's two passes), so
    it is never had by subtracting long sums, which cancels under offset and drift. Moments of the parts follow
    Welford's recursion and are merged by Chan, Golub & LeVeque's formula, sums of like signs only: a constant
    window has scatter exactly 0. The work is O(n), whatever the window.
    """
    rows, n = x.shape
    found = np.full((rows, max(n - points + 1, 0)), np.nan)
    if points < FEWEST_POINTS or n < points:
        return found
    step = max(1, _BLOCK // n)
    for first in range(0, rows, step):
        part = slice(first, first + step)
        found[part] = _two_pass_windows(x[part], y[part], points)
    return found


def _two_pass_windows(x: Array, y: Array, w: int) -> Array:
    rows, n = x.shape
    blocks = -(-n // w)
    ending: list[tuple[Array, ...]] = []  # moments of the last w - j columns of each block, j = w-1 .. 0
    (xb, centre_x), (yb, centre_y) = (_in_blocks(a, blocks, w) for a in (x, y))  # w x rows x blocks, rows x blocks
    step_x, step_y = _next_block(centre_x) - centre_x, _next_block(centre_y) - centre_y
    moments = _Moments(xb.shape[1:])
    for j in reversed(range(w)):
        moments.add(xb[j], yb[j])
        ending.append(moments.copy())
    ending.reverse()
    found = np.empty((w, rows, blocks))
    moments = _Moments(xb.shape[1:])
    for j in range(w):
        mean_x, mean_y, sxx, syy, sxy = ending[j]
        if j:
            moments.add(xb[j - 1], yb[j - 1])
            dx = _next_block(moments.mean_x) - mean_x + step_x
            dy = _next_block(moments.mean_y) - mean_y + step_y
            share = (w - j) * j / w
            sxx = sxx + _next_block(moments.sxx) + dx * dx * share
            syy = syy + _next_block(moments.syy) + dy * dy * share
            sxy = sxy + _next_block(moments.sxy) + dx * dy * share
            mean_x, mean_y = mean_x + dx * (j / w), mean_y + dy * (j / w)
        flat = is_flat(np.sqrt(sxx / w), mean_x + centre_x) | is_flat(np.sqrt(syy / w), mean_y + centre_y)
        found[j] = r_of(sxy, sxx, syy, flat)
    return found.transpose(1, 2, 0).reshape(rows, blocks * w)[:, : n - w + 1]


class _Moments:
    """Means and scatters of a growing set of points, by Welford's recursion."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean_x, self.mean_y, self.sxx, self.syy, self.sxy = (np.zeros(shape) for _ in range(5))

    def add(self, x: Array, y: Array) -> None:
        self.count += 1
        dx, dy = x - self.mean_x, y - self.mean_y
        self.mean_x += dx / self.count
        self.mean_y += dy / self.count
        rest = y - self.mean_y
        self.sxx += dx * (x - self.mean_x)
        self.syy += dy * rest
        self.sxy += dx * rest

    def copy(self) -> tuple[Array, ...]:
        return tuple(a.copy() for a in (self.mean_x, self.mean_y, self.sxx, self.syy, self.sxy))


def _in_blocks(a: Array, blocks: int, w: int) -> tuple[Array, Array]:
    """Columns as w x rows x blocks around each block's mean, and these means: an offset then costs no digits."""
    rows, n = a.shape
    # a power of two is exact: tiny or huge units then neither underflow nor overflow when squared
    largest = np.abs(a).max(-1, keepdims=True)
    a = np.ldexp(a, -np.frexp(largest)[1])
    padded = np.concatenate([a, np.repeat(a[:, -1:], blocks * w - n, axis=1)], axis=1).reshape(rows, blocks, w)
    centre = padded.mean(-1)
    return np.ascontiguousarray((padded - centre[..., None]).transpose(2, 0, 1)), centre


def _next_block(a: Array) -> Array:
    return np.concatenate([a[:, 1:], a[:, -1:]], axis=1)


def windows(x: Array, y: Array, first: NDArray[np.intp], last: NDArray[np.intp], method: str = "pearson") -> Array:
    """r of the windows x[:, first_i : last_i + 1] of every row: (rows, n) -> (rows, windows).

    For windows that do not all hold equally many points, and for ranks, which have to be taken anew in each.
    """
    rows = x.shape[0]
    found = np.full((rows, len(first)), np.nan)
    counts = last - first + 1
    for points in np.unique(counts[counts >= FEWEST_POINTS]):
        chosen = np.flatnonzero(counts == points)
        if method == "pearson" and len(chosen) > points and np.all(np.diff(first[chosen]) == 1):
            span = slice(first[chosen[0]], last[chosen[-1]] + 1)
            found[:, chosen] = sliding_pearson(x[:, span], y[:, span], int(points))
            continue
        views = [sliding_window_view(a, int(points), axis=1) for a in (x, y)]  # rows x starts x points
        step = max(1, _BLOCK // (int(points) * rows))
        for begin in range(0, len(chosen), step):
            part = chosen[begin : begin + step]
            found[:, part] = METHODS[method](views[0][:, first[part]], views[1][:, first[part]])
    return found
