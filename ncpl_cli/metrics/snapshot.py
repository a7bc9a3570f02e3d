"""A read-only look at a network after an epoch, and everything that is measured on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.device import arithmetic
from ncpl_cli.metrics import units, weights
from ncpl_cli.metrics.catalogue import METRICS, chosen
from ncpl_cli.metrics.columns import columns
from ncpl_cli.metrics.expensive import expensive_metrics
from ncpl_cli.metrics.forward import FEW_ROWS, View, evaluating, preactivations, view
from ncpl_cli.metrics.gradients import by_hand, gradient_norm, gradient_norm_inside
from ncpl_cli.metrics.inputs import at_initialisation, training_samples
from ncpl_cli.metrics.measured import Measured
from ncpl_cli.metrics.neural_collapse import TEST_METRICS
from ncpl_cli.metrics.of_collapse import put_collapse
from ncpl_cli.metrics.of_ones_own import FAMILY as OWN
from ncpl_cli.metrics.of_ones_own import own_metrics
from ncpl_cli.metrics.transfer import INPUT, TOO_LARGE, put_few_shot, put_readouts
from ncpl_cli.networks import ACTIVATIONS, EXACT_ZEROS, Network
from ncpl_cli.objectives import REGRESSION
from ncpl_cli.records import Address
from ncpl_cli.scenarios.task import Task

DIAGNOSTIC_SAMPLES = FEW_ROWS
"""Samples that units and ranks are measured on; dead-unit counts depend on it, so it is fixed."""

OTHER_CLASSES = "classes that the outputs do not name"

INSIDE = {"preactivations", "gradients"}
"""Families that look inside a network: at what every layer gives on a few samples."""

ON_PARAMETERS = frozenset(
    name
    for name, metric in METRICS.items()
    if metric.family
    in ("collapse", "units", "preactivations", "gradients", "weights", "ntk", "curvature", "churn", "readouts")
    or name
    in ("train_accuracy", "train_loss", "test_accuracy", "test_loss", "unexplained_variance", "cdnv_directional")
)
"""Metrics that a look at a network gives, whatever its scenario, and that parameters without numbers have none of."""


@dataclass(frozen=True)
class Snapshot:
    """A network after an epoch of a task, with what measuring it needs. Nobody changes it."""

    network: Network
    data: Dataset
    task: Task
    initial: Mapping[str, Tensor] | None
    device: str = "cpu"
    samples: int | None = None
    learning_rate: float | None = None


def measure(snapshot: Snapshot, metrics: Sequence[str] = ("default",), layers: str = "last") -> Measured:
    """Every chosen metric of the last layer, or of all, on the training and the test split."""
    wanted = chosen(metrics)
    with arithmetic(snapshot.device, "float32"), evaluating(snapshot.network):
        return _measure(snapshot, wanted, layers)


def _measure(snapshot: Snapshot, wanted: set[str], layers: str) -> Measured:
    families = {METRICS[name].family for name in wanted}
    names = snapshot.network.layer_names if layers == "all" else ["last"]
    found = Measured()
    if not _finite(snapshot.network):
        for name in (n for n in wanted if n in ON_PARAMETERS or METRICS[n].family == OWN):
            found.put({}, {name: "parameters are not finite"}, "test" if name in TEST_METRICS else "train")
        return found
    views: dict[str, View] = {}
    if families & {"collapse", "performance", "units", "few_shot", "readouts", OWN}:
        with found.timed("features"):
            views = _views(snapshot, names, inside=bool(families & INSIDE))
    labelled = _label_sets(snapshot, views) if families & {"collapse", "readouts"} else {}
    if "collapse" in families:
        with found.timed("collapse"):
            put_collapse(found, snapshot, views, labelled, names, wanted)
    if "units" in families:
        with found.timed("units"):
            for layer in names:
                _units(found, snapshot, views, layer, wanted)
    for family in sorted(families & {"few_shot", "readouts"}):
        with found.timed(family):
            _transfer(found, snapshot, views, labelled, names, wanted, family)
    if OWN in families:
        with found.timed(OWN):
            _own(found, snapshot, views, names, wanted)
    if "performance" in families:
        _performance(found, snapshot, views)
    if "preactivations" in families:
        with found.timed("preactivations"):
            _preactivations(found, snapshot, views, names)
    if "gradients" in families:
        with found.timed("gradients"):
            _gradients(found, snapshot, views)
    if "weights" in families:
        with found.timed("weights"):
            _weights(found, snapshot, names)
    for family in sorted(families & {"ntk", "curvature", "churn"}):
        own = {name for name in wanted if METRICS[name].family == family}
        with found.timed(family):
            found.put(
                *expensive_metrics(
                    snapshot.network, snapshot.data, snapshot.task, own, device=snapshot.device,
                    learning_rate=snapshot.learning_rate,
                )
            )  # fmt: skip
    return found.only(wanted)


def _finite(network: Network) -> bool:
    """Whether every parameter is a finite number."""
    # finite sums tell; where one overflows, every number is looked at
    parameters = [*network.parameters()]
    return bool(torch.stack([p.sum() for p in parameters]).isfinite().all()) or bool(
        torch.stack([p.isfinite().all() for p in parameters]).all()
    )


def _own(
    found: Measured, snapshot: Snapshot, views: Mapping[str, View], layers: Sequence[str], wanted: Collection[str]
) -> None:
    classifier = snapshot.network.classifier
    for layer in layers:
        for split, seen in views.items():
            known = layer == "last" and split not in snapshot.task.other_classes
            of_layer = (classifier.weight, classifier.bias) if known else (None, None)
            if layer in seen.streamed:
                found.put({}, dict.fromkeys((n for n in wanted if METRICS[n].family == OWN), TOO_LARGE), split, layer)
            else:
                found.put(*own_metrics(wanted, seen.layers[layer], seen.labels, *of_layer), split, layer)


def _views(snapshot: Snapshot, layers: Sequence[str], inside: bool) -> dict[str, View]:
    """Every split that is measured, seen by the network, by name."""
    found = {}
    for name, shown in snapshot.task.measured(snapshot.data).items():
        found[name] = view(
            snapshot.network, snapshot.data, shown.split, shown.labels, snapshot.task.pixel_order,
            device=snapshot.device, samples=snapshot.samples, layers=layers, inside=inside and name == "train",
            among=snapshot.task.among,
        )  # fmt: skip
        if shown.targets is not None:
            found[name].targets = shown.targets[_rows(snapshot, shown.split)]
    return found


def _rows(snapshot: Snapshot, split: Split) -> Any:
    """Which samples of a split `view` has shown."""
    limited = snapshot.samples is not None and snapshot.samples < len(split)
    return split.draw(snapshot.samples) if limited else slice(None)  # type: ignore[arg-type]


def _label_sets(snapshot: Snapshot, views: Mapping[str, View]) -> dict[str, dict[str, View]]:
    """The same views with the task's further labels, by the set's name and the split's."""
    splits = snapshot.task.measured(snapshot.data)
    return {
        name: {
            of: replace(views[of], labels=labels[_rows(snapshot, splits[of].split)], targets=None)
            for of, labels in labelled.items()
        }
        for name, labelled in snapshot.task.label_sets.items()
    }


