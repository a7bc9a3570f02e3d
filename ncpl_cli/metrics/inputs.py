"""Samples as a network takes them, for what is measured on a few of them: units, gradients, kernels, curvature."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.networks import Network
from ncpl_cli.objectives import CROSS_ENTROPY, Objective
from ncpl_cli.scenarios.task import Task


@dataclass(frozen=True)
class Batch:
    """Images (n, channels, height, width) in [0, 1] and labels (n,), on the network's device.

    Where the objective is of numbers, those that are asked (n, K) stand in the labels' place.
    """

    images: Tensor
    labels: Tensor
    objective: Objective = CROSS_ENTROPY

    def loss(self, out: Tensor, rows: slice = slice(None)) -> Tensor:
        """The summed loss of the outputs (n, C) for some of the samples."""
        return self.objective.losses(out, self.labels[rows]).sum()

    def __len__(self) -> int:
        return len(self.labels)


def training_samples(
    network: Network, data: Dataset, task: Task, rows: int | slice | NDArray[np.int64], device: str = "cpu"
) -> Batch:
    """Samples of the task's training split, with the task's labels and pixel order, in the network's precision.

    rows  which ones, or how many: then those that stand for all (`Split.draw`), whatever the order they are in
    """
    shown = task.measured(data)["train"]
    if isinstance(rows, int):
        rows = shown.split.draw(rows)
    images, like = shown.split.images[rows], next(network.parameters())
    if task.pixel_order is not None:
        images = images.reshape(len(images), -1)[:, task.pixel_order].reshape(images.shape)
    asked = torch.from_numpy(shown.asked[rows]).to(device)
    return Batch(
        torch.from_numpy(images).to(device).to(like.dtype) / data.scale,
        asked.to(like.dtype) if asked.is_floating_point() else asked,
        task.objective,
    )


_BEGUN: weakref.WeakKeyDictionary[Network, tuple[Mapping[str, Tensor], Network]] = weakref.WeakKeyDictionary()


def at_initialisation(network: Network, initial: Mapping[str, Tensor]) -> Network:
    """A copy of a network with the parameters it began with; the statistics of batch norms begin anew too.

    Made once for a network and its initialisation, and to be left as it is: each epoch asks for it.
    """
    if (known := _BEGUN.get(network)) is not None and known[0] is initial:
        return known[1]
    found = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.copy_(initial[name])
    for module in found.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    _BEGUN[network] = initial, found
    return found
