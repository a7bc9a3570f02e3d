"""Online permuted images (B24, after D24): every task shows the same images with another pixel order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios.similarity import NONE, Similarity, written
from ncpl_cli.scenarios.task import Task, epochs_of, option, sample_order, shortest


@dataclass(frozen=True)
class PermutedMNIST:
    """A new pixel permutation and a new sample order each task; 60 000 samples once."""

    id: ClassVar[str] = "permuted-mnist"
    preset: ClassVar[dict[str, object]] = {"dataset": "mnist", "network": "mlp", "lr": 0.01, "batch_size": 1}
    horizon_field: ClassVar[str] = "tasks"

    tasks: int = option(140, "number of tasks", identity=False)
    first_task_epochs: int = option(1, "epochs on the first task")
    first_task_nc1: float | None = option(None, "train the first task until nc1 is below this", above=0)
    first_task_max_epochs: int = option(50, "with --first-task-nc1: give up after so many epochs")
    first_task_order: str = option("new", "sample order of repeated first-task epochs", choices=("new", "same"))
    epochs: tuple[int, ...] = option((1,), "epochs of each task, e.g. 2 or 50,1x20,10 (the last one repeats)")
    permuted_fraction: float = option(1.0, "share of the pixels that each task permutes", above=0, most=1)
    similarity: str = option(NONE, "how a task follows the last: rotation:15, interpolate:.3, disagree:.2; none: anew",
                             form=written, newer=True)  # fmt: skip

    @classmethod
    def of(cls, given: dict[str, Any]) -> PermutedMNIST:
        """The scenario with the options that were given; raises InputError on an impossible combination.

        `epochs` is given for all tasks and kept as the first task's and those of the tasks after it, so that
        one protocol has one identity however it was written.
        """
        given = dict(given)
        if (epochs := given.pop("epochs", None)) is not None:
            if len(epochs) > 1 and ("first_task_epochs" in given or given.get("first_task_nc1") is not None):
                raise InputError(
                    "a list of --epochs already says how long the first task lasts: "
                    "drop --first-task-epochs and --first-task-nc1, or give --epochs one number."
                )
            if given.get("first_task_nc1") is None:
                given.setdefault("first_task_epochs", epochs[0])
            given["epochs"] = shortest(epochs[1:] or epochs)
        if given.get("first_task_nc1") is not None and "first_task_epochs" in given:
            raise InputError(
                "--first-task-epochs and --first-task-nc1 both say how long the first task lasts: give one."
            )
        scenario = cls(**given)
        scenario.check()
        return scenario

    def check(self) -> None:
        """Raise InputError on an impossible combination."""
        if self.first_task_nc1 is None and self.first_task_max_epochs != 50:
            raise InputError("--first-task-max-epochs needs --first-task-nc1.")
        if self.similarity != NONE and self.permuted_fraction != 1:
            raise InputError("--similarity and --permuted-fraction both say how alike tasks are: give one.")

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where these options do not fit the data."""
        Similarity.of(self.similarity).check(data.shape, data.classes, data.name)

    @property
    def measures(self) -> tuple[str, ...]:
        """How alike tasks are is measured where they were made alike."""
        return () if self.similarity == NONE else ("similarity",)

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: the same for all."""
        return dict(cls.preset)

    def task_epochs(self, index: int) -> int:
        """How many epochs task `index` has at most."""
        if index == 0 and self.first_task_nc1 is not None:
            return self.first_task_max_epochs
        return self.first_task_epochs if index == 0 else epochs_of(self.epochs, index - 1)

    @property
    def fixed_length(self) -> bool:
        """Whether all runs of these settings have the same number of epochs."""
        return self.first_task_nc1 is None

    @property
    def lockstep(self) -> bool:
        """Whether runs that differ in seed can advance together."""
        return self.fixed_length

    @property
    def lockstep_key(self) -> PermutedMNIST:
        """What runs that can advance together have in common."""
        return self

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Task `index` of the run with this seed."""
        alike = Similarity.of(self.similarity)
        names = alike.renamed(seed, index, data.classes)

        def called(labels: NDArray[np.int64]) -> NDArray[np.int64]:
            return labels if names is None else names[labels]

        checked = data.validation
        return Task(
            index=index,
            epochs=self.task_epochs(index),
            changes=index > 0,
            order=sample_order(seed, index, len(data.train), repeat=index == 0 and self.first_task_order == "same"),
            pixel_order=self._pixel_order(index, data.pixels, seed)
            if self.similarity == NONE
            else alike.pixel_order(seed, index, data.shape),
            train_labels=called(data.train.labels),
            test_labels=called(data.test.labels),
            parts={} if checked is None or names is None else {"validation": checked.under(called(checked.labels))},
            stop_nc1=self.first_task_nc1 if index == 0 else None,
        )

    def _pixel_order(self, index: int, pixels: int, seed: int) -> NDArray[np.int64]:
        draw = rng.stream(seed, "pixel order", index)
        if self.permuted_fraction == 1:
            return draw.permutation(pixels)
        # one base order for all tasks, so that every pair of tasks is equally similar
        order = rng.stream(seed, "base pixel order").permutation(pixels)
        moved = draw.choice(pixels, size=round(self.permuted_fraction * pixels), replace=False)
        order[moved] = order[draw.permutation(moved)]
        return order


@dataclass(frozen=True)
class PermutedDigits(PermutedMNIST):
    """Permuted images on scikit-learn's bundled digits: 64 pixels, 1 437 samples, nothing to download."""

    id: ClassVar[str] = "permuted-digits"
    preset: ClassVar[dict[str, object]] = {"dataset": "digits", "network": "mlp", "lr": 0.01, "batch_size": 1}
