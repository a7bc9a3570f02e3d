"""The accumulator as a torchmetrics `Metric`, where torchmetrics is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from ncpl_cli.errors import InputError
from ncpl_cli.metrics.accumulator import CollapseAccumulator

try:
    from torchmetrics import Metric
except ImportError as error:
    raise InputError("ncpl_cli.metrics.NeuralCollapse needs torchmetrics.", "pip install torchmetrics") from error


class NeuralCollapse(Metric):
    """Collapse metrics of `classes` classes over all batches since `reset`: a dictionary of tensors, by id.

    weight (C, d), bias (C,)  the classifier, e.g. `model.fc.weight`: read anew with each `compute`
    What is undefined is NaN, with its reason in `undefined`; nc4 and ncc_error are, as they need a second pass.
    Calling the metric updates it and returns nothing: a batch's nc1 is not comparable with that of the whole.
    Processes of a torch.distributed group are merged.
    """

    full_state_update = False

    def __init__(self, classes: int, weight: Tensor | None = None, bias: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.weight, self.bias = classes, weight, bias
        self.undefined: dict[str, str] = {}
        self._seen = CollapseAccumulator(classes)

    def forward(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d), labels (n,)."""
        self.update(features, labels)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (n, d), labels (n,)."""
        self._seen.update(features, labels)

    def compute(self) -> dict[str, Tensor]:
        """Every metric of what all processes have seen, in float64."""
        found = self._merged().compute(self.weight, self.bias)
        self.undefined = found.undefined
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.values.items()}

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._seen = CollapseAccumulator(self.classes)

    def _merged(self) -> CollapseAccumulator:
        if not (distributed.is_available() and distributed.is_initialized()):
            return self._seen
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._seen)
        whole = CollapseAccumulator(self.classes)
        for part in parts:
            whole.merge(part)
        return whole
