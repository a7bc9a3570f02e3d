"""What branches off a run: its probes, where they begin, and what of them stands on its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ncpl_cli import probes
from ncpl_cli.records import Address
from ncpl_cli.runs import checkpoints
from ncpl_cli.scenarios import WarmStartProbe
from ncpl_cli.spec import RunSpec
from ncpl_cli.store import RunRow, Store


class Branch(NamedTuple):
    """Where a probe branches off; epoch 0 = the network as initialised."""

    parent: str
    epoch: int


def branch_of(spec: RunSpec) -> Branch | None:
    """Where a run branches off another; None for one that begins by itself."""
    parent = getattr(spec.scenario, "parent", None)
    return Branch(parent, spec.scenario.branch_epoch) if parent is not None else None


def epochs_of(specs: Iterable[RunSpec]) -> set[int]:
    """The epochs after which probes branch off any of these runs; empty where none do."""
    return {epoch for spec in specs for epoch in probes.branch_epochs(spec)}


def probe_specs(parents: Sequence[RunSpec], store: Store) -> tuple[list[RunSpec], list[str]]:
    """The probes of known runs; and, in words, those that cannot be run since their checkpoints are gone."""
    specs: dict[str, RunSpec] = {}
    lost = []
    for parent in parents:
        row = store.run(parent.id)
        there = set(checkpoints.epochs(store.checkpoints, parent.id)) | {0}
        known = {probe.id for probe in store.runs(parent=parent.id, status="finished")}
        horizon = {key: int(value) for key, value in row.horizon.items()}
        for probe in probes.runs_of(replace(parent, scenario=replace(parent.scenario, **horizon))):
            branch = probe.scenario.branch_epoch
            if branch in there or probe.id in known or row.status != "finished":
                specs[probe.id] = probe
            else:
                lost.append(f"{parent.id} after epoch {branch}")
    return list(specs.values()), list(dict.fromkeys(lost))


def harvest(parent: str, store: Store) -> None:
    """Put what its ended probes reached on a run's own rows.

    The first kind (a scenario's own, else the first that was asked for) stands under the plain names (`probe_gap`),
    each further one under its own split (`probe_gap@labels`).
    """
    asked = [f"{text.partition(':')[0]}-probe" for text in store.run(parent).recorded.get("probes", ())]
    by_kind: dict[str, list[RunRow]] = {scenario: [] for scenario in (WarmStartProbe.id, *asked)}
    made = set()
    for row in store.runs(parent=parent):
        made.add(row.scenario)
        by_kind.setdefault(row.scenario, [])
        if row.status in ("finished", "diverged") and row.branch_epoch is not None:
            by_kind[row.scenario].append(row)
    for number, (scenario, rows) in enumerate((kind, of) for kind, of in by_kind.items() if kind in made):
        reached = [
            probes.Reached(row.branch_epoch or 0, row.settings, _rows(row.id, store), row.status == "diverged")
            for row in rows
        ]
        values, undefined = probes.results(scenario, reached)
        place = f"@{scenario.removesuffix('-probe')}" if number else ""
        store.annotate(
            parent,
            {epoch: {name + place: value for name, value in of.items()} for epoch, of in values.items()},
            {epoch: {name + place: why for name, why in of.items()} for epoch, of in undefined.items()},
        )


def _rows(run: str, store: Store) -> list[dict[str, Any]]:
    """The epochs of a probe; the last of one that learned numbers with what the wide table has no column for."""
    rows = store.rows(run)
    if rows and rows[-1]["train_accuracy"] is None:
        rows[-1] |= {a.metric: v for a, v in store.values(run, rows[-1]["epoch"]).items() if a == UNEXPLAINED}
    return rows


UNEXPLAINED = Address("unexplained_variance")
