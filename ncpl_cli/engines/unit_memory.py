"""What interventions remember of single units from step to step, of every run of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ncpl_cli.interventions import Intervention
from ncpl_cli.interventions.recycling import ContinualBackprop


class UnitMemory:
    """Of each intervention that looks at every step: its state by name, each (R, ...) with a row a run."""

    def __init__(self, network: Any, runs: int, interventions: Sequence[Intervention]) -> None:
        busy = [one for one in interventions if not one.idle]
        self.of = {one.id: one.begin(network, runs) for one in busy if isinstance(one, ContinualBackprop)}
        self._counts: dict[str, dict[str, Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self.of)

    def live(self, run: int) -> dict[str, Tensor]:
        """What is remembered of a run's units, as `name.layer`: views, to be changed in place."""
        return {name: value[run] for own in self.of.values() for name, value in own.items()}

    def counts(self, one: ContinualBackprop) -> dict[str, Tensor]:
        """Of an intervention's state what it decides by, on the CPU, where nobody waits for it: fetched once and from
        then on counted along. Of a state that lies there these very tensors."""
        if one.id not in self._counts:
            self._counts[one.id] = {name: self.of[one.id][name].cpu() for name in one.counted(self.of[one.id])}
        return self._counts[one.id]

    def recount(self) -> None:
        """Somebody else has changed what is remembered."""
        self._counts.clear()

    def state(self, run: int) -> dict[str, Tensor]:
        """The same as a checkpoint holds it."""
        return {f"treated.{one}.{name}": value[run] for one, own in self.of.items() for name, value in own.items()}

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` gave, of all runs; what is not there begins anew."""
        self.recount()
        for one, own in self.of.items():
            for name, value in own.items():
                for run, saved in enumerate(states):
                    if (key := f"treated.{one}.{name}") in saved:
                        value[run] = saved[key]
