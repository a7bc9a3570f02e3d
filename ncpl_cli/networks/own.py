"""Networks from elsewhere, `module:callable`: the user's own, or torchvision's (`torchvision.models:vgg11`)."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncpl_cli import plugins
from ncpl_cli.callables import call, load_object
from ncpl_cli.errors import InputError
from ncpl_cli.networks.classifier import calls_of, find_classifier, logits_of


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
        self._make = plugins.part("NETWORKS", name) or load_object(name)
        self._arguments = (name, shape, classes)
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).clone())
        with torch.random.fork_rng(devices=[]):
            self.body = self._made()
        self._classifier, self._time = self._found()

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer whose output is the logits."""
        found = self.body.get_submodule(self._classifier)
        assert isinstance(found, nn.Linear)
        return found

    def _made(self) -> nn.Module:
        name, shape, classes = self._arguments
        takes = inspect.signature(self._make).parameters
        named = "num_classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        given: tuple[Any, ...] = () if named else (shape, classes)
        body = call(f"--network {name}", self._make, *given, **({"num_classes": classes} if named else {}))
        if not isinstance(body, nn.Module):
            raise InputError(f"--network {name} gave a {type(body).__name__}, not a torch.nn.Module.")
        return body

    def _found(self) -> tuple[str, int]:
        """Where the classifier is, by a forward pass of a few images of noise."""
        name, shape, classes = self._arguments
        like = next((p.dtype for p in self.body.parameters() if p.is_floating_point()), torch.float32)
        images = torch.randn(3, *shape, dtype=like, generator=torch.Generator().manual_seed(0))
        try:
            found = find_classifier(self.body, lambda: self.body(images))
        except InputError as error:
            raise InputError(f"the classifier of --network {name} is not found: {error}", error.hint) from error
        except Exception as error:  # whatever the user's own code raises
            first = next((m for m in self.body.modules() if isinstance(m, nn.Conv2d)), None)
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            if first is not None and first.in_channels != shape[0]:
                why = f"its first convolution takes {first.in_channels} channels, and the images have {shape[0]}"
            raise InputError(
                f"--network {name} cannot take images of {shape[0]} x {shape[1]} x {shape[2]}, as this data set's are "
                f"({why}).",
                "let its first layer take them: (shape, classes) tells the callable channels, height and width",
            ) from error
        outputs = self.body.get_submodule(found[0]).out_features
        if outputs != classes:
            raise InputError(
                f"--network {name} does not end in a linear layer of {classes} outputs, one a class: `{found[0]}` has "
                f"{outputs}.",
                "let it take num_classes, or (shape, classes)",
            )
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, channels, height, width) in [0, 1] -> logits (N, classes)."""
        return logits_of(self.body((x - self.mean) / self.std))

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images -> logits (N, C) and the classifier's input (N, d), where its output is the logits."""
        with calls_of({self._classifier: self.classifier}) as calls:
            logits = self.forward(x)
        call = next((one for one in calls if one.output is logits), calls[min(self._time, len(calls) - 1)])
        return logits, [call.features.flatten(1)], []

    def initialise(self, rng: np.random.Generator) -> None:
        """As its maker initialises it, from a seed drawn here; torch's global stream is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            self.body.load_state_dict(self._made().state_dict())
