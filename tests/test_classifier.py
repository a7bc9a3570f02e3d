"""Which layer of somebody's network is the classifier: the one whose output is the logits, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncpl_cli import networks
from ncpl_cli.errors import InputError
from ncpl_cli.networks import OwnNetwork

SHAPE = (1, 8, 8)
CLASSES = 5
MAKERS: dict[str, tuple[Callable[..., nn.Module], str | None, int]] = {}
"""Architectures: how they are made, the right classifier (None = there is none) and the width of its features."""


def arch(classifier: str | None, width: int = 0) -> Callable[[type[nn.Module]], type[nn.Module]]:
    def listed(made: type[nn.Module]) -> type[nn.Module]:
        MAKERS[made.__name__] = (made, classifier, width)
        globals()[made.__name__] = made
        return made

    return listed


class Base(nn.Module):
    """64 pixels -> 16 units; what follows differs."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.build(int(np.prod(shape)), classes)

    def build(self, pixels: int, classes: int) -> None:
        raise NotImplementedError


@arch("fc", 16)
class AuxiliaryHeadRegisteredLast(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.body, self.fc, self.aux = nn.Linear(pixels, 16), nn.Linear(16, classes), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(x.flatten(1)))
        self.side = self.aux(h)
        return self.fc(h)


@arch("fc", 12)
class HeadRegisteredFirst(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.fc, self.one, self.two = nn.Linear(12, classes), nn.Linear(pixels, classes), nn.Linear(classes, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.two(torch.relu(self.one(x.flatten(1))))))


@arch("fc", CLASSES)
class EveryLayerAsWideAsTheClasses(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.fc, self.h = nn.Linear(classes, classes), nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.h(x.flatten(1))))


@arch("head", 16)
class SharedHead(Base):
    """One head judges two stages; the second is what is returned."""

    def build(self, pixels: int, classes: int) -> None:
        self.one, self.two, self.head = nn.Linear(pixels, 16), nn.Linear(16, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        early = torch.relu(self.one(x.flatten(1)))
        late = torch.relu(self.two(early))
        final = self.head(late)
        self.early = self.head(early)  # used last, and not returned
        return final


@arch("classify", 16)
class ProjectionHead(Base):
    """Contrastive training: a projection as wide as the classes hangs beside, computed after the logits."""

    def build(self, pixels: int, classes: int) -> None:
        self.body, self.classify = nn.Linear(pixels, 16), nn.Linear(16, classes)
        self.project = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.body(x.flatten(1)))
        return {"logits": self.classify(h), "projection": self.project(h)}


@arch("main", 16)
class LogitsFirstInATuple(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.aux, self.body = nn.Linear(16, classes), nn.Linear(pixels, 16)
        self.main = nn.Linear(16, classes, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.body(x.flatten(1)))
        return self.main(h), self.aux(h)


@arch("deep.1.fc", 16)
class NestedReshapedAndScaledByOne(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.deep = nn.ModuleList([nn.Linear(pixels, 16), nn.ModuleDict({"fc": nn.Linear(16, classes)})])
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.deep[0](x.flatten(1)))[:, None]  # N x 1 x 16
        logits = self.deep[1]["fc"](h)  # type: ignore[index]
        return (logits.view(len(x), -1) / self.temperature).clone()


@arch("fc", 16)
class TwinsThatBeginAsZeros(Base):
    """Both heads give exactly the same numbers before training."""

    def build(self, pixels: int, classes: int) -> None:
        self.body, self.twin, self.fc, self.other = (
            nn.Linear(pixels, 16), nn.Linear(16, classes), nn.Linear(16, classes), nn.Linear(16, classes),
        )  # fmt: skip
        for head in (self.twin, self.fc, self.other):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x.flatten(1)))
        self.side = self.twin(h), self.other(h)
        return self.fc(h) * 1.0


@arch("fc", 8)
class Convolutions(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.fc = nn.Linear(8, classes)
        self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.conv(x).flatten(1)))


@arch(None)
class Distilled(Base):
    """The mean of a class head and a distillation head."""

    def build(self, pixels: int, classes: int) -> None:
        self.body, self.head, self.head_dist = nn.Linear(pixels, 16), nn.Linear(16, classes), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(x.flatten(1)))
        return (self.head(h) + self.head_dist(h)) / 2


