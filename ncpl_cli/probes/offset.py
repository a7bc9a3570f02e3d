"""Random numbers around an offset, by squared error: what a network does that was made to fit other scales (L24)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import parts, rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.objectives import MSE, Objective
from ncpl_cli.probes.probe import EPOCHS, Probe, ProbeRun
from ncpl_cli.scenarios.task import TRAINED, Task, option
from ncpl_cli.spec import RunSpec


@dataclass(frozen=True)
class OffsetRun(ProbeRun):
    """A copy that learns `offset + N(0, 1)` at every output, for every training image."""

    id: ClassVar[str] = "offset-probe"
    objective: ClassVar[Objective] = MSE()

    offset: float = option(0.0, "mean of the targets")
    around: str = option("zero", "what the offset counts from", choices=("zero", "prediction"))

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The same draw after every epoch of the parent and for every offset."""
        drawn = {
            name: self.offset + rng.stream(seed, "probe targets", name).standard_normal((size, self.outputs(data)))
            for name, size in (("train", len(data.train)), ("test", len(data.test)))
        }
        task = Task(
            index=index, epochs=self.epochs, order=self.order(seed, len(data.train)), train_labels=data.train.labels,
            test_labels=data.test.labels, phase="probe", changes=self.branch_epoch > 0, objective=self.objective,
            outputs=self.outputs(data),
        )  # fmt: skip
        if self.around == "zero":
            return _around(task, drawn, 0.0)
        return replace(task, of_outputs=lambda task, predicted: _around(task, drawn, float(predicted.mean())))


def _around(task: Task, drawn: dict[str, NDArray[np.float64]], middle: float) -> Task:
    targets = {name: middle + numbers for name, numbers in drawn.items()}
    return replace(task, targets={TRAINED: targets["train"], **targets}, of_outputs=None)


@dataclass(frozen=True)
class Offset(Probe):
    """Learn random numbers around an offset, which may count from the network's own mean prediction."""

    id: ClassVar[str] = "offset"
    run: ClassVar[type[ProbeRun]] = OffsetRun
    of_labels: ClassVar[bool] = False

    offset: float = parts.option(0.0, "mean of the targets", least=-1e9, most=1e9)
    around: str = parts.option(
        "zero", "from where the offset counts: zero, or the network's own mean prediction",
        choices=("zero", "prediction"),
    )  # fmt: skip

    def runs(self, parent: RunSpec, epoch: int) -> list[RunSpec]:
        """One, with the offset; where the parent asks for numbers, by its objective."""
        run = OffsetRun(parent.id, epoch, self.epochs or EPOCHS, offset=self.offset, around=self.around)
        own = parent.objective if parent.objective is not None and not parent.objective.of_labels else None
        return [replace(self.spec(parent, run), objective=own)]
