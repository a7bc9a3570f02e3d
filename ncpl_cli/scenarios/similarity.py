"""How alike neighbouring tasks are, as a knob: `none`, `rotation:DEG`, `interpolate:SHARE`, `disagree:SHARE`.

    rotation     each task turns the images DEG degrees further: three shears whose rounded shifts run around the edge,
                 so that a turned image is the same pixels in another order (Paeth 1986)
    interpolate  each task puts a SHARE of the pixels of the last task's order into another order
    disagree     the pixels stay; each task gives a SHARE of the classes of the last one each other's names

All three are steps from task to task, so that tasks further apart are less alike; what the tasks have in common is
measured (metrics/similarity.py), not taken from the knob.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng, values
from ncpl_cli.errors import InputError
from ncpl_cli.values import Allowed

Index = NDArray[np.int64]

KINDS = {"rotation": Allowed(float, above=0, most=180), "interpolate": Allowed(float, above=0, most=1),
         "disagree": Allowed(float, above=0, most=1)}  # fmt: skip
NONE = "none"


def written(text: str, said: str) -> str:
    """`none`, `rotation:15`, `interpolate:0.3`, `disagree:0.2`; raises InputError that lists them."""
    kind, _, amount = text.partition(":")
    if text == NONE:
        return text
    if kind not in KINDS:
        raise InputError(
            f"{said} {values.shown(text)} is unknown.",
            "allowed: none, rotation:DEGREES, interpolate:SHARE, disagree:SHARE (rotation:15, interpolate:0.3)",
        )
    return f"{kind}:{values.read(amount, KINDS[kind], f'{said} {kind}'):g}"


@dataclass(frozen=True)
class Similarity:
    """The knob as it was set."""

    kind: str
    amount: float

    @classmethod
    def of(cls, text: str) -> Similarity:
        """From what `written` gives."""
        kind, _, amount = text.partition(":")
        return cls(kind, float(amount or 0))

    def check(self, shape: tuple[int, int, int], classes: int, name: str) -> None:
        """Raise InputError where the images or classes do not take it."""
        if self.kind == "rotation" and shape[1] != shape[2]:
            raise InputError(f"--similarity rotation needs square images: those of {name} are {shape[1]} x {shape[2]}.")
        if self.kind == "disagree" and round(self.amount * classes) < 2:
            raise InputError(
                f"--similarity disagree:{self.amount:g} is impossible: of {classes} classes it is less than the two "
                "that can have each other's names.",
                f"disagree:{2 / classes:g} or more",
            )

    def pixel_order(self, seed: int, index: int, shape: tuple[int, int, int]) -> Index | None:
        """The order in which task `index` shows the pixels; None = as they are."""
        pixels = math.prod(shape)
        if self.kind == "disagree":
            return None
        if self.kind == "rotation":
            turned = rotated(shape[1], self.amount * index)
            return (np.arange(shape[0])[:, None] * len(turned) + turned).reshape(-1).astype(np.int64)
        order = rng.stream(seed, "base pixel order").permutation(pixels).astype(np.int64)
        for task in range(1, index + 1):
            draw = rng.stream(seed, "pixel order", task)
            moved = draw.choice(pixels, size=round(self.amount * pixels), replace=False)
            order[moved] = order[draw.permutation(moved)]
        return order

    def renamed(self, seed: int, index: int, classes: int) -> Index | None:
        """The name of each class in task `index`; None = its own."""
        if self.kind != "disagree":
            return None
        names = np.arange(classes)
        for task in range(1, index + 1):
            moved = rng.stream(seed, "labels", task).permutation(classes)[: round(self.amount * classes)]
            names[moved] = names[np.roll(moved, 1)]  # one round trip: each of them gets another's name
        return names


def rotated(side: int, degrees: float) -> Index:
    """The pixels (side * side,) of a square image in the order in which it shows them when it is turned.

    Quarter turns exactly; the rest, at most 45 degrees, by three shears: each a permutation, and so are all together.
    """
    quarters = round(degrees / 90)
    rest = math.radians(degrees - 90 * quarters)
    grid = np.rot90(np.arange(side * side).reshape(side, side), quarters).copy()
    centred = np.arange(side) - (side - 1) / 2
    for axis, slope in ((0, math.tan(rest / 2)), (1, -math.sin(rest)), (0, math.tan(rest / 2))):
        for line, shift in enumerate(np.rint(slope * centred).astype(int)):
            if axis == 0:
                grid[line] = np.roll(grid[line], shift)
            else:
                grid[:, line] = np.roll(grid[:, line], shift)
    return grid.reshape(-1).astype(np.int64)
