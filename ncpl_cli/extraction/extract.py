"""Features of a network on what it is shown, written as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncpl_cli.callables import blamed
from ncpl_cli.data.feature_files import LAYER
from ncpl_cli.errors import InputError
from ncpl_cli.extraction.models import Model
from ncpl_cli.extraction.reading import Layers, Shows
from ncpl_cli.extraction.shown import Batch, Shown
from ncpl_cli.extraction.writing import features_file, summary

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass
class Extracted:
    """What was written: dimensions by layer, sizes by split, and what is worth a note."""

    classifier: str
    layers: dict[str, int] = field(default_factory=dict)
    splits: dict[str, Mapping[str, int]] = field(default_factory=dict)
    with_classifier: bool = False
    notes: list[str] = field(default_factory=list)


def extract(
    model: Model, shown: Mapping[str, Shown], classes: int | None, path: str, *, layers: str = "last",
    pooled: bool = True, batch_size: int, precision: str | None, device: str,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> Extracted:  # fmt: skip
    """Write the features of every split into an .npz: features, labels, weight, bias, test_features, test_labels.

    classes  of the data set, None where labels are numbers of the network's outputs
    Layers other than the last are arrays of their own, `features/NAME`. Numbers have the network's precision, or the
    one that is asked for; bfloat16 is written as the float32 it is. `seen(done, total)` is told of samples.
    """
    module = model.module.to(device)
    if precision is not None:
        module.to(DTYPES[precision])
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    total, done = sum(len(split.labels) for split in shown.values()), 0
    if not total:
        raise InputError("there is nothing to show the network.")

    def placed(batch: Batch) -> Any:
        given = batch.given
        if isinstance(given, dict):
            return {name: value.to(device) for name, value in given.items()}
        return given.to(device, dtype)

    with features_file(path) as file:
        first = next(next(iter(shown.values())).batches(min(batch_size, 2)))
        per_token = model.kind in ("next", "tagged")
        with blamed(model.name):
            reading: Layers | Shows = (
                Shows(module, layers) if hasattr(module, "layer_names") and hasattr(module, "classify")
                else Layers(module, model.forward, placed(first), layers, per_token=per_token, pooled=pooled)
            )  # fmt: skip
        found = Extracted(reading.classifier_name, notes=list(model.notes))
        for name, split in shown.items():
            prefix = "" if name == "train" else f"{name}_"
            for batch in split.batches(batch_size):
                with blamed(model.name):
                    values = reading.read(placed(batch), None if batch.mask is None else batch.mask.to(device))
                for layer in reading.names:
                    rows = values[layer] if batch.rows is None else values[layer][batch.rows.to(device)]
                    file.add(prefix + ("features" if layer == "last" else LAYER + layer), array(rows))
                seen(done := done + batch.samples, total)
            if file.rows[f"{prefix}features"] != len(split.labels):
                raise InputError(
                    f"{model.name} gives {file.rows[f'{prefix}features']} features for {len(split.labels)} samples.",
                    "its classifier takes one vector for each",
                )
            file.whole[f"{prefix}labels"] = split.labels
            found.splits[name] = summary(split.labels)
            found.notes += split.notes
        widths = file.widths
        found.layers = {one: widths["features" if one == "last" else LAYER + one] for one in reading.names}
        linear = reading.classifier
        own = [split.comparable for split in shown.values()]
        if all(own) and classes in (None, linear.out_features):
            file.whole["weight"] = array(linear.weight)
            if linear.bias is not None:
                file.whole["bias"] = array(linear.bias)
            found.with_classifier = True
        else:
            there = f"{classes} classes" if all(own) else "labels"
            found.notes.append(
                f"the classifier's {linear.out_features} outputs are not the data set's {there}: "
                "its weight and bias are left out."
            )
        if reading.skipped:
            found.notes.append(f"layers without a number a sample are left out: {', '.join(reading.skipped[:4])}.")
    return found


def array(value: Tensor) -> NDArray[Any]:
    """As NumPy has it: bfloat16 as float32."""
    value = value.detach()
    found: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    return np.ascontiguousarray(found)
