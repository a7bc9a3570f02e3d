"""A read-only look at a network after an epoch, and everything that is measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.metrics import units, weights
from ncpl_cli.metrics.catalogue import METRICS, chosen
from ncpl_cli.metrics.forward import View, task_accuracy, view
from ncpl_cli.metrics.neural_collapse import collapse, means_of
from ncpl_cli.networks import EXACT_ZEROS, Network
from ncpl_cli.records import Address
from ncpl_cli.scenarios.task import Task

DIAGNOSTIC_SAMPLES = 2000
"""Samples that units and ranks are measured on; dead-unit counts depend on it, so it is fixed."""


@dataclass(frozen=True)
class Snapshot:
    """A network after an epoch of a task, with what measuring it needs. Nobody changes it."""

    network: Network
    data: Dataset
    task: Task
    initial: Mapping[str, Tensor] | None
    device: str = "cpu"
    samples: int | None = None


@dataclass
class Measured:
    """Values and, where there is none, the reason, by address."""

    values: dict[Address, float] = field(default_factory=dict)
    undefined: dict[Address, str] = field(default_factory=dict)


def measure(snapshot: Snapshot, metrics: Sequence[str] = ("default",), layers: str = "last") -> Measured:
    """Every chosen metric of the last layer, or of all, on the training and the test split."""
    wanted = chosen(metrics)
    families = {METRICS[name].family for name in wanted}
    names = snapshot.network.layer_names if layers == "all" else ["last"]
    found = Measured()
    views = _views(snapshot, names) if families & {"collapse", "performance", "units"} else {}
    if "performance" in families:
        for split, seen in views.items():
            found.values[Address(f"{split}_accuracy")] = seen.accuracy
            found.values[Address(f"{split}_loss")] = seen.loss
    if "collapse" in families:
        for layer in names:
            _collapse(found, snapshot, views, layer)
    if "units" in families:
        for layer in names:
            _units(found, snapshot, views["train"].layers[layer][:DIAGNOSTIC_SAMPLES], layer)
    if "weights" in families:
        _weights(found, snapshot)
    found.values = {a: v for a, v in found.values.items() if a.metric in wanted}
    found.undefined = {a: why for a, why in found.undefined.items() if a.metric in wanted}
    return found


def _views(snapshot: Snapshot, layers: Sequence[str]) -> dict[str, View]:
    task, data = snapshot.task, snapshot.data
    splits = {"train": (data.train, task.train_labels), "test": (data.test, task.test_labels)}
    if data.validation is not None:
        splits["validation"] = (data.validation, data.validation.labels)
    return {
        name: view(
            snapshot.network, data, split, labels, task.pixel_order, device=snapshot.device, samples=snapshot.samples,
            layers=layers,
        )
        for name, (split, labels) in splits.items()
    }  # fmt: skip


def _collapse(found: Measured, snapshot: Snapshot, views: Mapping[str, View], layer: str) -> None:
    classifier = snapshot.network.classifier if layer == "last" else None
    weight, bias = (None, None) if classifier is None else (classifier.weight, classifier.bias)
    classes = snapshot.data.classes
    train = views["train"]
    means = means_of(train.layers[layer], train.labels, classes)
    for split, seen in views.items():
        reference = means if split != "train" else None
        result = collapse(
            seen.layers[layer], seen.labels, weight, bias, classes=classes, train_means=reference,
            means=means if split == "train" else None, predicted=seen.predicted if layer == "last" else None,
        )  # fmt: skip
        for name, value in result.values.items():
            if name not in result.undefined:
                found.values[Address(name, split, layer)] = value
        for name, why in result.undefined.items():
            found.undefined[Address(name, split, layer)] = why
        if "null_nc1" in result.context:
            found.values[Address("null_nc1", split, layer)] = result.context["null_nc1"]


def _units(found: Measured, snapshot: Snapshot, features: Tensor, layer: str) -> None:
    def put(name: str, value: float) -> None:
        found.values[Address(name, "train", layer)] = value

    if snapshot.network.activation in EXACT_ZEROS:
        put("dead_units", units.dead_units(features))
    else:
        found.undefined[Address("dead_units", "train", layer)] = "the activation has no exact zeros"
    put("dormant_units", units.dormant_units(features))
    put("feature_norm", units.feature_norm(features))
    ranks = units.ranks(units.spectrum(features))
    for name in ("effective_rank", "srank", "srank_squared", "stable_rank", "participation_ratio"):
        if name in ranks:
            put(name, ranks[name])
        else:
            found.undefined[Address(name, "train", layer)] = "all features are zero"


def _weights(found: Measured, snapshot: Snapshot) -> None:
    network = snapshot.network
    found.values[Address("weight_norm")] = weights.weight_norm(network)
    found.values[Address("weight_mean_abs")] = weights.weight_mean_abs(network)
    found.values[Address("spectral_norm")] = weights.spectral_norm(network.classifier.weight)
    if snapshot.initial is not None:
        found.values[Address("distance_from_init")] = weights.distance_from_init(network, snapshot.initial)


__all__ = ["Measured", "Snapshot", "measure", "task_accuracy"]