def _performance(found: Measured, snapshot: Snapshot, views: Mapping[str, View]) -> None:
    task = snapshot.task
    if not task.regression:
        found.put({}, {"unexplained_variance": "the task asks for classes"})
    for split, seen in views.items():
        if split in task.other_classes:
            found.put({}, dict.fromkeys((f"{split}_accuracy", f"{split}_loss"), OTHER_CLASSES))
            continue
        if not task.regression:
            found.put({f"{split}_accuracy": seen.accuracy, f"{split}_loss": seen.loss(task.objective)}, {})
            continue
        found.put({}, {f"{split}_accuracy": REGRESSION})
        if seen.targets is None:
            found.put({}, {f"{split}_loss": "no targets"})
        else:
            found.put({f"{split}_loss": seen.loss(task.objective)}, {})
            left = seen.unexplained(task.objective)
            name = "unexplained_variance"
            found.put(*(({}, {name: "the targets do not vary"}) if left is None else ({name: left}, {})), split)


def _few(snapshot: Snapshot, views: Mapping[str, View]) -> View:
    """A look inside at the training samples that stand for all: of the pass over all where there was one."""
    seen = views.get("train")
    shown = snapshot.task.measured(snapshot.data)["train"]
    if seen is not None and not seen.inside:  # asked, and the network shows nothing
        return seen
    if seen is not None and len(seen.drawn) == min(DIAGNOSTIC_SAMPLES, len(shown.split)):
        return seen
    seen = view(
        snapshot.network, snapshot.data, shown.split, shown.labels, snapshot.task.pixel_order, device=snapshot.device,
        samples=DIAGNOSTIC_SAMPLES, layers=(), inside=True, among=snapshot.task.among,
    )  # fmt: skip
    if shown.targets is not None:
        seen.targets = shown.targets[shown.split.draw(DIAGNOSTIC_SAMPLES)]
    return seen


