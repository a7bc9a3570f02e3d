"""Scenarios: which samples, which order, which pixels, which labels. The list below is the registry.

A scenario is a frozen dataclass of its options with `id`, `presets(data set)` (its own defaults for options, network
and optimiser), `of(options)`, `tasks`, `task_epochs(index)`, `task(index, data, seed)`, `horizon_field` (the option
that says how far a run goes), `fixed_length`, `lockstep` (whether runs can advance together) and `lockstep_key` (what
those have in common). Its `ncpl train` sub-command and its sweep keys follow from its fields.

What it need not have: `objective` (default cross-entropy), `objectives` (ids that `--objective` may choose; default
those of labels), `outputs(data)` (classes or numbers that its tasks ask for; default the data set's classes),
`measures` (families of metrics that `default` holds there whatever they cost), `shown(data)` (the data set with all
images that its tasks show), `carried_by` (the engines that can train it; default all), `check_objective(objective)`,
`own_interventions` (what happens at its changes, whatever is asked for) and `fitted(data)` (itself with what depends on
the data).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ncpl_cli import plugins
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.errors import unknown
from ncpl_cli.objectives import CROSS_ENTROPY, Objective, Within
from ncpl_cli.scenarios.coarse_labels import CoarseLabels
from ncpl_cli.scenarios.domains import Domains
from ncpl_cli.scenarios.incremental import ClassIncremental, TaskIncremental
from ncpl_cli.scenarios.permuted import PermutedDigits, PermutedMNIST
from ncpl_cli.scenarios.shuffled_labels import ShuffledLabels
from ncpl_cli.scenarios.source_classes import SourceClasses
from ncpl_cli.scenarios.target_scale import TargetScale
from ncpl_cli.scenarios.task import Task, for_steps
from ncpl_cli.scenarios.value_iteration import ValueIteration
from ncpl_cli.scenarios.warm_start import WarmStart, WarmStartProbe

Scenario = (
    PermutedMNIST
    | ShuffledLabels
    | WarmStart
    | SourceClasses
    | CoarseLabels
    | TargetScale
    | ValueIteration
    | Domains
    | ClassIncremental
)

SCENARIOS: list[type[Scenario]] = [
    PermutedMNIST,
    PermutedDigits,
    ShuffledLabels,
    WarmStart,
    SourceClasses,
    CoarseLabels,
    TargetScale,
    ValueIteration,
    Domains,
    ClassIncremental,
    TaskIncremental,
]


def scenario_named(name: str) -> type[Scenario]:
    """The scenario with this id; raises InputError that lists the known ones."""
    for scenario in SCENARIOS:
        if scenario.id == name:
            return scenario
    raise unknown("scenario", name, [scenario.id for scenario in SCENARIOS])


def objective_of(scenario: Any) -> Objective:
    """What a scenario asks unless a run says otherwise."""
    found: Objective = getattr(scenario, "objective", CROSS_ENTROPY)
    return found


def objectives_of(scenario: Any) -> tuple[str, ...]:
    """The ids of what a run of the scenario may ask instead."""
    found: tuple[str, ...] = getattr(scenario, "objectives", ("cross_entropy", "mse"))
    asks = "of_labels" if "cross_entropy" in found else "of_numbers"
    own = [name for name in plugins.names("OBJECTIVES") if getattr(plugins.part("OBJECTIVES", name), asks)]
    return (*found, *own)


def task_of(spec: Any, index: int, data: Dataset) -> Task:
    """Task `index` of a run (spec.RunSpec), with the run's objective."""
    task: Task = spec.scenario.task(index, data, spec.seed)
    if task.steps is not None:
        task = replace(task, order=for_steps(task.order, task.steps * spec.optimizer.batch_size))
    asks = spec.objective or task.objective
    if task.among is not None:
        asks = Within(asks, *task.among)
    return task if asks == task.objective else replace(task, objective=asks)


def shown_by(scenario: Any, data: Dataset) -> Dataset:
    """The data set as a scenario shows it: where its tasks differ in images, with those of all of them."""
    return scenario.shown(data) if hasattr(scenario, "shown") else data


def outputs_of(spec: Any, data: Dataset) -> int:
    """How many outputs the network of a run (spec.RunSpec) needs."""
    asked = spec.scenario.outputs(data) if hasattr(spec.scenario, "outputs") else data.classes
    return (spec.objective or objective_of(spec.scenario)).outputs(asked)


__all__ = [
    "SCENARIOS", "Scenario", "Task", "WarmStart", "WarmStartProbe", "objective_of", "objectives_of", "outputs_of",
    "scenario_named", "shown_by", "task_of",
]  # fmt: skip
