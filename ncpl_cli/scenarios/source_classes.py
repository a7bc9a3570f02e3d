"""Source classes, then a few samples of new ones (G22): does collapse on many classes transfer?

A run's seed puts the classes in an order. The first T are targets and never trained on; the next L are trained on. So
arms of a seed that differ in L have the same targets, and of two source sets the larger contains the smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios.choice import check_per_class, class_order, of_class, relabelled, smallest_class
from ncpl_cli.scenarios.task import Task, TaskSequence, option, sample_order

TARGETS = {"mnist44": 10, "emnist": 10, "emnist-letters": 6, "cifar100": 20}
"""Target classes by data set, where three are few."""

UNSEEN = "unseen"


@dataclass(frozen=True)
class SourceClasses(TaskSequence):
    """Train on some classes; classes never trained on are measured as split `unseen`, by a few samples of each.

    Measured beside what every scenario measures: few-shot errors and cdnv of `unseen` and `test` (cdnv_directional
    too). The network has an output for each source class.
    """

    id: ClassVar[str] = "source-classes"
    preset: ClassVar[Mapping[str, object]] = {
        "dataset": "digits", "network": "mlp", "lr": 0.02, "momentum": 0.9, "batch_size": 64,
    }  # fmt: skip
    horizon_field: ClassVar[str] = "epochs"
    tasks: ClassVar[int] = 1
    measures: ClassVar[tuple[str, ...]] = ("few_shot",)

    source_classes: int | None = option(None, "classes to train on; default all but the targets", least=2)
    target_classes: int = option(3, "classes never trained on (mnist44: 10)", least=2)
    per_class: int | None = option(None, "training images of each class; default what the smallest class has")
    samples: int | None = option(None, "training images of all classes together, instead of --per-class", most=10**9)
    epochs: int = option(60, "epochs", identity=False)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: more targets where there are many classes."""
        return {**cls.preset, "target_classes": TARGETS.get(dataset, 3)}

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The scenario with the options that were given; raises InputError on an impossible combination."""
        if given.get("per_class") is not None and given.get("samples") is not None:
            raise InputError("--per-class and --samples say the same thing: give one.")
        return cls(**given)

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where these options do not fit the data."""
        most, sources = data.classes - self.target_classes, self.outputs(data)
        if most < 2 or sources > most:
            asked = self.source_classes or 2
            raise InputError(
                f"{asked} source and {self.target_classes} target classes are impossible: {data.name} has "
                f"{data.classes} classes.",
                f"--source-classes 2 to {most}" if most >= 2 else f"--target-classes 2 to {data.classes - 2}",
            )
        if self.samples is not None and self.samples < sources:
            raise InputError(f"--samples {self.samples} is impossible: allowed are {sources} (one a class) and more.")
        option = f"--samples {self.samples}" if self.per_class is None else f"--per-class {self.per_class}"
        check_per_class(max(self.sizes(data)), data, option)

    def outputs(self, data: Dataset) -> int:
        """One for each source class."""
        return data.classes - self.target_classes if self.source_classes is None else self.source_classes

    def sizes(self, data: Dataset) -> list[int]:
        """Training images of each source class, in their order."""
        sources = self.outputs(data)
        if self.samples is None:
            return [smallest_class(data) if self.per_class is None else self.per_class] * sources
        return [self.samples // sources + (place < self.samples % sources) for place in range(sources)]

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The source classes of the run with this seed, labelled 0 to L-1 in its order; the targets 0 to T-1."""
        classes = class_order(seed, data.classes)
        targets, sources = np.split(classes[: self.target_classes + self.outputs(data)], [self.target_classes])
        number, of_target = np.zeros(data.classes, np.int64), np.zeros(data.classes, np.int64)
        number[sources], of_target[targets] = np.arange(len(sources)), np.arange(len(targets))
        chosen = np.sort(np.concatenate([
            of_class(seed, data.train, label)[:size] for label, size in zip(sources, self.sizes(data), strict=True)
        ]))  # fmt: skip
        parts = {
            "train": relabelled(data.train, chosen, number),
            "test": relabelled(data.test, np.flatnonzero(np.isin(data.test.labels, sources)), number),
            UNSEEN: relabelled(data.test, np.flatnonzero(np.isin(data.test.labels, targets)), of_target),
        }
        if (held := data.validation) is not None:
            parts["validation"] = relabelled(held, np.flatnonzero(np.isin(held.labels, sources)), number)
        order = sample_order(seed, index, len(chosen))
        return Task(
            index=index, epochs=self.epochs, order=lambda task_epoch: chosen[order(task_epoch)],
            train_labels=number[data.train.labels], test_labels=number[data.test.labels], outputs=len(sources),
            parts=parts, other_classes=frozenset({UNSEEN}),
        )  # fmt: skip
