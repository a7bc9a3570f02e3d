"""Wide residual networks for small images (Zagoruyko & Komodakis, 1605.07146): WRN-depth-width, WRN-28-4 by default."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli.networks.convolutional import NORMS, Convolutional

STEM, STAGES = 16, 3


class PreActivated(nn.Module):
    """Norm -> ReLU -> 3x3 -> norm -> ReLU -> 3x3, added to its input; where sizes change, to a 1x1 of what it read."""

    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = NORMS[norm](before), NORMS[norm](after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        changes = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, before, H, W) -> (N, after, H/stride, W/stride)."""
        read = F.relu(self.norm1(x))
        beside = x if self.shortcut is None else self.shortcut(read)
        added: Tensor = self.conv2(F.relu(self.norm2(self.conv1(read)))) + beside
        return added


class WideResNet(Convolutional):
    """3x3 stem of 16 -> three stages of (depth - 4) / 6 blocks with 16, 32, 64 times `width` channels -> classifier.

    The last norm, ReLU and the mean over positions give `last`; `layer1` and `layer2` are the first stages' outputs, as
    the mean over positions.
    """

    def __init__(
        self, channels: int, classes: int, *, mean: Tensor, std: Tensor, width: int = 4, depth: int = 28,
        norm: str = "batch",
    ) -> None:  # fmt: skip
        super().__init__(mean=mean, std=std, norm=norm)
        self.stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        stages, before = [], STEM
        for stage in range(STAGES):
            after, blocks = STEM * width * 2**stage, []
            for block in range((depth - 4) // 6):
                blocks.append(PreActivated(before, after, 2 if stage and not block else 1, norm))
                before = after
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.last_norm = NORMS[norm](before)
        self.classifier = nn.Linear(before, classes)

    @property
    def layer_names(self) -> list[str]:
        """`layer1`, `layer2`, `last`, from the input on."""
        return [f"layer{i}" for i in range(1, STAGES)] + ["last"]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and pooled activations (N, channels) of each stage; it shows no preactivations."""
        h, activations = self.stem((x - self.mean) / self.std), []
        for stage in self.stages:
            h = stage(h)
            activations.append(h.mean((2, 3)))
        activations[-1] = F.relu(self.last_norm(h)).mean((2, 3))
        return self.classifier(activations[-1]), activations, []
