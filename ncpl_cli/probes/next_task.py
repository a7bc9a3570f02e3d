"""The task that comes next in the run itself, for a fixed budget: what it would have learned, without learning it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.probes.probe import EPOCHS, Probe, ProbeRun, said
from ncpl_cli.scenarios.task import Task, option
from ncpl_cli.spec import RunSpec


@dataclass(frozen=True)
class NextTaskRun(ProbeRun):
    """A copy that learns a later task of its parent; beside it the network as initialised, on that same task."""

    id: ClassVar[str] = "next-task-probe"

    of_task: int = option(0, "which task of the parent it learns", least=0)

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The parent's task, as long as the budget."""
        task: Task = self.parents.task(self.of_task, data, seed)
        return replace(
            task, index=index, epochs=self.epochs, phase="probe", changes=self.branch_epoch > 0, stop_nc1=None,
            stop_accuracy=None,
        )  # fmt: skip

    @classmethod
    def pair(cls, settings: Mapping[str, Any]) -> Any:
        """The task."""
        return settings["of_task"]


@dataclass(frozen=True)
class NextTask(Probe):
    """Learn the task after the one that was just learned."""

    id: ClassVar[str] = "next-task"
    run: ClassVar[type[ProbeRun]] = NextTaskRun

    def runs(self, parent: RunSpec, epoch: int) -> list[RunSpec]:
        """The copy after an epoch, and the network as initialised on the same task."""
        scenario = parent.scenario
        if scenario.horizon_field != "tasks":
            raise InputError(f"--probe next-task: {scenario.id} has no next task.")
        if epoch == 0:
            return []
        of_task, past = 0, 0
        while past < epoch:
            past += scenario.task_epochs(of_task)
            of_task += 1
        known: dict[str, Any] = {"epochs": self.epochs or EPOCHS, "of_task": of_task, "of_scenario": said(scenario)}
        both = [self.spec(parent, NextTaskRun(parent.id, branch, **known)) for branch in (0, epoch)]
        return [replace(one, objective=parent.objective) for one in both]
