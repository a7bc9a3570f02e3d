"""Features of a module in somebody's training loop, which leaves it, its modes and the random streams as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli.errors import InputError
from ncpl_cli.extraction.extract import array
from ncpl_cli.extraction.reading import Layers


class Live:
    """`Live(train, test)(module)` gives what `run.record(**...)` and `measure_features(**...)` take.

    train, test  what is gone through, such as a DataLoader: (inputs, labels), or mappings with `labels`; without
                 shuffling and augmentation, so that epochs are comparable. Labels below 0 are no samples; those of a
                 causal language model of transformers are moved by one, as its loss moves them
    """

    def __init__(self, train: Iterable[Any], test: Iterable[Any] | None = None) -> None:
        self._splits = {"": train} if test is None else {"": train, "test_": test}
        self._reading: Layers | None = None

    def __call__(self, module: nn.Module) -> dict[str, Any]:
        """features, labels, weight, bias, and where there is a test split test_features, test_labels."""
        found: dict[str, Any] = {}
        moved = type(module).__name__.endswith(("CausalLM", "LMHeadModel"))
        with torch.random.fork_rng(devices=[]):
            for prefix, batches in self._splits.items():
                rows: list[Any] = []
                own: list[Any] = []
                for given, tensor in map(_parted, batches):
                    labels: NDArray[Any] = tensor.cpu().numpy()
                    values = self._features(module, given, labels)
                    if labels.ndim == 2:
                        values = values.reshape(*labels.shape, -1)
                        values, labels = (values[:, :-1], labels[:, 1:]) if moved else (values, labels)
                    rows.append(values[labels >= 0])
                    own.append(labels[labels >= 0])
                if not rows:
                    raise InputError("there is nothing to measure.", "measure=: batches of (inputs, labels)")
                found |= {f"{prefix}features": np.concatenate(rows), f"{prefix}labels": np.concatenate(own)}
        assert self._reading is not None
        classifier = self._reading.classifier
        if classifier.out_features > max(found[name].max() for name in found if name.endswith("labels")):
            found["weight"] = array(classifier.weight)
            found["bias"] = None if classifier.bias is None else array(classifier.bias)
        return found

    def _features(self, module: nn.Module, given: Any, labels: NDArray[Any]) -> NDArray[Any]:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        placed = {k: v.to(device) for k, v in given.items()} if isinstance(given, dict) else given.to(device)

        def forward(batch: Any) -> Any:
            return module(**batch) if isinstance(batch, dict) else module(batch)

        if self._reading is None:  # once: the classifier stays what it is
            self._reading = Layers(module, forward, placed, per_token=labels.ndim == 2)
        return array(self._reading.read(placed)["last"])


def _parted(batch: Any) -> tuple[Any, Tensor]:
    """What the module is given, and the labels."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, torch.as_tensor(batch["labels"])
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], torch.as_tensor(batch[1])
    raise InputError(f"a batch is a {type(batch).__name__}.", "measure=: batches of (inputs, labels), or with `labels`")
