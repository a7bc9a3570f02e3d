"""Churn: how much learning a few samples changes what the network says of others."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ncpl_cli.metrics.gradients import loss_gradient, trainable
from ncpl_cli.metrics.inputs import Batch


def churn(network: nn.Module, batch: Batch, reference: Batch, learning_rate: float) -> float:
    """Mean L2 change of the logits on a reference batch by one gradient step on a disjoint one, on a copy.

    churn = mean over x in reference of |f(x; theta - lr grad L(batch)) - f(x; theta)|

    The step is plain gradient descent at the run's learning rate, whatever its optimiser. Low = the step stays local
    (or the network no longer learns); high = it disturbs what it was not about. In the mode the network is in.
    """
    gradient = loss_gradient(network, batch)
    stepped = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, slope in zip(trainable(stepped), gradient, strict=True):
            parameter -= learning_rate * slope.to(parameter.dtype)
        change = stepped(reference.images).double() - network(reference.images).double()
    return float(change.norm(dim=1).mean())
