"""A split's images on a device: put there once, read by whoever trains on them or looks at them."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from ncpl_cli.data.dataset import Split

_RESIDENT: weakref.WeakKeyDictionary[Split, dict[str, Tensor]] = weakref.WeakKeyDictionary()

MOST = 1 << 30
"""Bytes of a split that are kept on a device to be looked at, at most; a larger one goes there block by block."""


def resident(split: Split, device: str) -> Tensor:
    """The split's images on the device, as stored (N, pixels): once a device, shared by all engines, runs and tasks.

    On the CPU it is the data set's own memory. Bytes stay bytes, not floats: a quarter of the memory to gather from,
    and the conversion is paid once a block.
    """
    held = _RESIDENT.setdefault(split, {})
    if device not in held:
        images = split.images if split.images.flags.writeable else split.images.copy()  # torch warns of read-only
        held[device] = torch.from_numpy(images).flatten(1).to(device)
    return held[device]


def shown(split: Split, start: int, stop: int, device: str) -> Tensor:
    """Some images as stored on the device, (n, channels, height, width): of a copy that lies there already."""
    if device == "cpu" or (device not in _RESIDENT.get(split, {}) and split.images.nbytes > MOST):
        return torch.from_numpy(split.images[start:stop]).to(device)
    return resident(split, device)[start:stop].view(-1, *split.images.shape[1:])
