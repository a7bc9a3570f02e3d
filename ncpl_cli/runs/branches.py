"""What branches off a run: its probes, where they begin, and what of them stands on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ncpl_cli.runs import checkpoints
from ncpl_cli.scenarios import WarmStart
from ncpl_cli.spec import RunSpec
from ncpl_cli.store import Store


def probe_specs(parents: Sequence[RunSpec], store: Store) -> tuple[list[RunSpec], list[str]]:
    """The probes of known warm starts; and, in words, those that cannot be run since their checkpoints are gone."""
    specs, lost = [], []
    for parent in parents:
        row = store.run(parent.id)
        held = set(checkpoints.epochs(store.checkpoints, parent.id)) | {0}
        held |= {int(probe.branch_epoch or 0) for probe in store.runs(parent=parent.id, status="finished")}
        scenario = replace(parent.scenario, warm_up_epochs=int(row.horizon["warm_up_epochs"]))
        for epoch in scenario.branch_epochs:
            if epoch in held or row.status != "finished":
                measure = replace(parent.measure, every=1 << 40)  # once it fits
                specs.append(replace(parent, scenario=scenario.probe(parent.id, epoch), measure=measure))
            else:
                lost.append(f"{parent.id} after epoch {epoch}")
    return specs, lost


def harvest(parent: str, store: Store) -> None:
    """Put what its finished probes reached on a run's own rows: probe_*, and warm_start_gap against the cold start."""
    reached: dict[int, tuple[float | None, float]] = {}
    values: dict[int, dict[str, float]] = {}
    undefined: dict[int, dict[str, str]] = {}
    for row in store.runs(parent=parent):
        if row.status not in ("finished", "diverged") or row.branch_epoch is None:
            continue
        last = store.final(row.id)
        if row.status == "diverged":
            undefined[row.branch_epoch] = dict.fromkeys(PROBE_METRICS, "the probe diverged")
            continue
        capped = float(not (last["online_accuracy"] or 0) > row.settings["accuracy"])
        reached[row.branch_epoch] = last["test_accuracy"], capped
        values[row.branch_epoch] = {"probe_epochs_to_fit": float(last["epoch"]), "probe_cap_hit": capped}
        if last["test_accuracy"] is not None:
            values[row.branch_epoch]["probe_test_accuracy"] = last["test_accuracy"]
    cold = reached.get(0)
    for epoch, (accuracy, capped) in reached.items():
        why = None
        if epoch == 0:
            why = "it is the cold start"
        elif cold is None:
            why = "the cold start is not known"
        elif capped or cold[1]:
            why = "cap"
        if why is None and cold is not None and None not in (cold[0], accuracy):
            values[epoch]["warm_start_gap"] = float(cold[0] or 0) - float(accuracy or 0)
        else:
            undefined.setdefault(epoch, {})["warm_start_gap"] = why or "test accuracy was not measured"
    store.annotate(parent, values, undefined)


PROBE_METRICS = ("probe_test_accuracy", "probe_epochs_to_fit", "probe_cap_hit", "warm_start_gap")


def epochs_of(specs: Sequence[RunSpec]) -> list[int]:
    """The epochs after which probes branch off runs of one cohort; empty where none do."""
    scenario = specs[0].scenario
    return scenario.branch_epochs if isinstance(scenario, WarmStart) else []


class Branch(NamedTuple):
    """Where a probe branches off; epoch 0 = the network as initialised."""

    parent: str
    epoch: int


def branch_of(spec: RunSpec) -> Branch | None:
    """Where a run branches off another; None for one that begins by itself."""
    parent = getattr(spec.scenario, "parent", None)
    return Branch(parent, spec.scenario.branch_epoch) if parent is not None else None
