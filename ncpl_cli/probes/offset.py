"""Random numbers around an offset, by squared error: what a network does that was made to fit other scales (L24)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The same draw after every epoch of the parent and for every offset."""
        outputs = self.outputs(data)
        targets = {
            name: self.offset + rng.stream(seed, "probe targets", name).standard_normal((size, outputs))
            for name, size in (("train", len(data.train)), ("test", len(data.test)))
        }
        return Task(
            index=index, epochs=self.epochs, order=self.order(seed, len(data.train)), train_labels=data.train.labels,
            test_labels=data.test.labels, phase="probe", changes=self.branch_epoch > 0, objective=self.objective,
            targets={TRAINED: targets["train"], **targets},
        )  # fmt: skip


@dataclass(frozen=True)
class Offset(Probe):
    """Learn random numbers around an offset."""

    id: ClassVar[str] = "offset"
    run: ClassVar[type[ProbeRun]] = OffsetRun

    offset: float = parts.option(0.0, "mean of the targets", least=-1e9, most=1e9)

    def runs(self, parent: RunSpec, epoch: int) -> list[RunSpec]:
        """One, with the offset."""
        return [self.spec(parent, OffsetRun(parent.id, epoch, self.epochs or EPOCHS, offset=self.offset))]
