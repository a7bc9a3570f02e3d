"""Norms of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def matrices(network: nn.Module) -> dict[str, Tensor]:
    """All weight matrices by name; biases and norms apart."""
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() >= 2}


def weight_norm(network: nn.Module) -> float:
    """L2 norm of all weight matrices together."""
    return math.sqrt(sum(float(w.double().square().sum()) for w in matrices(network).values()))


def weight_mean_abs(network: nn.Module) -> float:
    """Mean absolute weight over all weight matrices (D24)."""
    found = matrices(network).values()
    return sum(float(w.double().abs().sum()) for w in found) / sum(w.numel() for w in found)


def distance_from_init(network: nn.Module, initial: Mapping[str, Tensor]) -> float:
    """L2 distance of all parameters from the run's own initialisation."""
    total = 0.0
    for name, parameter in network.named_parameters():
        total += float((parameter.detach().double() - initial[name].detach().double()).square().sum())
    return math.sqrt(total)


def spectral_norm(weight: Tensor) -> float:
    """Largest singular value of a matrix; of a convolution, of its (out, in x height x width) form."""
    matrix = weight.detach().flatten(1).double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(float(torch.linalg.eigvalsh(gram)[-1].clamp_min(0)))
