"""Gradients of the loss on some samples, in eval mode and on no parameter's own `grad`: measuring leaves no trace."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.data.sparse import active_rows_times_matrix, padded, sparse, transposed_rows_times_matrix
from ncpl_cli.metrics.forward import View, is_narrow
from ncpl_cli.metrics.inputs import Batch
from ncpl_cli.networks import ACTIVATIONS, MLP
from ncpl_cli.objectives import CrossEntropy, Objective

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
    return math.sqrt(float(torch.stack([g.square().sum() for g in loss_gradient(network, batch, block)]).sum()))


def by_hand(network: nn.Module, device: str) -> TypeGuard[MLP]:
    """Whether the gradient follows from what a look inside has kept: of plain layers, on the CPU."""
    return isinstance(network, MLP) and network.norm == "none" and device == "cpu"


def gradient_norm_inside(network: MLP, data: Dataset, objective: Objective, seen: View) -> float:
    """The same of a view's drawn samples, from the activations that were kept: no pass of its own forward.

    The first layer's gradient is summed over pixels that are not zero; in which order they were shown is all the same.
    """
    linears: list[Any] = [*network.hidden, network.classifier]
    rows = slice(None) if len(seen.drawn) == len(seen.logits) else seen.drawn
    logits = seen.logits[rows]
    asked = torch.from_numpy((seen.labels if seen.targets is None else seen.targets)[rows])
    asked = asked.to(logits.dtype) if asked.is_floating_point() else asked
    if isinstance(objective, CrossEntropy) and not asked.is_floating_point():  # the same, in a quarter of the time
        d = objective.residual(logits.T.contiguous(), asked, 0).T.contiguous()
    else:
        d = objective.residual(logits, asked)
    d = d / len(logits)  # loss by what a layer gives, (m, width)
    total = 0.0
    for layer, (z, h) in zip(linears[:0:-1], reversed(seen.inside.values()), strict=True):
        total += _square(d.T @ h) + _square(d.sum(0))
        d = _before(network.activation, z, h, _through(layer.weight.detach(), d, layer is not network.classifier))
    first = d.new_zeros(data.pixels, padded(d.shape[1]))
    images = sparse(seen.split, data.scale, first.numpy().dtype)
    transposed_rows_times_matrix(first.shape[1])(
        images.starts, images.pixels, images.values, seen.drawn,
        F.pad(d, (0, first.shape[1] - d.shape[1])).numpy(), first.numpy(),
    )  # fmt: skip
    return math.sqrt(total + _square(first) + _square(d.sum(0)))


def _through(weight: Tensor, d: Tensor, zeros: bool) -> Tensor:
    """The slope by what a layer with this weight (outputs, inputs) takes, (m, inputs); `zeros`: whether d has many."""
    outputs, inputs = weight.shape
    rows = weight.new_zeros(outputs, padded(inputs))
    if not zeros or not is_narrow(rows):
        return d @ weight
    rows[:, :inputs] = weight
    found = d.new_empty(len(d), padded(inputs))
    product = active_rows_times_matrix(padded(inputs))
    product(d.contiguous().numpy(), rows.numpy(), rows.new_zeros(padded(inputs)).numpy(), found.numpy())
    return found[:, :inputs]


def _before(activation: str, z: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """The slope of a loss by preactivations z, where d is that by the activations h."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(d, h, 0)  # type: ignore[no-any-return]
    before = z.detach().requires_grad_()
    # of a sum, not with `grad_outputs`, for which torch imports SymPy: half a second of every process
    with torch.enable_grad():
        asked_of = (ACTIVATIONS[activation](before) * d).sum()
    return torch.autograd.grad(asked_of, before)[0]


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
