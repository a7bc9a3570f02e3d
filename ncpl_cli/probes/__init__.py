"""Probes: how well does a run's network still learn something new? PROBES is the registry, one file a kind.

A probe is a run of its own: a copy of the network after an epoch of its parent, with a new optimiser, trained on what
its kind says for a fixed budget. Beside it always the network as initialised (branch epoch 0) on the same data and in
the same order. `parse("labels:epochs=5")` reads what a command line writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ncpl_cli import parts
from ncpl_cli.errors import InputError
from ncpl_cli.probes.full_data import FullData, warm_start_results
from ncpl_cli.probes.labels import Labels
from ncpl_cli.probes.next_task import NextTask
from ncpl_cli.probes.offset import Offset
from ncpl_cli.probes.probe import Probe, ProbeRun, Reached, Results
from ncpl_cli.scenarios import WarmStartProbe
from ncpl_cli.spec import RunSpec

PROBES: dict[str, type[Probe]] = {one.id: one for one in (FullData, Labels, Offset, NextTask)}


def probe_runs() -> tuple[type[Any], ...]:
    """The scenarios that probes are runs of."""
    return (WarmStartProbe, *(kind.run for kind in PROBES.values()))


def parse(text: str) -> Probe:
    """One kind of probe from `KIND` or `KIND:KEY=VALUE,...`; raises InputError naming what is allowed."""
    return parts.read("probe", text, PROBES)


def parse_all(texts: Sequence[str], epochs: int | None = None) -> tuple[Probe, ...]:
    """Several kinds, each once, in the order they were written; `epochs`: the budget of those that name none."""
    found = tuple(parse(text).for_epochs(epochs) for text in texts)
    ids = [one.id for one in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"--probe {twice[0]} is given more than once.")
    return found


def merged(own: Sequence[Probe], more: Sequence[Probe]) -> tuple[Probe, ...]:
    """Kinds and further ones; of one that is in both, as it was first."""
    return (*own, *(one for one in more if one.id not in [kind.id for kind in own]))


def of(spec: RunSpec) -> tuple[Probe, ...]:
    """The kinds that a run takes: what its scenario comes with, then what was asked for."""
    own = tuple(parse(text) for text in getattr(spec.scenario, "comes_with", ()))
    return merged(own, spec.probes)


def branch_epochs(spec: RunSpec) -> list[int]:
    """After which of a run's epochs its probes branch off: 0, k, 2k, ..., or 0 and the last epoch of every task."""
    scenario = spec.scenario
    if not of(spec):
        return []
    if hasattr(scenario, "branch_epochs"):
        return list(scenario.branch_epochs)
    ends = [0]
    for index in range(scenario.tasks):
        ends.append(ends[-1] + scenario.task_epochs(index))
    return list(range(0, ends[-1] + 1, spec.probe_every)) if spec.probe_every else ends


def runs_of(parent: RunSpec) -> list[RunSpec]:
    """Every probe of a run, as runs of their own."""
    return [run for kind in of(parent) for epoch in branch_epochs(parent) for run in kind.runs(parent, epoch)]


def results(scenario: str, reached: Sequence[Reached]) -> Results:
    """What the probes of one kind (the id of their runs) put on their parent's rows, by its epochs."""
    if scenario == WarmStartProbe.id:
        return warm_start_results(reached)
    kinds = {kind.run.id: kind.run for kind in PROBES.values()}
    return kinds.get(scenario, ProbeRun).results(reached)  # of a kind whose file is not here: as most have it


__all__ = [
    "PROBES", "Probe", "ProbeRun", "Reached", "branch_epochs", "merged", "of", "parse", "parse_all", "probe_runs",
    "results", "runs_of",
]  # fmt: skip
