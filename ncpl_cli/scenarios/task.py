"""What a scenario shows a network: a task is which labels, which pixels and which order, never a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.objectives import CROSS_ENTROPY, Objective
from ncpl_cli.scenarios.augmentation import Augmentation

TRAINED = "trained"
"""The name of the targets of the whole training split, which `order` points into."""


@dataclass(frozen=True, eq=False)
class MeasuredSplit:
    """A split as a task shows it: labels (N,), and of regression the numbers (N, outputs) asked."""

    split: Split
    labels: NDArray[np.int64]
    targets: NDArray[np.floating[Any]] | None = None

    @property
    def asked(self) -> NDArray[Any]:
        """What the objective is asked: labels or numbers."""
        return self.labels if self.targets is None else self.targets


@dataclass(frozen=True, eq=False)
class Task:
    """One task over a shared data set.

    index         0, 1, ...
    epochs        how many epochs at most
    order         task epoch (1, 2, ...) -> indices into the training split, in the order they are shown
    pixel_order   flattened pixels as the network sees them: `x[:, pixel_order]`; None = as they are
    train_labels  labels of the training split (N,), `test_labels` of the test split
    stop_nc1      end the task after the first epoch whose train nc1 is below this
    stop_accuracy  end it after the first epoch whose running train accuracy (`online_accuracy`) is above this
    phase         `task`, or of a warm start `warm-up` or `probe`: what interventions go by
    changes       whether interventions do at its start what they do at a change of task or phase
    parts         splits that are measured in place of the data set's own, and further ones (`unseen`), by name
    objective     what is asked of the outputs
    among         outputs that answers are looked for among, from the first to before the last; None = all
    outputs       how many classes, labelled 0 to outputs - 1, or numbers it asks for; None = the data set's classes
    targets       of regression: numbers (N, outputs) by name, `trained` of the whole training split and one for every
                  split that is measured
    other_classes  those of the splits whose labels are of classes that the outputs do not name, numbered for themselves
    label_sets    further labels of the same images, by the set's name and the split's: {"fine": {"test": (M,)}} is
                  measured as `fine_test`, of the same forward pass
    soft          of classes: shares (N, C) that the training split is trained on in place of its labels
    steps         how many steps an epoch lasts, in passes over the order; None = one pass
    recentre      whether the classifier's bias is moved by minus the mean prediction before the first step
    of_outputs    of numbers that depend on the network: (the task, what the network predicts of the training split
                  before the first step, (N, outputs)) -> the task with its targets
    in_order      of such numbers: the samples as they are shown (n,) -> what each is asked (n, outputs), another time
                  something else; in place of `targets`, which are then what is measured
    augmentation  how the images are moved at random while they are trained on; what is measured is not
    """

    index: int
    epochs: int
    order: Callable[[int], NDArray[np.int64]]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    pixel_order: NDArray[np.int64] | None = None
    stop_nc1: float | None = None
    stop_accuracy: float | None = None
    phase: str = "task"
    changes: bool = False
    parts: Mapping[str, Split] = field(default_factory=dict)
    objective: Objective = CROSS_ENTROPY
    among: tuple[int, int] | None = None
    outputs: int | None = None
    targets: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    label_sets: Mapping[str, Mapping[str, NDArray[np.int64]]] = field(default_factory=dict)
    other_classes: frozenset[str] = frozenset()
    soft: NDArray[np.floating[Any]] | None = None
    steps: int | None = None
    recentre: bool = False
    of_outputs: Callable[[Task, NDArray[np.float64]], Task] | None = None
    in_order: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]] | None = None
    augmentation: Augmentation | None = None

    @property
    def regression(self) -> bool:
        """Whether it asks for numbers, so that nothing is right or wrong and there are no classes."""
        return bool(self.targets) or self.of_outputs is not None

    def past(self) -> Task:
        """The task once it is over: what it is tested on again, without its training images."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name == "test"})

    def among_at(self, now: Task) -> tuple[int, int] | None:
        """The outputs that its answers are looked for among while another task is at hand: of a head that has grown
        over its own, all of them."""
        if self.among is None or now.among is None:
            return self.among
        grown = now.among[0] <= self.among[0] and self.among[1] <= now.among[1]
        return now.among if grown else self.among

    def classes(self, data: Dataset) -> int:
        """How many classes its labels name."""
        return data.classes if self.outputs is None or self.regression else self.outputs

    @property
    def asked(self) -> NDArray[Any]:
        """What the training split's samples are trained on: labels (N,) or numbers (N, outputs)."""
        return self.targets[TRAINED] if self.regression else self.train_labels

    def asked_of(self, order: NDArray[np.int64]) -> NDArray[Any]:
        """What samples are trained on as they are shown: labels (n,), or numbers or shares (n, outputs)."""
        if self.in_order is not None:
            return self.in_order(order)
        if self.soft is not None:
            return self.soft[order]
        return self.asked[order]

    def measured(self, data: Dataset) -> dict[str, MeasuredSplit]:
        """Every split that is measured, by name."""
        splits = {"train": (data.train, self.train_labels), "test": (data.test, self.test_labels)}
        if data.validation is not None:
            splits["validation"] = (data.validation, data.validation.labels)
        splits |= {name: (split, split.labels) for name, split in self.parts.items()}
        return {name: MeasuredSplit(split, labels, self.targets.get(name)) for name, (split, labels) in splits.items()}

    @cached_property
    def classes_trained(self) -> NDArray[np.int64]:
        """The classes among the samples that are trained on, sorted (K,)."""
        part = self.parts.get("train")
        return np.unique(self.train_labels if part is None else part.labels)


