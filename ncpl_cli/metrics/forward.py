"""What a network does to a split: features of every layer and logits, in eval mode, in fixed blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.sparse import sparse
from ncpl_cli.networks import Network
from ncpl_cli.scenarios.task import Task

BLOCK = 4096
"""Samples of a block: what a layer needs for one stays in the cache."""


@dataclass
class View:
    """What a network gives on one split: logits (n, C), activations by layer (n, width), labels (n,)."""

    labels: NDArray[np.int64]
    logits: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)
    preactivations: dict[str, Tensor] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is their label's."""
        return float((self.logits.argmax(1).cpu().numpy() == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(F.cross_entropy(self.logits.double(), torch.from_numpy(self.labels).to(self.logits.device)))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _sparse_rows(starts, pixels, values, first, weights, bias, out):  # type: ignore[no-untyped-def]
    """Out (n, width) = images first, first + 1, ... times weights (D, width) plus bias: zero pixels are skipped."""
    width = weights.shape[1]
    for i in range(out.shape[0]):
        row = out[i]
        for j in range(width):
            row[j] = bias[j]
        k, last = starts[first + i], starts[first + i + 1]
        while k + 4 <= last:
            w0, w1, w2, w3 = (
                weights[pixels[k]],
                weights[pixels[k + 1]],
                weights[pixels[k + 2]],
                weights[pixels[k + 3]],
            )
            x0, x1, x2, x3 = values[k], values[k + 1], values[k + 2], values[k + 3]
            for j in range(width):
                row[j] += (x0 * w0[j] + x1 * w1[j]) + (x2 * w2[j] + x3 * w3[j])
            k += 4
        while k < last:
            w0, x0 = weights[pixels[k]], values[k]
            for j in range(width):
                row[j] += x0 * w0[j]
            k += 1


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back, so that measuring leaves no trace."""
    before = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(before)


def view(
    network: Network, data: Dataset, split: Split, labels: NDArray[np.int64], pixel_order: NDArray[np.int64] | None,
    *, device: str, samples: int | None = None, layers: Sequence[str] = ("last",), preactivations: bool = False,
) -> View:  # fmt: skip
    """Run a network over a split (its first `samples`), keeping the named layers.

    A pixel order is put into the first layer's weights: x[:, p] @ W == x @ V with V[p] = W.
    """
    n = len(split) if samples is None else min(samples, len(split))
    names = network.layer_names
    logits: Tensor | None = None
    kept: dict[str, Tensor] = {}
    before: dict[str, Tensor] = {}
    with evaluating(network):
        for start, first in _first_layer(network, data, split, n, pixel_order, device):
            block, activations, z = network.classify_from(first)
            if logits is None:  # whole tensors at once: pieces to be joined would be copied a second time
                logits = block.new_empty(n, block.shape[1])
                kept = {
                    name: first.new_empty(n, a.shape[1])
                    for name, a in zip(names, activations, strict=True)
                    if name in layers
                }
                before = (
                    {name: first.new_empty(n, a.shape[1]) for name, a in zip(names, z, strict=True)}
                    if preactivations
                    else {}
                )
            rows = slice(start, start + len(first))
            logits[rows] = block
            for name, a, p in zip(names, activations, z, strict=True):
                if name in kept:
                    kept[name][rows] = a
                if name in before:
                    before[name][rows] = p
    assert logits is not None
    return View(labels[:n], logits, kept, before)


def _first_layer(
    network: Network, data: Dataset, split: Split, n: int, pixel_order: NDArray[np.int64] | None, device: str
) -> Iterator[tuple[int, Tensor]]:
    """The first linear layer's output, block by block: sparse on the CPU, where images are mostly zeros, else dense."""
    linear: Any = network.hidden[0]
    weight = linear.weight.detach().t()  # D x width
    if pixel_order is not None:
        ordered = torch.empty_like(weight, memory_format=torch.contiguous_format)
        ordered[torch.from_numpy(pixel_order).to(device)] = weight
        weight = ordered
    weight = weight.contiguous()
    images = sparse(split, data.scale, str(weight.dtype).removeprefix("torch.")) if device == "cpu" else None
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        if images is not None:
            out = torch.empty(size, weight.shape[1], dtype=weight.dtype)
            bias = linear.bias.detach().numpy()
            _sparse_rows(images.starts, images.pixels, images.values, start, weight.numpy(), bias, out.numpy())
            yield start, out
        else:
            x = torch.from_numpy(split.images[start : start + size]).to(device).flatten(1).to(weight.dtype) / data.scale
            yield start, torch.addmm(linear.bias.detach(), x, weight)


def task_accuracy(
    network: Network, data: Dataset, tasks: Sequence[Task], samples: int, device: str
) -> dict[int, float]:
    """Accuracy on each task's first `samples` test images: a row of the forgetting matrix."""
    return {
        task.index: view(
            network, data, data.test, task.test_labels, task.pixel_order, device=device, samples=samples, layers=()
        ).accuracy
        for task in tasks
    }