@arch(None)
class LogProbabilities(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.fc = nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.fc(x.flatten(1)), 1)


@arch(None)
class Tempered(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.fc = nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) / 0.5


@arch(None)
class EndsInAConvolution(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.gate, self.conv = nn.Linear(1, 1), nn.Conv2d(1, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.gate(x.mean((2, 3))[..., None])[..., None]).flatten(1)


@arch(None)
class Functional(Base):
    def build(self, pixels: int, classes: int) -> None:
        self.body, self.weight = nn.Linear(pixels, 16), nn.Parameter(torch.randn(classes, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1)) @ self.weight.T


WHY = {
    "Distilled": "something made of `head` and `head_dist`",
    "LogProbabilities": "the log-softmax of what `fc` gives",
    "Tempered": "2 times of what `fc` gives",
    "EndsInAConvolution": "no linear layer that is used has 5 outputs",
    "Functional": "no linear layer that is used has 5 outputs",
}
FOUND = [name for name, (_, classifier, _) in MAKERS.items() if classifier]


def build(name: str, shape: tuple[int, int, int] = SHAPE, **more: Any) -> OwnNetwork:
    found = networks.build(f"tests.test_classifier:{name}", shape, CLASSES, 0, **more)
    assert isinstance(found, OwnNetwork)
    return found


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_layer_whose_output_is_the_logits(name: str, precision: str) -> None:
    _, right, width = MAKERS[name]
    net = build(name, precision=precision).eval()
    assert net.classifier is net.body.get_submodule(right or "")
    x = torch.rand(9, *SHAPE, dtype=net.mean.dtype)
    with torch.no_grad():
        logits, (features,), _ = net.classify(x)
        assert features.shape == (9, width) and torch.equal(net(x), logits)
        bias = 0 if net.classifier.bias is None else net.classifier.bias
        assert torch.allclose(features @ net.classifier.weight.T + bias, logits, atol=1e-6)


@pytest.mark.parametrize("name", FOUND)
def test_looking_leaves_no_trace(name: str) -> None:
    state = torch.get_rng_state()
    again = build(name)
    assert torch.equal(state, torch.get_rng_state())
    assert all(m.training for m in again.body.modules())
    other = build(name)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), other.state_dict().values(), strict=True))
    if name == "TwinsThatBeginAsZeros":
        assert not again.classifier.weight.any()


@pytest.mark.parametrize("name", WHY)
def test_where_there_is_none_it_says_why(name: str) -> None:
    with pytest.raises(InputError, match=WHY[name]) as refused:
        build(name)
    assert name in str(refused.value) and refused.value.hint


def coloured(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def too_many(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 1000))


def test_images_it_cannot_take_and_outputs_of_another_number_are_sentences() -> None:
    with pytest.raises(InputError, match="takes 3 channels, and the images have 1"):
        build("coloured")
    assert build("coloured", (3, 8, 8)).classifier.in_features == 4
    with pytest.raises(InputError, match="linear layer of 5 outputs, one a class: `1` has 1000"):
        build("too_many")


def test_a_head_used_twice_gives_the_features_of_the_use_that_is_returned() -> None:
    net = build("SharedHead").eval()
    assert isinstance(net.body, SharedHead)  # type: ignore[arg-type]
    x = torch.rand(4, *SHAPE)
    with torch.no_grad():
        logits, (features,), _ = net.classify(x)
        late = torch.relu(net.body.two(torch.relu(net.body.one(((x - net.mean) / net.std).flatten(1)))))
    assert torch.equal(features, late) and not torch.equal(logits, net.body.early)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "densenet121"])
def test_networks_of_torchvision(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    right = {"resnet18": "fc", "googlenet": "fc", "densenet121": "classifier"}
    size = 32 if name != "googlenet" else 64
    made = getattr(torchvision.models, name)
    made = made(num_classes=7, init_weights=False) if name == "googlenet" else made(num_classes=7)
    found, _ = networks.find_classifier(made, lambda: made(torch.rand(2, 3, size, size)))
    assert found == right.get(name, "classifier.3")
