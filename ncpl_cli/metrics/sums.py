"""What a stream of samples adds up to: counts, class means and the scatter around them, moved as they move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ncpl_cli.metrics import moments
from ncpl_cli.metrics.moments import Array, Means
from ncpl_cli.metrics.neural_collapse import MOST_SQUARE


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _centre(x, labels, places, origin, offsets, z, sums, distance):  # type: ignore[no-untyped-def]
    """Fill z (n, d) with centred rows, and add them to sums (K, d), by their classes' places in the block, and their
    squares to distance (C,), in float64."""
    for i in range(x.shape[0]):
        row, total, square = z[i], sums[places[i]], 0.0
        moments.centre_row(x[i], origin, offsets[labels[i]], row)
        for j in range(x.shape[1]):
            total[j] += row[j]
            square += row[j] * row[j]
        distance[labels[i]] += square


@dataclass
class Sums:
    """Counts (C,), class means from an origin (C, d), and the scatter around them: by class (C,), and (d, d) in all."""

    counts: NDArray[np.int64]
    origin: Array
    offsets: Array
    distance: Array
    moment: torch.Tensor | None
    magnitude: float
    precision: Any

    @classmethod
    def empty(cls, classes: int, origin: Array, square: bool) -> Sums:
        """Nothing seen yet of so many classes, about `origin` (d); `square`: with the d x d moment if not huge."""
        d = len(origin)
        moment = torch.zeros(d, d, dtype=torch.float64) if square and d <= MOST_SQUARE else None
        return cls(
            np.zeros(classes, np.int64), origin, np.zeros((classes, d)), np.zeros(classes), moment, 0.0, np.float64
        )

    def host(self) -> Sums:
        """These sums, where NumPy reads them."""
        return self

    def means(self, global_mean: str) -> Means:
        """As `moments.class_means` gives them."""
        present = self.counts > 0
        weights = (
            self.counts / max(1, self.counts.sum()) if global_mean == "sample" else present / max(1, present.sum())
        )
        return Means(self.counts, self.origin, self.offsets, weights @ self.offsets, self.magnitude)

    def add(self, x: NDArray[Any], y: NDArray[np.int64]) -> None:
        """Add a block of samples; nothing is done for the classes that have none in it."""
        d = len(self.origin)
        own, places, count = np.unique(y, return_inverse=True, return_counts=True)
        if len(new := own[self.counts[own] == 0]):  # classes seen for the first time: their means in this block
            rows = np.isin(y, new)
            first = moments.class_means(x[rows], np.searchsorted(new, y[rows]), len(new))
            self.offsets[new] = (first.origin - self.origin) + first.offsets
        z, sums = np.empty(x.shape), np.zeros((len(own), d))
        _centre(x, y, places, self.origin, self.offsets, z, sums, self.distance)
        # around the new means: the old ones were off by `move`
        total = self.counts[own] + count
        move = sums / total[:, None]  # K x d
        self.distance[own] = np.maximum(self.distance[own] - total * (move**2).sum(1), 0.0)
        if self.moment is not None:
            moments.add_square(self.moment, torch.from_numpy(z))
            self.moment.addmm_(torch.from_numpy((move * total[:, None]).T), torch.from_numpy(move), alpha=-1)
        self.offsets[own] += move
        self.counts[own] = total
        self.magnitude = max(self.magnitude, moments.magnitude_of(x, self.origin, self.offsets[own]))
        self.precision = max(self.precision, x.dtype, key=lambda t: np.finfo(t).eps)

    def join(self, other: Sums) -> None:
        """Add what another has seen."""
        total = np.maximum(self.counts + other.counts, 1)
        gap = (other.origin - self.origin) + (other.offsets - self.offsets)  # C x d
        gap[other.counts == 0] = 0.0
        weight = self.counts * other.counts / total
        self.distance = self.distance + other.distance + weight * (gap**2).sum(1)
        if self.moment is not None and other.moment is not None:
            self.moment += other.moment
            self.moment.addmm_(torch.from_numpy((gap * weight[:, None]).T), torch.from_numpy(gap))
        self.offsets = self.offsets + gap * (other.counts / total)[:, None]
        self.counts = self.counts + other.counts
        self.magnitude = max(self.magnitude, other.magnitude)
        self.precision = max(self.precision, other.precision, key=lambda t: np.finfo(t).eps)
