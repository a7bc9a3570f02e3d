"""Plain SGD on stacked MLPs without norms, by hand: no autograd, no gradient written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ncpl_cli.engines.stack import Stack
from ncpl_cli.objectives import Objective

aten = torch.ops.aten

BY_HAND: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "relu": (
        lambda z, h: torch.clamp_min(z, 0, out=h),
        lambda d, z, h, out: aten.threshold_backward.grad_input(d, h, 0, grad_input=out),
    ),
    "leaky_relu": (
        lambda z, h: aten.leaky_relu.out(z, 0.01, out=h),
        lambda d, z, h, out: aten.leaky_relu_backward.grad_input(d, z, 0.01, False, grad_input=out),
    ),
    "tanh": (
        lambda z, h: torch.tanh(z, out=h),
        lambda d, z, h, out: aten.tanh_backward.grad_input(d, h, grad_input=out),
    ),
    "sigmoid": (
        lambda z, h: torch.sigmoid(z, out=h),
        lambda d, z, h, out: aten.sigmoid_backward.grad_input(d, h, grad_input=out),
    ),
    "gelu": (
        lambda z, h: aten.gelu.out(z, out=h),
        lambda d, z, h, out: aten.gelu_backward.grad_input(d, z, grad_input=out),
    ),
    "elu": (
        lambda z, h: aten.elu.out(z, out=h),
        lambda d, z, h, out: aten.elu_backward.grad_input(d, 1, 1, 1, False, z, grad_input=out),
    ),
    "silu": (
        lambda z, h: aten.silu.out(z, out=h),
        lambda d, z, h, out: aten.silu_backward.grad_input(d, z, grad_input=out),
    ),
}
"""Activations with their backward, both written into given memory: (z, h) and (delta, z, h, out).

An activation that is not here is trained by autograd.
"""


@dataclass(frozen=True)
class Space:
    """Memory for a block of k steps on batches of B: allocated once, the same addresses every time."""

    pixels: Tensor  # as the images are stored, R kB x D
    x: Tensor  # R x kB x D, and for an MLP a column of ones
    projected: Tensor  # R x kB x width: the block's images through the first layer as it stood at the block's start
    gram: Tensor  # R x kB x kB: inner products of the block's images
    deltas: Tensor  # R x kB x width: gradients at the first layer's preactivations
    z: list[Tensor]  # preactivations of each hidden layer, R x B x width
    h: list[Tensor]  # activations of each hidden layer and a column of ones, R x B x (width + 1)
    back: Tensor  # R x B x width
    out: Tensor  # k x R x C x B
    kept: Tensor  # k x R x C x B: what the objective keeps of a step to tell its losses
    error: Tensor  # R x C x B


@torch.no_grad()
def steps_by_hand(
    stack: Stack, activation: str, objective: Objective, space: Space, x: Tensor, y: Tensor, lr: float, decay: float
) -> tuple[Tensor, Tensor]:
    """k steps of SGD on x (R, kB, D + 1) and what is asked, y (k, R, B) or numbers (k, R, K, B).

    Returns the outputs (k, R, C, B) and what the objective has kept of each, before each update.


    The first layer holds most of an MLP's weights, and a small batch reads and writes them all for little
    arithmetic. But its input does not depend on any weight, so its updates can wait until the block ends:

        x_t W_t = x_t W_0 - lr/B sum_{s < t} (x_t x_s^T) delta_s

    which is exact, costs one product of the block's images with each other, and leaves W_0 alone in between.
    With weight decay every step also shrinks W by `keep`, and each term by what has passed since.
    """
    steps, batch = len(y), y.shape[-1]
    first, *middle, last = stack.tensors
    forward, backward = BY_HAND[activation]
    keep, rate = 1.0 - lr * decay, -lr / batch
    z, h = space.z, space.h

    torch.bmm(x, first, out=space.projected)
    if steps > 1:
        torch.bmm(x, x.transpose(1, 2), out=space.gram)
    if keep != 1.0:
        ages = torch.arange(steps, dtype=x.dtype, device=x.device).repeat_interleave(batch)  # kB: its step
        space.projected.mul_(torch.pow(keep, ages)[:, None])
        space.gram.mul_(torch.pow(keep, (ages[:, None] - 1 - ages).clamp_(min=0)))
    for step in range(steps):
        rows, before = slice(step * batch, (step + 1) * batch), slice(0, step * batch)
        preactivation = space.projected[:, rows]  # R x B x width
        if step:
            torch.baddbmm(preactivation, space.gram[:, rows, before], space.deltas[:, before], alpha=rate, out=z[0])
            preactivation = z[0]
        forward(preactivation, h[0][..., :-1])
        for layer, weight in enumerate(middle, 1):
            torch.bmm(h[layer - 1], weight, out=z[layer])
            forward(z[layer], h[layer][..., :-1])
        # classes before samples: softmax over a short last axis is ten times slower on a CPU
        torch.bmm(last.transpose(1, 2), h[-1].transpose(1, 2), out=space.out[step])
        objective.step(space.out[step], y[step], space.error, space.kept[step])
        delta = space.error.transpose(1, 2)  # R x B x C
        for layer in range(len(middle), -1, -1):
            weight = middle[layer] if layer < len(middle) else last
            torch.bmm(delta, weight[:, :-1].transpose(1, 2), out=space.back)  # before the weight moves
            weight.baddbmm_(h[layer].transpose(1, 2), delta, beta=keep, alpha=rate)
            delta = z[layer] if layer else space.deltas[:, rows]
            backward(space.back, z[layer] if layer else preactivation, h[layer][..., :-1], delta)
    if keep != 1.0:
        space.deltas.mul_(torch.pow(keep, steps - 1 - ages)[:, None])
    first.baddbmm_(x.transpose(1, 2), space.deltas, beta=keep**steps, alpha=rate)
    return space.out, space.kept
