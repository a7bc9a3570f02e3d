"""Norms of a network's weights: computed where the weights are, fetched at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ncpl_cli.metrics.bisection import SMALL, largest_eigenvalue
from ncpl_cli.networks import MLP


def matrices(network: nn.Module) -> dict[str, Tensor]:
    """All weight matrices by name; biases and norms apart."""
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() >= 2}


def weight_metrics(
    network: nn.Module, classifier: Tensor, initial: Mapping[str, Tensor] | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Every metric of a network's weights, and why one is undefined.

    weight_norm         L2 norm of all weight matrices together
    weight_mean_abs     mean absolute weight over all weight matrices (D24)
    spectral_norm       largest singular value of the classifier, spectral_norm_max of any matrix
    distance_from_init  L2 distance of all parameters from the run's own initialisation
    """
    found = matrices(network)
    flat = torch.cat([w.flatten() for w in found.values()]).double()
    squares, absolute = flat.square().sum(), flat.abs().sum()
    moved = torch.zeros_like(squares)
    if initial is not None:
        parameters = dict(network.named_parameters())
        now = [p.detach().flatten() for p in parameters.values()]
        before = [initial[name].detach().flatten() for name in parameters]
        moved = (torch.cat(now).double() - torch.cat(before).double()).square().sum()
    norms = spectral_norms([classifier.detach(), *(w for w in found.values() if w.data_ptr() != classifier.data_ptr())])
    sums = torch.stack([squares, absolute, moved, norms[0], norms.max()])
    total, size, distance, own, largest = sums.tolist()
    values = {
        "weight_norm": math.sqrt(total),
        "weight_mean_abs": size / len(flat),
        "spectral_norm": own,
        "spectral_norm_max": largest,
    }
    if initial is None:
        return values, {"distance_from_init": "the initialisation is not known"}
    return values | {"distance_from_init": math.sqrt(distance)}, {}


def layer_norms(network: nn.Module) -> dict[str, float]:
    """layer_weight_norm: the L2 norm of each weight matrix, by its layer.

    Of an MLP as features are called, the matrix before them, and `classifier`; else by the module's own name.
    """
    names: dict[str, str] = {}
    if isinstance(network, MLP):
        names = {f"hidden.{i}": layer for i, layer in enumerate(network.layer_names)}
    found = {name.removesuffix(".weight"): w.double().square().sum() for name, w in matrices(network).items()}
    sizes = torch.stack(list(found.values())).sqrt().tolist()
    return {names.get(name, name): size for name, size in zip(found, sizes, strict=True)}


def spectral_norms(weights: Sequence[Tensor]) -> Tensor:
    """Largest singular value of each matrix, (matrices,); of a convolution, of its (out, in x height x width) form.

    By the smaller Gram matrix in float64; elsewhere than on the processor those of one size are solved together.
    """
    grams: dict[int, list[tuple[int, Tensor]]] = {}
    for place, weight in enumerate(weights):
        w = weight.flatten(1).double()
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        grams.setdefault(len(gram), []).append((place, gram))
    found = torch.empty(len(weights), dtype=torch.float64, device=weights[0].device)
    for size, alike in grams.items():
        if size <= SMALL and found.device.type == "cpu":
            for place, gram in alike:
                found[place] = largest_eigenvalue(gram.numpy())
            continue
        top = torch.linalg.eigvalsh(torch.stack([gram for _, gram in alike]))[:, -1]
        for (place, _), value in zip(alike, top, strict=True):
            found[place] = value
    return found.clamp_min(0).sqrt()
