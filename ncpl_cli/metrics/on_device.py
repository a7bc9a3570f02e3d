"""A stream's sums and its second pass on a CUDA device: the same numbers by the same formulas, in float64 there.

Products are made on the device. Whose mean is nearest, and which logit largest, is taken from them where no rounding
can change it; the few samples about which it could go to the kernels of the host, which look at the differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncpl_cli.metrics import moments
from ncpl_cli.metrics.moments import Array, Means
from ncpl_cli.metrics.second_read import SecondRead
from ncpl_cli.metrics.sums import Sums

EPS = float(np.finfo(np.float64).eps)


@dataclass
class DeviceSums:
    """`Sums` on a device: counts (C,), origin (d,), offsets (C, d), distance (C,), moment (d, d)."""

    counts: Tensor
    origin: Tensor
    offsets: Tensor
    distance: Tensor
    moment: Tensor | None
    magnitude: float
    precision: Any

    @classmethod
    def of(cls, sums: Sums, device: str) -> DeviceSums:
        """Sums of the host, moved."""
        counts, origin, offsets, distance = (
            torch.from_numpy(one).to(device) for one in (sums.counts, sums.origin, sums.offsets, sums.distance)
        )
        moment = None if sums.moment is None else sums.moment.to(device)
        return cls(counts, origin, offsets, distance, moment, sums.magnitude, sums.precision)

    @classmethod
    def empty(cls, classes: int, first: Tensor, square: bool, device: str) -> DeviceSums:
        """Nothing yet, around an origin amid the first samples (n, d)."""
        origin = moments.origin_of(first.double().cpu().numpy())
        return cls.of(Sums.empty(classes, origin, square), device)

    def host(self) -> Sums:
        """These sums, where NumPy reads them."""
        counts, origin, offsets, distance = (
            one.cpu().numpy().copy() for one in (self.counts, self.origin, self.offsets, self.distance)
        )
        moment = None if self.moment is None else self.moment.cpu().clone()
        return Sums(counts, origin, offsets, distance, moment, self.magnitude, self.precision)

    def means(self, global_mean: str) -> Means:
        """As `Sums` gives them."""
        return self.host().means(global_mean)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a block of samples (n, d) with labels (n,), both on the device."""
        wide = x.double() - self.origin  # exact: the origin goes first
        count = torch.zeros_like(self.counts).index_add_(0, y, torch.ones_like(y))
        sums = torch.zeros_like(self.offsets).index_add_(0, y, wide)
        new = ((self.counts == 0) & (count > 0))[:, None]  # classes seen for the first time: their means in this block
        self.offsets = torch.where(new, sums / count.clamp_min(1)[:, None], self.offsets)
        z = wide - self.offsets[y]
        left = torch.zeros_like(self.offsets).index_add_(0, y, z)
        # around the new means: the old ones were off by `move`
        total = self.counts + count
        move = left / total.clamp_min(1)[:, None]
        squares = torch.zeros_like(self.distance).index_add_(0, y, (z * z).sum(1))
        self.distance = (self.distance + squares - total * (move * move).sum(1)).clamp_min(0)
        if self.moment is not None:
            moments.add_square(self.moment, z)
            self.moment.addmm_((move * total[:, None]).T, move, alpha=-1)
        self.offsets = self.offsets + move
        self.counts = total
        few = x[:: max(1, len(x) // moments.ORIGIN_SAMPLES)].double().abs().mean()
        there = torch.where((self.counts > 0)[:, None], (self.offsets + self.origin).abs(), 0.0)
        self.magnitude = max(self.magnitude, float(torch.maximum(there.max(), few)))
        own = np.float64 if x.dtype == torch.float64 else np.float32
        self.precision = max(self.precision, own, key=lambda t: np.finfo(t).eps)


class DeviceRead:
    """`SecondRead` of a stream on a device: scatter along the directions, nearest means, predicted classes."""

    def __init__(self, host: SecondRead, device: str) -> None:
        self._host, self._device = host, device
        means = host.means
        self._origin, self._offsets = self._there(means.origin), self._there(means.offsets)
        self._directions, self._weight = self._there(host.directions), self._there(host.weight)
        self._places, self._levels = self._there(host.places), self._there(0.5 * (host.places**2).sum(1))
        self._logits = self._there(moments.at_origin(means, host.weight, host.bias))
        own = np.zeros(len(means.counts), np.int64)
        own[means.present] = np.arange(len(means.present))
        self._own, self._present = self._there(own), self._there(means.present)
        self._sum = self._there(np.zeros(len(host.directions)))

    def _there(self, value: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value)).to(self._device)

    @property
    def around(self) -> Array:
        """Scatter along each direction so far, (r,)."""
        found: Array = self._sum.cpu().numpy().copy()
        return found

    def read(self, x: Tensor, y: Tensor, threads: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """As `SecondRead.read`, of samples (n, d) and labels (n,) on the device."""
        wide = x.double() - self._origin
        along = (wide - self._offsets[y]) @ self._directions.T  # n x r
        self._sum += (along * along).sum(0)
        nearest, unsure = _smallest(along + self._places[self._own[y]], self._places, self._levels)
        nearest = self._present[nearest]
        predicted = None
        if len(self._weight):
            predicted, more = _smallest(wide, self._weight, -self._logits)
            unsure = unsure | more
        rows = torch.nonzero(unsure)[:, 0]
        found = nearest.cpu().numpy().copy()
        said = None if predicted is None else predicted.cpu().numpy().copy()
        if len(rows):
            at = rows.cpu().numpy()
            near, largest = self._host.read(x[rows].double().cpu().numpy(), y[rows].cpu().numpy(), threads)
            found[at] = near
            if said is not None and largest is not None:
                said[at] = largest
        return found, said


def _smallest(samples: Tensor, rows: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample (n, d) the c with the smallest level_c - sample . row_c, and whether another may be as small."""
    products = levels - samples @ rows.T  # n x C
    best = products.min(1)
    size = torch.linalg.vector_norm(samples, dim=1) * torch.linalg.vector_norm(rows, dim=1).max() + levels.abs().max()
    slack = 4 * (rows.shape[1] + 8) * EPS * size
    near = (products <= (best.values + slack)[:, None]).sum(1)
    return best.indices, near > 1