MOST = 10**6
"""Tasks or epochs; above it a number is a slip of the hand."""


def option(default: Any, help: str, *, identity: bool = True, **allowed: Any) -> Any:
    """A scenario's option: a dataclass field that the command line and sweeps show and check by themselves.

    allowed  least, most, above, below, choices, form (values.Allowed); by default what its type says, up to MOST
    """
    allowed = {"most": None if isinstance(default, float) or "below" in allowed else MOST, **allowed}
    return field(default=default, metadata={"help": help, "identity": identity, "choices": None, **allowed})


def epochs_of(epochs: tuple[int, ...], task: int) -> int:
    """The entry of a per-task list; the last one repeats."""
    return epochs[min(task, len(epochs) - 1)]


def shortest(epochs: tuple[int, ...]) -> tuple[int, ...]:
    """A per-task list without the repetitions at its end, which say nothing."""
    while len(epochs) > 1 and epochs[-1] == epochs[-2]:
        epochs = epochs[:-1]
    return epochs


def sample_order(seed: int, task: int, size: int, *, repeat: bool = False) -> Callable[[int], NDArray[np.int64]]:
    """A new random order of all samples for each epoch of a task; `repeat` gives every epoch the first one."""

    def order(task_epoch: int) -> NDArray[np.int64]:
        return rng.stream(seed, "data order", task, 1 if repeat else task_epoch).permutation(size)

    return order


def for_steps(order: Callable[[int], NDArray[np.int64]], samples: int) -> Callable[[int], NDArray[np.int64]]:
    """Epochs of so many samples: passes of an order one after another, each pass of a number of its own."""

    def passes(task_epoch: int) -> NDArray[np.int64]:
        found: list[NDArray[np.int64]] = []
        while (count := sum(map(len, found))) < samples:
            found.append(order((task_epoch - 1) * samples + len(found) + 1)[: samples - count])
        return np.concatenate(found)

    return passes


@dataclass(frozen=True)
class TaskSequence:
    """What most scenarios of `tasks` with `epochs` each have in common: a sibling adds id, preset, options and `task`.

    preset  its own defaults: dataset, network, lr, batch_size, and any of its options
    """

    id: ClassVar[str]
    preset: ClassVar[Mapping[str, object]]
    horizon_field: ClassVar[str] = "tasks"
    fixed_length: ClassVar[bool] = True
    lockstep: ClassVar[bool] = True

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The scenario with the options that were given."""
        return cls(**given)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: the same for all."""
        return dict(cls.preset)

    def check_data(self, data: Any) -> None:
        """Nothing in these options depends on the data."""

    def task_epochs(self, index: int) -> int:
        """How many epochs a task has."""
        return int(self.epochs)  # type: ignore[attr-defined]

    @property
    def lockstep_key(self) -> Self:
        """What runs that can advance together have in common."""
        return self
