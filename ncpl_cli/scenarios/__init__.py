"""Scenarios: which samples, which order, which pixels, which labels. The tuple below is the registry.

A scenario is a frozen dataclass of its options with `id`, `preset` (its own defaults for data, network and
optimiser), `of(options)`, `task_epochs(index)`, `fixed_length` and `task(index, data, seed)`. Its `ncpl train`
sub-command and its sweep keys follow from its fields.
"""

from __future__ import annotations

from ncpl_cli.errors import unknown
from ncpl_cli.scenarios.permuted import PermutedDigits, PermutedMNIST
from ncpl_cli.scenarios.shuffled_labels import ShuffledLabels
from ncpl_cli.scenarios.task import Task

Scenario = PermutedMNIST | ShuffledLabels

SCENARIOS: tuple[type[Scenario], ...] = (PermutedMNIST, PermutedDigits, ShuffledLabels)


def scenario_named(name: str) -> type[Scenario]:
    """The scenario with this id; raises InputError that lists the known ones."""
    for scenario in SCENARIOS:
        if scenario.id == name:
            return scenario
    raise unknown("scenario", name, [scenario.id for scenario in SCENARIOS])


__all__ = ["SCENARIOS", "Scenario", "Task", "scenario_named"]