def _units(found: Measured, snapshot: Snapshot, views: Mapping[str, View], layer: str, wanted: Collection[str]) -> None:
    seen = views["train"]
    features, _ = seen.few(layer)
    found.drawn = len(features)
    gram = (
        torch.from_numpy(seen.squares[layer]) if layer in seen.squares and len(features) == len(seen.labels) else None
    )
    activation = snapshot.network.activation
    zeros = activation in EXACT_ZEROS if activation in ACTIVATIONS else units.has_zeros(features)
    found.put(*units.unit_metrics(features, zeros, wanted, gram), layer=layer)


def _preactivations(found: Measured, snapshot: Snapshot, views: Mapping[str, View], layers: Sequence[str]) -> None:
    network, activation = snapshot.network, snapshot.network.activation
    few = _few(snapshot, views)
    now = few.inside
    if not now:
        lost = [name for name, metric in METRICS.items() if metric.family == "preactivations"]
        why = "this network shows no preactivations"
        found.undefined |= {Address(name, "train", layer): why for name in lost for layer in layers}
        return
    before: Mapping[str, Tensor] = {}
    if snapshot.initial is not None:
        fresh, task = at_initialisation(network, snapshot.initial), snapshot.task
        split = task.measured(snapshot.data)["train"].split.drawn(DIAGNOSTIC_SAMPLES)
        before = preactivations(fresh, snapshot.data, split, task.pixel_order, snapshot.device)
    for layer in layers:

        def put(name: str, value: float | None, why: str, layer: str = layer) -> None:
            if value is None:
                found.undefined[Address(name, "train", layer)] = why
            else:
                found.values[Address(name, "train", layer)] = value

        z, h = now[layer]
        seen = columns(z)
        mean, std = units.preactivation_moments(seen)
        unknown = "the initialisation is not known"
        put("preactivation_mean", mean, "")
        put("preactivation_std", std, "")
        put("active_units_95", units.active_units(seen, activation), "the activation has no side that is off")
        put("saturated_units", units.saturated_units(h, activation), "the activation is not bounded")
        first = units.preactivation_moments(before[layer]) if before else None
        put("preactivation_mean_drift", None if first is None else mean - first[0], unknown)
        put("preactivation_std_drift", None if first is None else std - first[1], unknown)
        affine: float | None = units.linearised_units(seen if activation in units.PIECES else z, activation)
        if activation not in units.PIECES and affine is not None:
            affine = affine - units.linearised_units(before[layer], activation) if before else None
        put("linearised_units", affine, unknown)


def _transfer(
    found: Measured, snapshot: Snapshot, views: Mapping[str, View], labelled: Mapping[str, Mapping[str, View]],
    layers: Sequence[str], wanted: Collection[str], family: str,
) -> None:  # fmt: skip
    """Few-shot errors or read-outs of every layer, and once, of the untrained network, of the pixels themselves."""
    names = [name for name in wanted if METRICS[name].family == family]
    if snapshot.task.regression:
        found.put({}, dict.fromkeys(names, REGRESSION), "unseen" if family == "few_shot" else "test")
        return
    scale = snapshot.data.scale
    for layer in [INPUT, *layers] if _untrained(snapshot) else layers:
        if family == "few_shot":
            put_few_shot(found, views, layer, names, scale)
        else:
            put_readouts(found, views, labelled, layer, names, scale)


def _untrained(snapshot: Snapshot) -> bool:
    """Whether the network is as it was initialised."""
    initial = snapshot.initial
    named = snapshot.network.named_parameters()
    return initial is not None and all(torch.equal(p, initial[n].to(p.device)) for n, p in named)


def _gradients(found: Measured, snapshot: Snapshot, views: Mapping[str, View]) -> None:
    network, data = snapshot.network, snapshot.data
    if by_hand(network, snapshot.device):
        found.values[Address("gradient_norm")] = gradient_norm_inside(
            network, data, snapshot.task.objective, _few(snapshot, views)
        )
        return
    batch = training_samples(network, data, snapshot.task, DIAGNOSTIC_SAMPLES, snapshot.device)
    with evaluating(network):
        found.values[Address("gradient_norm")] = gradient_norm(network, batch)


def _weights(found: Measured, snapshot: Snapshot, layers: Sequence[str]) -> None:
    network = snapshot.network
    found.put(*weights.weight_metrics(network, network.classifier.weight, snapshot.initial))
    of_layers = weights.layer_norms(network)
    for layer in layers if len(layers) == 1 else of_layers:
        if layer in of_layers:
            found.put({"layer_weight_norm": of_layers[layer]}, {}, layer=layer)
        else:
            found.put({}, {"layer_weight_norm": "this network does not say whose its weights are"}, layer=layer)


__all__ = ["Measured", "Snapshot", "measure"]
