"""Warm starting (B24, after A20): train on a random half, and every so often probe how well the network still learns.

    warm-up  a random half of the data for many epochs
    probe    a copy after epoch 0, k, 2k, ... trained on all of the data, with a new optimiser, until it fits

Each probe is a run of its own (`WarmStartProbe`); epoch 0's is the cold start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng, values
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios.task import Task, option, sample_order

PUBLISHED = {"network": "resnet18", "lr": 0.001, "batch_size": 128, "warm_up_epochs": 350, "probe_every": 5}
SMALL = {"network": "mlp", "lr": 0.05, "batch_size": 32, "warm_up_epochs": 100, "probe_every": 10}
PRESETS = {"cifar10": PUBLISHED} | dict.fromkeys(
    ("digits", "mnist", "fashion-mnist", "mnist44", "emnist", "emnist-letters"), SMALL
)
"""Where the published settings learn nothing, others: on digits they reach 11 % train accuracy."""


@dataclass(frozen=True)
class WarmStart:
    """A random half of the data first, then all of it: does the head start cost accuracy?

    Presets: cifar10 and folders as published (ResNet-18, lr .001, batch 128, 350 epochs, probes every 5); digits,
    mnist and fashion-mnist small (MLP, lr .05, batch 32, 100 epochs, probes every 10).
    """

    id: ClassVar[str] = "warm-start"
    preset: ClassVar[dict[str, object]] = {"dataset": "cifar10", **PUBLISHED}
    horizon_field: ClassVar[str] = "warm_up_epochs"
    tasks: ClassVar[int] = 1
    comes_with: ClassVar[tuple[str, ...]] = ("full-data",)

    warm_up_epochs: int = option(350, "epochs on the half (digits, mnist: 100)", identity=False)
    warm_up_fraction: float = option(0.5, "share of the training samples to warm up on", above=0, most=1)
    probe_every: int = option(5, "epochs between two probes (digits, mnist: 10)", identity=False)
    probe_max_epochs: int = option(100, "a probe gives up after so many epochs")
    probe_accuracy: float = option(0.99, "a probe ends when its running train accuracy is above this", above=0, most=1)
    hold_out_classes: tuple[int, ...] = option(
        (), "classes never trained on, measured as split `unseen`: 8,9", form=values.ranges
    )

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: options, network and optimiser."""
        return {**cls.preset, **PRESETS.get(dataset, PUBLISHED)}

    @classmethod
    def of(cls, given: dict[str, Any]) -> WarmStart:
        """The scenario with the options that were given; raises InputError on an impossible combination."""
        scenario = cls(**given)
        scenario = replace(scenario, hold_out_classes=tuple(sorted(set(scenario.hold_out_classes))))
        return scenario

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where these options do not fit the data."""
        unknown = [c for c in self.hold_out_classes if not 0 <= c < data.classes]
        if unknown or len(self.hold_out_classes) > data.classes - 2:
            raise InputError(
                f"--hold-out-classes {','.join(map(str, self.hold_out_classes))} is impossible: {data.name} has the "
                f"classes 0 to {data.classes - 1}, and two of them must remain."
            )

    @property
    def fixed_length(self) -> bool:
        """Whether all runs of these settings have the same number of epochs."""
        return True

    @property
    def lockstep(self) -> bool:
        """Whether runs that differ in seed can advance together."""
        return True

    @property
    def lockstep_key(self) -> WarmStart:
        """What runs that can advance together have in common."""
        return self

    def task_epochs(self, index: int) -> int:
        """How many epochs task `index` has."""
        return self.warm_up_epochs

    @property
    def branch_epochs(self) -> list[int]:
        """The epochs after which probes branch off: 0, k, 2k, ..."""
        return list(range(0, self.warm_up_epochs + 1, self.probe_every))

    def probe(self, parent: str, branch_epoch: int) -> WarmStartProbe:
        """The probe of a run after an epoch."""
        return WarmStartProbe(
            parent, branch_epoch, self.probe_max_epochs, self.probe_accuracy, self.hold_out_classes
        )  # fmt: skip

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The warm-up of the run with this seed: a random half of the samples that may be trained on."""
        seen = trained_on(data, self.hold_out_classes)
        count = max(1, round(self.warm_up_fraction * len(seen)))
        half = np.sort(rng.stream(seed, "warm-up half").permutation(seen)[:count])
        order = sample_order(seed, index, len(half))
        return Task(
            index=index, epochs=self.warm_up_epochs, order=lambda task_epoch: half[order(task_epoch)],
            train_labels=data.train.labels, test_labels=data.test.labels, phase="warm-up",
            parts={"train": data.train.take(half), **held_out(data, self.hold_out_classes)},
        )  # fmt: skip


@dataclass(frozen=True)
class WarmStartProbe:
    """A copy of a warm-start run, trained on all of the data until it fits: how well does the network still learn?"""

    id: ClassVar[str] = "warm-start-probe"
    preset: ClassVar[dict[str, object]] = WarmStart.preset
    horizon_field: ClassVar[str] = "max_epochs"
    tasks: ClassVar[int] = 1

    parent: str = option("", "the run it branches off")
    branch_epoch: int = option(0, "after which of its epochs")
    max_epochs: int = option(100, "give up after so many epochs")
    accuracy: float = option(0.99, "end when the running train accuracy is above this")
    hold_out_classes: tuple[int, ...] = option((), "classes never trained on")

    fixed_length: ClassVar[bool] = False
    lockstep: ClassVar[bool] = True

    @property
    def lockstep_key(self) -> WarmStartProbe:
        """What runs that can advance together have in common: probes of any run, after any epoch."""
        return replace(self, parent="", branch_epoch=0)

    def task_epochs(self, index: int) -> int:
        """How many epochs it has at most."""
        return self.max_epochs

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """All samples that may be trained on; the same orders after every epoch of the parent, so that they compare."""
        seen = trained_on(data, self.hold_out_classes)
        order = sample_order(seed, 1, len(seen))
        parts = {"train": data.train.take(seen)} if self.hold_out_classes else {}
        return Task(
            index=index, epochs=self.max_epochs, order=lambda task_epoch: seen[order(task_epoch)],
            train_labels=data.train.labels, test_labels=data.test.labels, stop_accuracy=self.accuracy, phase="probe",
            parts=parts | held_out(data, self.hold_out_classes), changes=self.branch_epoch > 0,
        )  # fmt: skip


def trained_on(data: Dataset, hold_out: tuple[int, ...]) -> NDArray[np.int64]:
    """Indices of the training samples whose class is not held out."""
    return np.flatnonzero(~np.isin(data.train.labels, hold_out)).astype(np.int64)


def held_out(data: Dataset, hold_out: tuple[int, ...]) -> dict[str, Split]:
    """The test split in two: classes that are trained on, and those that are not (`unseen`)."""
    if not hold_out:
        return {}
    unseen = np.isin(data.test.labels, hold_out)
    return {"test": data.test.take(np.flatnonzero(~unseen)), "unseen": data.test.take(np.flatnonzero(unseen))}
