"""What convolutional networks of ours have in common: standardised channels in, and how they are initialised."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ncpl_cli.networks.mlp import draw_uniformly

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": partial(nn.GroupNorm, 1),
    "none": lambda channels: nn.Identity(),
}


class Convolutional(nn.Module):
    """A sibling adds its modules, `classifier`, `layer_names` and `classify`.

    Images come in [0, 1] and are standardised by the training split's mean and deviation of each channel, which are
    kept with the weights.
    """

    mean: Tensor
    std: Tensor
    classifier: nn.Linear
    activation = "relu"

    def __init__(self, *, mean: Tensor, std: Tensor, norm: str) -> None:
        super().__init__()
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).clone())
        self.norm = norm
        self.init = "kaiming"

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, height, width) in [0, 1] -> logits (N, classes)."""
        return self.classify(x)[0]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and activations (N, ...) of each layer; no preactivations are shown."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, rng: np.random.Generator) -> None:
        """As torchvision does it: convolutions Kaiming-normal by fan out, norms at identity, the classifier uniform
        within 1/sqrt(fan in); with `init` torch the convolutions as well. Drawn from a numpy stream, so that it is the
        same on every device."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and self.init == "torch":
                draw_uniformly(module, rng)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                draw = rng.normal(0, math.sqrt(2 / fan_out), size=tuple(module.weight.shape))
                module.weight.copy_(torch.from_numpy(draw))
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                module.reset_parameters()
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_running_stats()
        draw_uniformly(self.classifier, rng)
