"""What a split shows a network: batches in order, and the label of every sample they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What a network is given, and how many samples that gives.

    rows  per token: which of the (N T) tokens are samples, None: all
    mask  (N, T) which tokens there are, None: all
    """

    given: Any
    samples: int
    rows: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Shown:
    """A split: labels (N,), and `batches(size)` of that many images or sequences. `comparable`: whether labels are
    numbers of the network's own outputs."""

    labels: Labels
    batches: Callable[[int], Iterator[Batch]]
    comparable: bool = True
    notes: list[str] = field(default_factory=list)
