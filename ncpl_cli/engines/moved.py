"""Images moved at random on the device they lie on: one gather, in the numbers they are stored as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.scenarios.augmentation import Augmentation
from ncpl_cli.scenarios.task import Task


@dataclass(frozen=True)
class Moves:
    """How the images of an epoch are moved: the draws of each run's samples (R, n, 4), and what `moved` asks for."""

    draws: Tensor
    how: Augmentation
    shape: tuple[int, int, int]
    outside: Tensor

    def of(self, rows: slice) -> Moves:
        """Those of some of each run's samples."""
        return replace(self, draws=self.draws[:, rows])

    def __call__(self, images: Tensor) -> Tensor:
        """The images (R n, D), moved."""
        return moved(images, self.draws.reshape(-1, 4), self.how, self.shape, self.outside)


def moves_of(tasks: Sequence[Task], task_epoch: int, samples: int, data: Dataset, images: Tensor) -> Moves | None:
    """How an epoch of so many samples of each run's task is moved; None where images stay as they are."""
    hows = [task.augmentation for task in tasks if task.augmentation is not None]
    if not hows:
        return None
    alike = {(how.flip, how.crop, how.rotate) for how in hows}
    assert len(hows) == len(tasks) and len(alike) == 1, "images of all runs of a cohort are moved alike"
    draws = torch.from_numpy(np.stack([how.draws(task_epoch, samples) for how in hows]))
    mean = torch.from_numpy(data.channel_statistics[0] * data.scale)
    outside = (mean if images.is_floating_point() else mean.round()).to(images.dtype)
    return Moves(draws.to(images.device), hows[0], data.shape, outside.to(images.device))


def moved(images: Tensor, draws: Tensor, how: Augmentation, shape: tuple[int, int, int], outside: Tensor) -> Tensor:
    """The images (n, D) as their draws (n, 4) move them; see scenarios/augmentation.py for what is done.

    Read backwards: a pixel of the result is looked for in the image before it was turned, then before it was cut out,
    then before it was flipped. draws: flip, down, across, angle. outside: what stands beyond the edge (channels,).
    """
    channels, height, width = shape
    flip, down, across, turn = draws.unsqueeze(2).unbind(1)  # n x 1 each
    place = torch.arange(height * width, device=images.device)
    i, j = place // width, place % width  # H W each
    if how.rotate:
        angle = turn * math.radians(how.rotate)
        y, x = i - (height - 1) / 2, j - (width - 1) / 2
        cos, sin = angle.cos(), angle.sin()
        i = (y * cos + x * sin + (height - 1) / 2).round().long()  # n x H W
        j = (x * cos - y * sin + (width - 1) / 2).round().long()
        within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        i, j = i.clamp(0, height - 1), j.clamp(0, width - 1)
    if how.crop:
        i = mirrored(i + (down * (2 * how.crop + 1)).long() - how.crop, height)
        j = mirrored(j + (across * (2 * how.crop + 1)).long() - how.crop, width)
    if how.flip:
        j = torch.where(flip < 0.5, width - 1 - j, j)
    index = (i * width + j).expand(len(images), -1)
    found = images.view(-1, channels, height * width).gather(2, index[:, None].expand(-1, channels, -1))  # n x C x H W
    if how.rotate:
        found = torch.where(within[:, None], found, outside.to(found.dtype)[:, None])
    return found.flatten(1)


def mirrored(k: Tensor, size: int) -> Tensor:
    """Places beyond an edge as those they are the mirror images of; the edge itself is not repeated."""
    return size - 1 - (size - 1 - k.abs()).abs()
