"""Shuffled labels (K23, L24): the same images, a new labelling each task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.scenarios.task import Task, epochs_of, option, sample_order, shortest


@dataclass(frozen=True)
class ShuffledLabels:
    """Labels shuffled among the images (nothing to generalise: pure memorisation) or among the classes."""

    id: ClassVar[str] = "shuffled-labels"
    preset: ClassVar[dict[str, object]] = {"dataset": "digits", "network": "mlp", "lr": 0.01, "batch_size": 1}
    horizon_field: ClassVar[str] = "tasks"

    tasks: int = option(20, "number of tasks", identity=False)
    epochs: tuple[int, ...] = option((10,), "epochs of each task (the last one repeats)")
    relabel: str = option("samples", "what is shuffled each task", choices=("samples", "classes"))

    @classmethod
    def of(cls, given: dict[str, Any]) -> ShuffledLabels:
        """The scenario with the options that were given; raises InputError on an impossible combination."""
        scenario = cls(**given)
        return replace(scenario, epochs=shortest(scenario.epochs))

    def check_data(self, data: Dataset) -> None:
        """Nothing in these options depends on the data."""

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: the same for all."""
        return dict(cls.preset)

    def task_epochs(self, index: int) -> int:
        """How many epochs task `index` has."""
        return epochs_of(self.epochs, index)

    @property
    def fixed_length(self) -> bool:
        """Whether all runs of these settings have the same number of epochs."""
        return True

    @property
    def lockstep(self) -> bool:
        """Whether runs that differ in seed can advance together."""
        return self.fixed_length

    @property
    def lockstep_key(self) -> ShuffledLabels:
        """What runs that can advance together have in common."""
        return self

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Task `index` of the run with this seed."""
        draw = rng.stream(seed, "labels", index)
        renamed = draw.permutation(data.classes) if self.relabel == "classes" else None

        def labelled(split: Split) -> NDArray[np.int64]:
            return _shuffled(draw, split.labels) if renamed is None else renamed[split.labels]

        train, test = labelled(data.train), labelled(data.test)
        checked = data.validation
        return Task(
            index=index,
            epochs=self.task_epochs(index),
            changes=index > 0,
            order=sample_order(seed, index, len(data.train)),
            train_labels=train,
            test_labels=test,
            parts={} if checked is None else {"validation": replace(checked, labels=labelled(checked))},
        )


def _shuffled(draw: np.random.Generator, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return labels[draw.permutation(len(labels))]
