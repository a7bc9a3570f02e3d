"""ResNet-18 for small images (B24): torchvision's blocks behind a 3x3 stem of stride 1 and max-pooling."""

from __future__ import annotations

from torch import Tensor, nn

from ncpl_cli.networks.convolutional import NORMS, Convolutional

STAGES = 4
BLOCKS = 2
"""Basic blocks a stage: 4 stages of 2 make 18 layers with the stem and the classifier."""


class ResNet18(Convolutional):
    """Standardised channels -> 3x3 stem -> norm, ReLU, max-pool -> 4 stages of basic blocks -> mean -> classifier.

    `width` channels in the first stage (64 as published), twice as many in each later one. Layers are `layer1` to
    `layer3`, the outputs of the first stages flattened over positions, and `last`, the pooled features.
    """

    def __init__(
        self, channels: int, classes: int, *, mean: Tensor, std: Tensor, width: int = 64, norm: str = "batch"
    ) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__(mean=mean, std=std, norm=norm)
        make = NORMS[norm]
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

    @property
    def layer_names(self) -> list[str]:
        """`layer1`, `layer2`, `layer3`, `last`, from the input on."""
        return [f"layer{i}" for i in range(1, STAGES)] + ["last"]

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
