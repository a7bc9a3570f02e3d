"""The task that comes next in the run itself, for a fixed budget: what it would have learned, without learning it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import InputError
from ncpl_cli.probes.probe import EPOCHS, Probe, ProbeRun
from ncpl_cli.scenarios import scenario_named
from ncpl_cli.scenarios.task import Task, option
from ncpl_cli.spec import RunSpec


@dataclass(frozen=True)
class NextTaskRun(ProbeRun):
    """A copy that learns a later task of its parent; beside it the network as initialised, on that same task."""

    id: ClassVar[str] = "next-task-probe"

    of_task: int = option(0, "which task of the parent it learns", least=0)
    of_scenario: str = option("", "the parent's scenario and its options, as JSON", identity=False)

    @property
    def _parents(self) -> Any:
        given = json.loads(self.of_scenario)
        kind: Any = scenario_named(given.pop("id"))
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The parent's task, as long as the budget."""
        task: Task = self._parents.task(self.of_task, data, seed)
        return replace(
            task, index=index, epochs=self.epochs, phase="probe", changes=self.branch_epoch > 0, stop_nc1=None,
            stop_accuracy=None,
        )  # fmt: skip

    def outputs(self, data: Dataset) -> int:
        """As many as the parent's."""
        parents = self._parents
        return int(parents.outputs(data)) if hasattr(parents, "outputs") else data.classes

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
        of_scenario = json.dumps({"id": scenario.id, **asdict(scenario)}, sort_keys=True)
        return [
            replace(
                self.spec(parent, NextTaskRun(parent.id, branch, self.epochs or EPOCHS, of_task, of_scenario)),
                objective=parent.objective,
            )
            for branch in (0, epoch)
        ]
