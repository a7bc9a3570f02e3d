"""The samples that runs have been trained on last: what recycling judges units on, across epochs and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Samples of the training split in the order they were shown, and the pixel order they were shown in."""

    index: Index
    pixel_order: Index | None


class Shown:
    """The last `most` samples of each of R runs; `most` 0 remembers nothing."""

    def __init__(self, runs: int, most: int) -> None:
        self._most = most
        self._parts: list[list[Part]] = [[] for _ in range(runs)]

    def add(self, run: int, index: Index, pixel_order: Index | None) -> None:
        """A run has been shown these samples."""
        if self._most:
            self._parts[run] = _last([*self._parts[run], Part(index, pixel_order)], self._most)

    def last(self, run: int, now: Index, pixel_order: Index | None) -> list[Part]:
        """The last samples of a run that has since been shown `now` of the epoch at hand."""
        return _last([*self._parts[run], Part(now, pixel_order)], self._most) if self._most else []

    def state(self, run: int) -> dict[str, Tensor]:
        """What a run has been shown, for a checkpoint."""
        found = {}
        for number, part in enumerate(self._parts[run]):
            found[f"shown.{number}"] = torch.from_numpy(part.index.copy())
            if part.pixel_order is not None:
                found[f"shown_pixels.{number}"] = torch.from_numpy(part.pixel_order.copy())
        return found

    def load(self, run: int, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        parts: list[Part] = []
        while (index := state.get(f"shown.{len(parts)}")) is not None:
            order = state.get(f"shown_pixels.{len(parts)}")
            parts.append(Part(index.numpy().copy(), None if order is None else order.numpy().copy()))
        self._parts[run] = _last(parts, self._most)


def _last(parts: Sequence[Part], most: int) -> list[Part]:
    """The last samples, neighbours of one pixel order in one part."""
    found: list[Part] = []
    for part in reversed(parts):
        index = part.index[max(0, len(part.index) - most) :]
        most -= len(index)
        if len(index) and found and _same(found[0].pixel_order, part.pixel_order):
            found[0] = Part(np.concatenate([index, found[0].index]), part.pixel_order)
        elif len(index):
            found.insert(0, Part(index, part.pixel_order))
    return found


def _same(a: Index | None, b: Index | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))
