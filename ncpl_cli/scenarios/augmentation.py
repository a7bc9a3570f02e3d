"""Images moved at random while they are trained on: `none`, or some of `flip`, `crop:PIXELS`, `rotate:DEGREES`.

    flip    left and right change places, in half of the images
    crop    a window of the image's size out of the image with PIXELS more on every side, mirrored about its edge
    rotate  turned to the left by up to DEGREES about the centre, to the nearest pixel; what comes in from outside has
            the channels' mean

Joined by `+` and done in this order, as D24 does (crop:4, rotate:15). The draws of an epoch are four numbers a sample
in [0, 1), of a stream that its task and task epoch name: what is resumed in between moves on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng, values
from ncpl_cli.errors import InputError
from ncpl_cli.values import Allowed

NONE = "none"

AMOUNTS = {"crop": Allowed(int, most=1024), "rotate": Allowed(float, above=0, most=180)}

HINT = "allowed: none, or some of flip, crop:PIXELS and rotate:DEGREES joined by + (crop:4+flip+rotate:15)"


def written(text: str, said: str) -> str:
    """As `Augmentation.of` reads it, in one order; raises InputError that says what is allowed."""
    amounts: dict[str, str] = {}
    for one in text.split("+") if text != NONE else ():
        kind, _, amount = one.partition(":")
        if kind in amounts or kind not in ("flip", *AMOUNTS) or (kind == "flip" and one != kind):
            raise InputError(f"{said} {values.shown(text)} is unknown.", HINT)
        amounts[kind] = "flip" if kind == "flip" else f"{kind}:{values.read(amount, AMOUNTS[kind], f'{said} {kind}'):g}"
    return "+".join(amounts[kind] for kind in ("flip", "crop", "rotate") if kind in amounts) or NONE


@dataclass(frozen=True)
class Augmentation:
    """How images are moved; `seed` and `task` name the streams of the draws.

    crop    pixels of the margin; rotate: the largest angle in degrees; 0 = not done
    """

    flip: bool
    crop: int
    rotate: float
    seed: int
    task: int

    @classmethod
    def of(cls, text: str, seed: int = 0, task: int = 0) -> Augmentation | None:
        """From what `written` has read; None where nothing is done."""
        parts = dict(one.partition(":")[::2] for one in text.split("+"))
        if text == NONE:
            return None
        return cls("flip" in parts, int(parts.get("crop", 0)), float(parts.get("rotate", 0)), seed, task)

    def check(self, shape: tuple[int, int, int], name: str) -> None:
        """Raise InputError where images are too small to be mirrored about their edge that far."""
        if self.crop >= (side := min(shape[1:])):
            raise InputError(
                f"--augment crop:{self.crop} is impossible: images of {name} are {shape[1]} x {shape[2]}, and the "
                f"margin is at most {side - 1} pixels."
            )

    def draws(self, task_epoch: int, samples: int) -> NDArray[np.float32]:
        """Four numbers in [0, 1) of each sample of an epoch, in the order in which they are shown (n, 4)."""
        return rng.stream(self.seed, "augmentation", self.task, task_epoch).random((samples, 4), dtype=np.float32)
