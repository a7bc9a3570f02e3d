"""What chosen layers of a module give for a batch: hooks see it, and nothing after the last of them is computed.

`last` is the input of the classifier, the linear layer whose output is the logits (networks/classifier.py). Of a
language model that saves the largest product of all, features x vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncpl_cli.errors import InputError, NcplError, unknown
from ncpl_cli.metrics.forward import evaluating
from ncpl_cli.networks.classifier import find_classifier, logits_of

SAME = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
"""Modules whose output in eval mode is their input, or its numbers in another shape: no layers of their own."""


LISTS = (nn.ModuleList, nn.Sequential)
"""Modules that are lists of others."""


class _Enough(Exception):
    """The last layer has been seen."""


class Layers:
    """The chosen layers of a module that `forward(batch)` runs.

    like       a small batch, by which the classifier and the layers' shapes are found
    wanted     last, all (the elements of the outermost lists of modules, else the direct children), or names
    per_token  logits are (N, T, C): every token is a sample
    pooled     the mean over positions, of images and of sequences, else all of them in one vector
    Raises InputError where no classifier is found, or a layer is none.
    """

    def __init__(
        self, module: nn.Module, forward: Callable[[Any], Any], like: Any, wanted: str = "last", *,
        per_token: bool = False, pooled: bool = True,
    ) -> None:  # fmt: skip
        self._module, self._forward, self._per_token, self._pooled = module, forward, per_token, pooled
        self.classifier_name, self._time = find_classifier(
            module, lambda: forward(like), lambda output: logits_of(output, 3 if per_token else 2)
        )
        self.skipped: list[str] = []
        names = layer_names(module, self.classifier_name, wanted)
        seen = self._seen(like, names)
        rows = _leading(seen["last"])
        self._names = []
        for name in names:
            if not isinstance(seen.get(name), Tensor) or _leading(seen[name]) != rows or seen[name].ndim < 2:
                if wanted != "all":
                    raise InputError(f"layer {name} gives no numbers for each sample.", "--layers all")
                self.skipped.append(name)
            else:
                self._names.append(name)

    @property
    def names(self) -> list[str]:
        """From the input on; `last` is the last."""
        return [*self._names, "last"]

    @property
    def classifier(self) -> nn.Linear:
        """The linear layer whose output is the logits."""
        found = self._module.get_submodule(self.classifier_name)
        assert isinstance(found, nn.Linear)
        return found

    def read(self, batch: Any, mask: Tensor | None = None) -> dict[str, Tensor]:
        """By layer (n, d). `mask` (N, T): which tokens there are, for the mean over them."""
        return {name: self._rows(value, mask) for name, value in self._seen(batch, self._names).items()}

    def _rows(self, value: Tensor, mask: Tensor | None) -> Tensor:
        if self._per_token:
            return value.reshape(-1, value.shape[-1])
        if value.ndim == 3 and self._pooled:  # N x T x d
            if mask is None or mask.shape != value.shape[:2]:
                return value.mean(1)
            own = mask.to(value.dtype)
            return torch.einsum("ntd,nt->nd", value, own / own.sum(1, keepdim=True))
        if value.ndim > 3 and self._pooled:
            last = value.ndim == 4 and value.shape[1] == value.shape[2] != value.shape[3]  # N x H x W x C
            return value.mean((1, 2) if last else tuple(range(2, value.ndim)))
        return value.flatten(1)

    def _seen(self, batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
        """What the named modules give, and the classifier gets, with nothing after that."""
        found: dict[str, Any] = {}
        uses = 0

        def keep(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: Any, output: Any) -> None:
                found[name] = output[0] if isinstance(output, tuple | list) and output else output

            return hook

        def last(_: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal uses
            if uses == self._time:
                found["last"] = args[0] if args else kwargs["input"]
                raise _Enough
            uses += 1

        hooks = [self._module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
        hooks.append(self.classifier.register_forward_pre_hook(last, with_kwargs=True))
        try:
            with evaluating(self._module):
                self._forward(batch)
        except _Enough:
            return found
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise NcplError("a batch does not fit into memory.", "--batch-size 1, or fewer --layers") from error
            raise
        finally:
            for hook in hooks:
                hook.remove()
        raise InputError(f"the classifier `{self.classifier_name}` was not used for this batch.")


class Shows:
    """The layers that a network of ncpl's shows by itself, as `Layers` gives those of others."""

    classifier_name = "classifier"
    skipped: tuple[str, ...] = ()

    def __init__(self, network: Any, wanted: str) -> None:
        self._network, self.classifier = network, network.classifier
        known = network.layer_names
        self.names = known if wanted == "all" else [*(one for one in wanted.split(",") if one != "last"), "last"]
        for name in self.names:
            if name not in known:
                raise unknown("layer", name, known)

    def read(self, batch: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """By layer (n, d), convolutions over all positions."""
        with evaluating(self._network):
            _, activations, _ = self._network.classify(batch)
        return {name: a for name, a in zip(self._network.layer_names, activations, strict=True) if name in self.names}


def _leading(value: Any) -> int | None:
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else None


def layer_names(module: nn.Module, classifier: str, wanted: str) -> list[str]:
    """The layers before the classifier that `wanted` means, in the order of the module; raises InputError."""
    known = {name: one for name, one in module.named_modules() if name}
    if wanted == "last":
        return []
    if wanted != "all":
        names = [name for name in wanted.split(",") if name != "last"]
        for name in names:
            if name not in known:
                raise unknown("layer", name, known, shown=40)
        return names
    found = _elements(module)
    if not found:
        found = [name for name, _ in module.named_children()]
    return [name for name in found if name != classifier and not isinstance(known[name], SAME)]


def _elements(module: nn.Module, prefix: str = "") -> list[str]:
    """The elements of the outermost lists of modules; of a list in a list, its own."""
    names = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, LISTS) or not isinstance(module, LISTS):
            names += _elements(child, f"{path}.")
        else:
            names.append(path)
    return names
