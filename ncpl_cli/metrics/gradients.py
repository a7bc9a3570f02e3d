"""Gradients of the loss on some samples, in eval mode and on no parameter's own `grad`: measuring leaves no trace."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ncpl_cli.metrics.inputs import Batch

BLOCK = 256
"""Samples whose activations are kept for a backward pass: bounds the memory of large networks."""


def trainable(network: nn.Module) -> list[Tensor]:
    """The parameters, in order."""
    return [p for p in network.parameters() if p.requires_grad]


def loss_gradient(network: nn.Module, batch: Batch, block: int = BLOCK) -> list[Tensor]:
    """Gradient of the mean loss over a batch, as long as the parameters, in float64.

    Summed over blocks, so that the memory does not grow with the batch. In the mode that the network is in.
    """
    parameters = trainable(network)
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    with torch.enable_grad():
        for start in range(0, len(batch), block):
            rows = slice(start, start + block)
            loss = batch.loss(network(batch.images[rows]), rows)
            for kept, found in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if found is not None:  # a parameter that the logits do not depend on
                    kept += found
    return [kept / len(batch) for kept in total]


def gradient_norm(network: nn.Module, batch: Batch, block: int = BLOCK) -> float:
    """L2 norm of the gradient of the mean loss over a batch; low = flat, saturated or dead."""
    return math.sqrt(sum(float(g.square().sum()) for g in loss_gradient(network, batch, block)))
