"""A small convolutional network: four 3x3 convolutions, quick enough for studies on two cores."""

from __future__ import annotations

from torch import Tensor, nn

from ncpl_cli.networks.convolutional import NORMS, Convolutional

WIDTHS = (1, 2, 4, 4)
STRIDES = (2, 2, 2, 1)
"""Channels in multiples of `width` (16 of it: 16, 32, 64, 64), and how far each convolution steps."""


class ConvNet(Convolutional):
    """Four times 3x3 convolution -> norm -> ReLU, the mean over positions, a linear classifier.

    Layers are `layer1` to `layer3` and `last`: what each block gives, as the mean over positions (N, channels).
    """

    def __init__(
        self, channels: int, classes: int, *, mean: Tensor, std: Tensor, width: int = 16, norm: str = "batch"
    ) -> None:
        super().__init__(mean=mean, std=std, norm=norm)
        sizes = [channels, *(width * times for times in WIDTHS)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), NORMS[norm](after), nn.ReLU())
            for before, after, stride in zip(sizes[:-1], sizes[1:], STRIDES, strict=True)
        )
        self.classifier = nn.Linear(sizes[-1], classes)

    @property
    def layer_names(self) -> list[str]:
        """`layer1`, `layer2`, `layer3`, `last`, from the input on."""
        return [f"layer{i}" for i in range(1, len(self.blocks))] + ["last"]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and pooled activations (N, channels) of each block; it shows no preactivations."""
        h, activations = (x - self.mean) / self.std, []
        for block in self.blocks:
            h = block(h)
            activations.append(h.mean((2, 3)))
        return self.classifier(activations[-1]), activations, []
