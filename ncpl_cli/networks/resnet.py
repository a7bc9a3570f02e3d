"""ResNet-18 for small images (B24): torchvision's blocks behind a 3x3 stem of stride 1 and max-pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ncpl_cli.networks.mlp import draw_uniformly

STAGES = 4
BLOCKS = 2
"""Basic blocks a stage: 4 stages of 2 make 18 layers with the stem and the classifier."""

RESNET_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": partial(nn.GroupNorm, 1),
    "none": lambda channels: nn.Identity(),
}


class ResNet18(nn.Module):
    """Standardised channels -> 3x3 stem -> norm, ReLU, max-pool -> 4 stages of basic blocks -> mean -> classifier.

    `width` channels in the first stage (64 as published), twice as many in each later one. Layers are `layer1` to
    `layer3`, the outputs of the first stages flattened over positions, and `last`, the pooled features.
    Images come in [0, 1] and are standardised here by the training split's mean and deviation of each channel,
    which are kept with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, classes: int, *, mean: Tensor, std: Tensor, width: int = 64, norm: str = "batch"
    ) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        make = RESNET_NORMS[norm]
        self.register_buffer("mean", mean.reshape(1, channels, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, channels, 1, 1).clone())
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), make(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages: list[nn.Module] = []
        before = width
        for stage in range(STAGES):
            planes, stride = width * 2**stage, 1 if stage == 0 else 2
            blocks: list[nn.Module] = []
            for block in range(BLOCKS):
                step = stride if block == 0 else 1
                shortcut = None
                if step != 1 or before != planes:
                    shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, step, bias=False), make(planes))
                blocks.append(BasicBlock(before, planes, step, shortcut, norm_layer=make))
                before = planes
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(before, classes)
        self.activation = "relu"
        self.norm = norm
        self.init = "kaiming"

    @property
    def layer_names(self) -> list[str]:
        """`layer1`, `layer2`, `layer3`, `last`, from the input on."""
        return [f"layer{i}" for i in range(1, STAGES)] + ["last"]

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, height, width) in [0, 1] -> logits (N, classes)."""
        return self.classify(x)[0]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and activations (N, ...) of each layer; it shows no preactivations."""
        h = self.stem((x - self.mean) / self.std)
        activations = []
        for stage in self.stages:
            h = stage(h)
            activations.append(h)
        activations[-1] = h.mean((2, 3))  # N x 8 width
        logits: Tensor = self.classifier(activations[-1])
        return logits, [a.flatten(1) for a in activations], []

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
