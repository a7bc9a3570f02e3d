"""Networks from elsewhere, `module:callable`: the user's own, or torchvision's (`torchvision.models:vgg11`)."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from ncpl_cli.callables import load_object
from ncpl_cli.errors import InputError


class OwnNetwork(nn.Module):
    """Any module that ends in a linear layer: that layer is the classifier, its input the features `last`.

    Made by `callable(num_classes=C)`, or `callable(shape, classes)` where it has no such parameter. Images come in
    [0, 1] and are standardised by the training split's mean and deviation of each channel.
    """

    mean: Tensor
    std: Tensor
    layer_names = ("last",)
    norm = "own"
    activation = "own"

    def __init__(self, name: str, shape: tuple[int, int, int], classes: int, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self._make = load_object(name)
        self._arguments = (name, shape, classes)
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).clone())
        self.body = self._made()
        linears = [module for module in self.body.modules() if isinstance(module, nn.Linear)]
        if not linears or linears[-1].out_features != classes:
            raise InputError(
                f"--network {name} does not end in a linear layer of {classes} outputs, which measuring needs.",
                "let it take num_classes, or (shape, classes)",
            )

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer."""
        return [module for module in self.body.modules() if isinstance(module, nn.Linear)][-1]

    def _made(self) -> nn.Module:
        name, shape, classes = self._arguments
        takes = inspect.signature(self._make).parameters
        named = "num_classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        body = self._make(num_classes=classes) if named else self._make(shape, classes)
        if not isinstance(body, nn.Module):
            raise InputError(f"--network {name} gave a {type(body).__name__}, not a torch.nn.Module.")
        return body

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, height, width) in [0, 1] -> logits (N, classes)."""
        return self.classify(x)[0]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and the classifier's input (N, d)."""
        seen: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits: Tensor = self.body((x - self.mean) / self.std)
        finally:
            hook.remove()
        return logits, [seen[-1].flatten(1)], []

    def initialise(self, rng: np.random.Generator) -> None:
        """As its maker initialises it, from a seed drawn here; torch's global stream is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            self.body.load_state_dict(self._made().state_dict())
