"""New labels, uniform at random: nothing to recognise, pure memorisation within a budget (L24, K23)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ncpl_cli import rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.probes.probe import Probe, ProbeRun
from ncpl_cli.scenarios.task import Task


@dataclass(frozen=True)
class LabelsRun(ProbeRun):
    """A copy that learns random labels of all training images, the same ones after every epoch of the parent."""

    id: ClassVar[str] = "labels-probe"

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Labels drawn uniformly, those of the test images too: what is learned does not carry over."""
        outputs = self.outputs(data)
        train, test = (
            rng.stream(seed, "probe labels", name).integers(0, outputs, size)
            for name, size in (("train", len(data.train)), ("test", len(data.test)))
        )
        return Task(
            index=index, epochs=self.epochs, order=self.order(seed, len(data.train)), train_labels=train,
            test_labels=test, phase="probe", changes=self.branch_epoch > 0,
        )  # fmt: skip


@dataclass(frozen=True)
class Labels(Probe):
    """Learn new random labels of the training images."""

    id: ClassVar[str] = "labels"
    run: ClassVar[type[ProbeRun]] = LabelsRun
