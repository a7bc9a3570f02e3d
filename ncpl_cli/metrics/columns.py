"""What the units of a layer do on some samples, from one read of their values: sums and counts by column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Of values (n, width), in float64; a value that is no number is in no count.

    absolute            sum of absolute values of each column, (width,)
    positive, negative  how many values of each column are above and below 0, (width,)
    mean, square        of all values, and the sum of squares around it
    norms               sum of the rows' L2 norms
    """

    n: int
    absolute: Tensor
    positive: Tensor
    negative: Tensor
    mean: float
    square: float
    norms: float


def columns(x: Tensor | Columns) -> Columns:
    """Values (n, width) read once: on the processor by a compiled loop, elsewhere by torch where they are."""
    if isinstance(x, Columns):
        return x
    n, width = x.shape
    if x.device.type != "cpu":
        wide = x.double()
        mean = float(wide.mean())
        return Columns(
            n, wide.abs().sum(0), (x > 0).sum(0), (x < 0).sum(0), mean, float((wide - mean).square().sum()),
            float(torch.linalg.vector_norm(wide, dim=1).sum()),
        )  # fmt: skip
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    x = x if width and x.stride(1) == 1 and x.stride(0) >= width else x.contiguous()
    step = x.stride(0)
    size = (n - 1) * step + width if n and width else 0
    flat: Any = x.as_strided((size,), (1,)).numpy()  # rows may be padded
    absolute, counts = np.zeros(width), np.zeros((2, width), np.int32)
    mean, square, norms = _read(flat, step, n, absolute, counts[0], counts[1])
    return Columns(
        n, torch.from_numpy(absolute), torch.from_numpy(counts[0]), torch.from_numpy(counts[1]), mean, square, norms
    )


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _read(flat, step, n, absolute, positive, negative):  # type: ignore[no-untyped-def]
    width, total, square, norms = len(absolute), 0.0, 0.0, 0.0
    for i in range(n):
        row, norm = flat[i * step : i * step + width], 0.0
        for j in range(width):
            value = np.float64(row[j])
            absolute[j] += abs(value)
            positive[j] += value > 0
            negative[j] += value < 0
            total += value
            norm += value * value
        norms += np.sqrt(norm)
    mean = total / (n * width)
    for i in range(n):
        row = flat[i * step : i * step + width]
        for j in range(width):
            square += (row[j] - mean) ** 2
    return mean, square, norms
