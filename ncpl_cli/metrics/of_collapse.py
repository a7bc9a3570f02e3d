"""Collapse of a network's features, layer by layer and split by split, also by labels that the outputs do not name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ncpl_cli.metrics.accumulator import CollapseAccumulator
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.metrics.forward import View, accumulate
from ncpl_cli.metrics.measured import Measured
from ncpl_cli.metrics.moments import gram_of
from ncpl_cli.metrics.neural_collapse import (
    CLASSIFIER_METRICS,
    FEATURE_METRICS,
    TEST_METRICS,
    CollapseResult,
    collapse,
    means_of,
    moment_of,
    names_of,
)
from ncpl_cli.metrics.transfer import TOO_LARGE
from ncpl_cli.objectives import REGRESSION

if TYPE_CHECKING:
    from ncpl_cli.metrics.snapshot import Snapshot

CONTEXT = ("null_nc1", "rank_between")
"""What is stored with nc1 at every epoch, since it changes with the features; `counts` does not."""


def put_collapse(
    found: Measured, snapshot: Snapshot, views: Mapping[str, View], labelled: Mapping[str, Mapping[str, View]],
    layers: Sequence[str], wanted: Collection[str],
) -> None:  # fmt: skip
    """Collapse of every split at every layer, and of the same images by further labels (`labelled`, by their name)."""
    if snapshot.task.regression:
        names = [name for name, metric in METRICS.items() if metric.family == "collapse"]
        for name in names:
            found.put({}, {name: REGRESSION}, "test" if name in TEST_METRICS else "train")
        return
    streams = _streams(snapshot, views, wanted)
    for layer in layers:
        classifier = snapshot.network.classifier if layer == "last" else None
        weight, bias = (None, None) if classifier is None else (classifier.weight, classifier.bias)
        classes, train = snapshot.task.classes(snapshot.data), views["train"]
        whole = streams.get(("train", layer))
        means = means_of(train.layers[layer], train.labels, classes) if whole is None else whole.means()
        moment = None
        if whole is None and {"vci", "null_nc1"} & {*wanted}:
            moment = moment_of(train.layers[layer], train.labels, means)
        if moment is not None and len(train.drawn) == len(train.labels):
            train.squares[layer] = gram_of(moment, means)
        for split, seen in views.items():
            if split in snapshot.task.other_classes:
                _collapse_apart(found, split, seen, layer, wanted, None, "classes that are not trained on")
                continue
            if (stream := streams.get((split, layer))) is not None:
                result = stream.compute(weight, bias)
            else:
                result = collapse(
                    seen.layers[layer], seen.labels, weight, bias, classes=classes,
                    train_means=means if split != "train" else None, means=means if split == "train" else None,
                    moment=moment if split == "train" else None, predicted=seen.predicted if layer == "last" else None,
                    metrics=collapse_names(wanted, classifier is not None, split != "train"),
                )  # fmt: skip
            _put_collapse(found, result, split, layer)
            if stream is not None and split != "train":  # its own means are not those of the training split
                found.put({}, dict.fromkeys(("ncc_error", *TEST_METRICS), TOO_LARGE), split, layer)
        for name, of in labelled.items():
            _collapse_of_labels(found, name, of, layer, wanted)


def _collapse_of_labels(
    found: Measured, name: str, views: Mapping[str, View], layer: str, wanted: Collection[str]
) -> None:
    """Collapse by labels that the classifier does not know, as splits of their own."""
    classes = 1 + max(int(seen.labels.max()) for seen in views.values())
    train = views.get("train")
    means = None
    if train is not None and layer not in train.streamed:
        means = means_of(train.layers[layer], train.labels, classes)
    for of, seen in views.items():
        of_training = None if of == "train" else means
        why = "no training labels" if of != "train" and means is None else ""
        _collapse_apart(found, f"{name}_{of}", seen, layer, wanted, of_training, why)


def _collapse_apart(
    found: Measured, split: str, seen: View, layer: str, wanted: Collection[str], train_means: Any, why: str
) -> None:
    """Collapse of a split by labels that the classifier does not know; `why` it knows no training means."""
    if layer in seen.streamed:
        names = [metric.id for metric in METRICS.values() if metric.family == "collapse"]
        found.put({}, dict.fromkeys(names, TOO_LARGE), split, layer)
        return
    result = collapse(
        seen.layers[layer], seen.labels, train_means=train_means,
        metrics=collapse_names(wanted, False, train_means is not None),
    )  # fmt: skip
    _put_collapse(found, result, split, layer)
    found.put({}, dict.fromkeys(CLASSIFIER_METRICS, "the classifier knows other classes"), split, layer)
    if why:
        found.put({}, dict.fromkeys(("ncc_error", *TEST_METRICS), why), split, layer)


def _put_collapse(found: Measured, result: CollapseResult, split: str, layer: str) -> None:
    found.put(result.values, result.undefined, split, layer)
    found.contexts[split, layer] = result.context
    found.put(*context_metrics(result), split, layer)


def collapse_names(wanted: Collection[str], classifier: bool, test: bool) -> list[str]:
    """What `collapse` is asked for, for what is wanted: the estimate of null_nc1 comes with vci's matrix."""
    asked = {*wanted} | ({"vci"} if "null_nc1" in wanted else set())
    return names_of(asked & {*FEATURE_METRICS, *CLASSIFIER_METRICS, *TEST_METRICS}, classifier=classifier, test=test)


def context_metrics(result: CollapseResult) -> tuple[dict[str, float], dict[str, str]]:
    """What nc1 must be read with at every epoch, as metrics, and why one is undefined."""
    why = next(iter(result.undefined.values()), "the features have no scatter")
    values = {name: float(result.context[name]) for name in CONTEXT if name in result.context}
    return values, {name: why for name in CONTEXT if name not in values}


def _streams(
    snapshot: Snapshot, views: Mapping[str, View], wanted: Collection[str]
) -> dict[tuple[str, str], CollapseAccumulator]:
    """Accumulators of the layers that are too large to be kept, by split and layer."""
    found: dict[tuple[str, str], CollapseAccumulator] = {}
    for name, shown in snapshot.task.measured(snapshot.data).items():
        if views[name].streamed and name not in snapshot.task.other_classes:
            of_layers = accumulate(
                snapshot.network, snapshot.data, shown.split, shown.labels, snapshot.task.pixel_order,
                device=snapshot.device, samples=snapshot.samples, layers=views[name].streamed,
                classes=snapshot.task.classes(snapshot.data), metrics=collapse_names(wanted, True, False),
            )  # fmt: skip
            found |= {(name, layer): accumulator for layer, accumulator in of_layers.items()}
    return found
