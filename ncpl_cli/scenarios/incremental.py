"""Classes that arrive a few at a time (V22; D24): class-incremental and task-incremental learning of the same splits.

A run's seed puts the classes in an order and numbers them in it: task t brings the classes t n to (t + 1) n - 1. The
two scenarios differ in which outputs an answer is looked for among, in training and in testing:

    class-incremental   all classes seen so far: a head that grows
    task-incremental    the task's own: which task it is, is told

Outputs beside those take no part in the loss, so that they stand as initialised until their class comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios.augmentation import Augmentation, written
from ncpl_cli.scenarios.choice import Index, check_per_class, class_order, of_class, relabelled, smallest_class
from ncpl_cli.scenarios.task import Task, TaskSequence, option, sample_order

MLP = {"network": "mlp", "width": 400, "depth": 2, "optimizer": "adam", "lr": 1e-3, "batch_size": 128, "epochs": 20}
"""V22: fully connected 400-400, Adam 1e-3, batch 128; 20 epochs of a fifth of MNIST are some 2 000 steps."""

RESNET = {"network": "resnet18", "lr": 0.05, "momentum": 0.9, "batch_size": 32, "epochs": 50,
          "lr_schedule": "step:35/45:0.1"}  # fmt: skip

DOHARE = {"network": "resnet18", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 90, "epochs": 200,
          "lr_schedule": "step:60/120/160:0.2", "classes_per_task": 5, "show": "seen",
          "augment": "flip+crop:4+rotate:15"}  # fmt: skip
"""D24's class-incremental CIFAR-100: five more classes every 200 epochs, trained on all that have come, the schedule
anew each time. Otherwise than there: the network goes on from its last epoch, not from the one with the best validation
accuracy; ResNet-18 pools after its first convolution; images that are measured are never moved."""

DOHARE_SMALL = {**DOHARE, "network": "convnet", "lr": 0.05, "batch_size": 32, "epochs": 20,
                "lr_schedule": "step:6/12/16:0.2", "classes_per_task": 2}  # fmt: skip
"""The same in minutes of a CPU: a small convolutional network, a tenth of the epochs, the rate at the same shares."""

PRESETS: dict[str, dict[str, object]] = {
    "digits": {**MLP, "width": 100, "batch_size": 32},
    "cifar10": RESNET,
    "cifar100": {**DOHARE, "validation_fraction": 0.1},  # 450 images of each class to train on, 50 set aside
    "cifar100-super": DOHARE,
}

DOHARE_ON: dict[str, dict[str, object]] = {
    "cifar100": PRESETS["cifar100"],
    "cifar100-super": DOHARE,
    "digits": {**DOHARE_SMALL, "augment": "flip+crop:1+rotate:15"},
}

PROTOCOLS = ("auto", "vandeven2022", "dohare2024")


@dataclass(frozen=True)
class ClassIncremental(TaskSequence):
    """A few new classes each task; the answer is looked for among all classes seen so far.

    Presets: 28x28 images and digits MLP (400-400; digits 100-100), Adam 1e-3; cifar10 and folders ResNet-18, batch 32,
    50 epochs; cifar100 as D24: five classes more every 200 epochs, trained on all seen, cropped, flipped and turned.
    """

    id: ClassVar[str] = "class-incremental"
    preset: ClassVar[Mapping[str, object]] = {"dataset": "mnist", **MLP}
    measures: ClassVar[tuple[str, ...]] = ("incremental",)
    carried_by: ClassVar[tuple[str, ...]] = ("stacked",)
    grows: ClassVar[bool] = True

    tasks: int = option(0, "number of tasks; 0 = as many as there are classes for", identity=False, least=0)
    classes_per_task: int = option(2, "new classes each task (cifar100: 5)", least=1)
    epochs: int = option(20, "epochs of each task (cifar10: 50, cifar100: 200)")
    per_class: int | None = option(None, "training images of each class; default what the smallest class has")
    grouping: str = option("random", "order in which classes come: the seed's, or the labels'",
                           choices=("random", "order"))  # fmt: skip
    show: str = option("new", "train on the new classes, or on all seen so far (D24; the ceiling of joint training)",
                       choices=("new", "seen"))  # fmt: skip
    augment: str = option("none", "images moved at random in training, as flip+crop:4+rotate:15 (cifar100: that)",
                          form=written, newer=True)  # fmt: skip
    protocol: str = option("auto", "whose presets: vandeven2022, dohare2024 (small but on cifar100); auto: the data's",
                           choices=PROTOCOLS, identity=False, newer=True)  # fmt: skip

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The scenario with the options that were given; a protocol is what it presets, and is not kept."""
        return cls(**{name: value for name, value in given.items() if name != "protocol"})

    @classmethod
    def presets_under(cls, protocol: str, dataset: str) -> dict[str, object]:
        """Defaults for a data set under a published protocol."""
        if protocol == "dohare2024":
            return {"dataset": cls.preset["dataset"], **DOHARE_ON.get(dataset, DOHARE_SMALL)}
        if protocol == "vandeven2022" and dataset.startswith("cifar100"):
            return {"dataset": cls.preset["dataset"], **RESNET, "classes_per_task": 10}
        return cls.presets(dataset)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: options, network and optimiser."""
        small = MLP if dataset in ("", "mnist", "fashion-mnist", "mnist44", "emnist", "emnist-letters") else RESNET
        return {"dataset": cls.preset["dataset"], **PRESETS.get(dataset, small)}

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where these options do not fit the data."""
        most = data.classes // self.classes_per_task
        if self.grows is False and self.classes_per_task < 2:
            raise InputError("--classes-per-task 1 is impossible for task-incremental: one class is no question.")
        if most < 2 and not (most == 1 and self.tasks == 1):
            raise InputError(
                f"--classes-per-task {self.classes_per_task} is impossible: {data.name} has {data.classes} classes, "
                "and two tasks must be possible.",
                f"--classes-per-task 1 to {max(1, data.classes // 2)}; --tasks 1 trains all of one task's at once",
            )
        if self.tasks > most:
            raise InputError(
                f"--tasks {self.tasks} is impossible: {data.name} has classes for {most} tasks of "
                f"{self.classes_per_task}."
            )
        check_per_class(self._per_class(data), data, f"--per-class {self.per_class}")
        if (augmentation := Augmentation.of(self.augment)) is not None:
            augmentation.check(data.shape, data.name)

    def fitted(self, data: Dataset) -> Self:
        """With as many tasks as the data have classes for, where no number was given."""
        return replace(self, tasks=self.tasks or data.classes // self.classes_per_task)

    def _per_class(self, data: Dataset) -> int:
        return smallest_class(data) if self.per_class is None else self.per_class

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Task `index` of the run with this seed; labels are numbered in the order in which the classes come."""
        classes = class_order(seed, data.classes) if self.grouping == "random" else np.arange(data.classes)
        number = np.argsort(classes)
        first, last = index * self.classes_per_task, (index + 1) * self.classes_per_task
        shown, count = classes[first if self.show == "new" else 0 : last], self._per_class(data)
        chosen = np.sort(np.concatenate([of_class(seed, data.train, label)[:count] for label in shown]))

        def of(split: Split, labels: Index) -> Split:
            return relabelled(split, np.flatnonzero(np.isin(split.labels, labels)), number)

        parts = {"train": relabelled(data.train, chosen, number), "test": of(data.test, classes[first:last])}
        if data.validation is not None:
            parts["validation"] = of(data.validation, classes[first:last])
        order = sample_order(seed, index, len(chosen))
        return Task(
            index=index, epochs=self.epochs, order=lambda task_epoch: chosen[order(task_epoch)], changes=index > 0,
            train_labels=number[data.train.labels], test_labels=number[data.test.labels], parts=parts,
            among=(0 if self.grows else first, last), augmentation=Augmentation.of(self.augment, seed, index),
        )  # fmt: skip


@dataclass(frozen=True)
class TaskIncremental(ClassIncremental):
    """The same splits; the answer is looked for among the task's own classes: which task it is, is told."""

    id: ClassVar[str] = "task-incremental"
    grows: ClassVar[bool] = False

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The scenario with the options that were given; raises InputError on an impossible combination."""
        made = super().of(given)
        if made.show == "seen":
            raise InputError(
                "--show seen belongs to class-incremental: samples of several tasks have no one set of answers.",
                "train each task alone with --intervention full_reset",
            )
        return made

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set; every task on its own classes."""
        found = super().presets(dataset)
        return {**found, "show": "new"}

    @classmethod
    def presets_under(cls, protocol: str, dataset: str) -> dict[str, object]:
        """Under a published protocol; every task on its own classes."""
        return {**super().presets_under(protocol, dataset), "show": "new"}
