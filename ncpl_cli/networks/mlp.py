"""Multilayer perceptron: flattened input, `depth` hidden layers of one width, a linear classifier."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "elu": F.elu,
    "silu": F.silu,
    "crelu": lambda x: torch.cat([F.relu(x), F.relu(-x)], -1),
}
"""Functions by name. `crelu` shows every unit twice, as its positive and its negative part."""

EXACT_ZEROS = ("relu", "crelu")
"""Activations with exact zeros: only there can a unit be dead."""

GAIN = {
    "relu": math.sqrt(2.0),
    "crelu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "tanh": 5.0 / 3.0,
}
"""Kaiming gains; activations not listed use 1."""


def draw_uniformly(layer: nn.Linear | nn.Conv2d, rng: np.random.Generator) -> None:
    """Weights and bias uniform within 1/sqrt(fan in): as torch makes linear layers and convolutions."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter.copy_(torch.from_numpy(rng.uniform(-bound, bound, size=tuple(parameter.shape))))


class MLP(nn.Module):
    """Linear -> norm -> activation, `depth` times, then the classifier.

    The last hidden activation is the feature vector: the layer called `last` in every metric; the ones
    before it are `layer1`, `layer2`, ... from the input on.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        width: int = 100,
        depth: int = 3,
        activation: str = "relu",
        norm: str = "none",
    ) -> None:
        super().__init__()
        shown = 2 * width if activation == "crelu" else width
        sizes = [inputs] + [shown] * depth
        self.hidden = nn.ModuleList(nn.Linear(inputs, width) for inputs in sizes[:-1])
        self.norms = nn.ModuleList(self._norm(norm, width) for _ in range(depth))
        self.classifier = nn.Linear(sizes[-1], classes)
        self.activation = activation
        self.norm = norm
        self.init = "kaiming"

    @staticmethod
    def _norm(norm: str, width: int) -> nn.Module:
        if norm == "layer":
            return nn.LayerNorm(width)
        return nn.BatchNorm1d(width) if norm == "batch" else nn.Identity()

    @property
    def layer_names(self) -> list[str]:
        """`layer1`, ..., `last`, from the input on."""
        return [f"layer{i}" for i in range(1, len(self.hidden))] + ["last"]

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, ...) -> logits (N, classes)."""
        return self.classify(x)[0]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C), activations and preactivations (N, width) of every hidden layer."""
        return self.classify_from(self.hidden[0](x.flatten(1)))

    def classify_from(self, first: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """As `classify`, from what the first linear layer gives (N, width), however that was computed."""
        function = ACTIVATIONS[self.activation]
        activations: list[Tensor] = []
        preactivations: list[Tensor] = []
        for i, norm in enumerate(self.norms):
            z = norm(self.hidden[i](activations[-1]) if i else first)  # N x width
            preactivations.append(z)
            activations.append(function(z))
        return self.classifier(activations[-1]), activations, preactivations

    @torch.no_grad()
    def initialise(self, rng: np.random.Generator) -> None:
        """Kaiming-uniform for the activation, gain 1 for the classifier, zero biases, norms at identity.

        With `init` torch: weights and biases uniform within 1/sqrt(fan in), as `nn.Linear` has them. Drawn from
        a numpy stream so that it is the same on every device and in every engine.
        """
        gain = GAIN.get(self.activation, 1.0)
        linears = [m for m in [*self.hidden, self.classifier] if isinstance(m, nn.Linear)]
        for linear in linears:
            if self.init == "torch":
                draw_uniformly(linear, rng)
                continue
            bound = (1.0 if linear is self.classifier else gain) * math.sqrt(3.0 / linear.in_features)
            draw = rng.uniform(-bound, bound, size=tuple(linear.weight.shape))
            linear.weight.copy_(torch.from_numpy(draw))
            linear.bias.zero_()
        for norm in self.norms:
            if isinstance(norm, nn.LayerNorm | nn.BatchNorm1d):
                norm.reset_parameters()
