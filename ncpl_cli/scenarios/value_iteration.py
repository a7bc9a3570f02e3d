"""Learning values by bootstrapping, without a simulator (L24): a block decision process over images.

State: an image; actions: the classes; reward 1 where the action is the label; next state: a random image; behaviour
uniform. The values of all actions follow r + gamma max_a' Q_copy(s', a'), the copy renewed every so many steps. One
renewal is a task of one epoch: the targets grow from task to task by themselves, while images and rewards stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.objectives import MSE, Objective
from ncpl_cli.scenarios.target_scale import SMALL, preset
from ncpl_cli.scenarios.task import TRAINED, Task, TaskSequence, option, sample_order


@dataclass(frozen=True)
class ValueIteration(TaskSequence):
    """Values of actions by temporal differences: targets that come from an older copy of the network itself.

    Presets: 512 images (of a folder all), MLP 2x100, Adam 3e-3, batch 64.
    """

    id: ClassVar[str] = "value-iteration"
    objective: ClassVar[Objective] = MSE()
    objectives: ClassVar[tuple[str, ...]] = ("mse", "two_hot")
    carried_by: ClassVar[tuple[str, ...]] = ("stacked",)
    bootstraps: ClassVar[bool] = True
    epochs: ClassVar[int] = 1

    tasks: int = option(60, "renewals of the copy, each a task of one epoch", identity=False)
    gamma: float = option(0.99, "what the next state's value counts", least=0, below=1)
    target_every: int = option(100, "steps between two renewals of the copy")

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set."""
        return {"dataset": "digits", **preset(dataset, SMALL | {"lr": 3e-3})}

    @property
    def lockstep_key(self) -> ValueIteration:
        """What runs that can advance together have in common: each has targets of its own."""
        return replace(self, gamma=0.0)

    def outputs(self, data: Dataset) -> int:
        """A value for every action."""
        return data.classes

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The steps from one renewal to the next."""
        return Task(
            index=index, epochs=1, order=sample_order(seed, index, len(data.train)), train_labels=data.train.labels,
            test_labels=data.test.labels, changes=index > 0, objective=self.objective, outputs=data.classes,
            steps=self.target_every, of_outputs=lambda task, copy: self._learning_from(task, copy, data, seed),
        )  # fmt: skip

    def _learning_from(self, task: Task, copy: NDArray[np.float64], data: Dataset, seed: int) -> Task:
        """The task, given the copy's values of the training images (N, actions).

        Every sample that is shown takes one random action and falls onto one random image; the other actions are not
        asked. What is measured is the mean over next states, of all actions.
        """
        labels, best = data.train.labels, copy.max(1)

        def in_order(order: NDArray[np.int64]) -> NDArray[np.float64]:
            draw = rng.stream(seed, "transitions", task.index)
            action, following = draw.integers(0, data.classes, len(order)), draw.integers(0, len(best), len(order))
            asked = np.full((len(order), data.classes), np.nan)
            asked[np.arange(len(order)), action] = (labels[order] == action) + self.gamma * best[following]
            return asked

        splits = {TRAINED: data.train, "train": data.train, "test": data.test}
        splits |= {} if data.validation is None else {"validation": data.validation}
        expected = {
            name: np.eye(data.classes)[split.labels] + self.gamma * best.mean() for name, split in splits.items()
        }
        return replace(task, targets=expected, in_order=in_order, of_outputs=None)
