"""Scenarios: which samples, which order, which pixels, which labels. The tuple below is the registry.

A scenario is a frozen dataclass of its options with `id`, `presets(data set)` (its own defaults for options, network
and optimiser), `of(options)`, `tasks`, `task_epochs(index)`, `task(index, data, seed)`, `horizon_field` (the option
that says how far a run goes), `fixed_length`, `lockstep` and `kin` (which runs can advance together). Its `ncpl train`
sub-command and its sweep keys follow from its fields.
"""

from __future__ import annotations

from ncpl_cli.errors import unknown
from ncpl_cli.scenarios.permuted import PermutedDigits, PermutedMNIST
from ncpl_cli.scenarios.shuffled_labels import ShuffledLabels
from ncpl_cli.scenarios.task import Task
from ncpl_cli.scenarios.warm_start import WarmStart, WarmStartProbe

Scenario = PermutedMNIST | ShuffledLabels | WarmStart

SCENARIOS: tuple[type[Scenario], ...] = (PermutedMNIST, PermutedDigits, ShuffledLabels, WarmStart)


def scenario_named(name: str) -> type[Scenario]:
    """The scenario with this id; raises InputError that lists the known ones."""
    for scenario in SCENARIOS:
        if scenario.id == name:
            return scenario
    raise unknown("scenario", name, [scenario.id for scenario in SCENARIOS])


__all__ = ["SCENARIOS", "Scenario", "Task", "WarmStart", "WarmStartProbe", "scenario_named"]
