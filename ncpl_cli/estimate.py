"""`--dry-run`: what would run, how long and how large, from what the store knows or a short run on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ncpl_cli import __version__, timing
from ncpl_cli.data import Dataset
from ncpl_cli.errors import NcplError
from ncpl_cli.plan import Cohort, choose_engine, plan
from ncpl_cli.probes import runs_of
from ncpl_cli.provenance import numerics_of
from ncpl_cli.spec import MeasureSpec, RunSpec, flat

if TYPE_CHECKING:
    from ncpl_cli.store import RunRow, Store

BYTES_PER_EPOCH = 4_000
"""One epoch's rows of the default metrics in SQLite, indices included (measured on the demo's store)."""

WARM_EPOCHS, FEWEST_EPOCHS, FEW_RUNS = 2, 5, 5
"""Epochs of a run that load and compile; how many more it needs to speak for others; of so many runs, the latest."""

FREE = frozenset({"lr", "lr_schedule", "tasks", "epochs", "first_task_epochs", "first_task_nc1", "momentum", "beta1",
                  "beta2", "eps"})  # fmt: skip
"""Settings that change nothing in how long an epoch takes."""

Timings = dict[tuple[Any, ...], tuple[float, int]]
"""Seconds an epoch and parameters of the kinds of cohorts that were timed before."""

Known = Callable[[Cohort], float | None]
"""Seconds that an epoch of such a cohort took before, None where none is known."""


def dry_run(
    specs: Sequence[RunSpec], data: Dataset, device: str, *, probes: bool = True, here: bool = True,
    timings: Timings | None = None, known: Known | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs, cohorts, engine, seconds (None where nobody can know) and bytes; trains a throwaway network only.

    known    what epochs took before, as a store has it
    timings  what was timed for other arms of a sweep: arms that differ in numbers alone are timed once
    here     whether the device is this machine's: another's is not asked for, and nothing is trained or timed
    at_most  whether the seconds are a bound, as for probes, which end when they fit
    """
    cohorts = plan(specs, device)
    timings = {} if timings is None else timings
    seconds, size = 0.0, 0
    sure, at_most = here, False
    runs: list[dict[str, Any]] = []
    for number, cohort in enumerate(cohorts):
        scenario = cohort.specs[0].scenario
        epochs = sum(scenario.task_epochs(i) for i in range(scenario.tasks)) if scenario.fixed_length else None
        sure = sure and epochs is not None
        if number == 0:
            per_epoch, parameters = _timed(cohort, data, here, timings, known)
        seconds += per_epoch * (epochs or 0)
        size += len(cohort.specs) * ((epochs or 0) * BYTES_PER_EPOCH + parameters * 4)
        runs += [
            {"id": s.id, "seed": s.seed, "cohort": number, "engine": cohort.engine, "epochs": epochs}
            for s in cohort.specs
        ]
    side_by_side = min(len(cohorts), os.cpu_count() or 1) if cohorts and cohorts[0].engine == "online" else 1
    branches = [run for spec in specs if probes for run in runs_of(spec)]
    branches.sort(key=lambda spec: (spec.scenario.id, spec.scenario.branch_epoch))
    for number, cohort in enumerate(plan(branches, device)):
        if number == 0 and here:
            per_epoch, _ = _timed(cohort, data, here, timings, known)
            per_epoch /= len(cohort.specs)
        at_most = at_most or not cohort.shared.scenario.fixed_length
        seconds += per_epoch * len(cohort.specs) * cohort.shared.scenario.task_epochs(0)
    kept = len(branches) * parameters * 4  # what probes branch off is kept
    engine, why = choose_engine(specs[0], device)
    return {
        "runs": runs,
        "probes": len(branches),
        "engine_why": f"engine {engine}: {why}.",
        "seconds": seconds / side_by_side if sure else None,
        "seconds_one_by_one": seconds if sure else None,
        "at_most": at_most,
        "bytes": size + kept,
    }


def _timed(cohort: Cohort, data: Dataset, here: bool, timings: Timings, known: Known | None) -> tuple[float, int]:
    """Seconds an epoch and parameters of a cohort; one that differs from another in numbers alone takes as long."""
    spec = cohort.specs[0]
    kind = (
        spec.scenario.id, spec.dataset, spec.network, spec.optimizer.name, spec.optimizer.batch_size, spec.objective,
        tuple(intervention.id for intervention in spec.interventions), spec.precision, spec.measure, cohort.engine,
        cohort.device, len(cohort.specs), here,
    )  # fmt: skip
    if kind not in timings:
        timings[kind] = (_seconds_per_epoch(cohort, data, known) if here else 0.0), timing.parameters(spec, data)
    return timings[kind]


def _seconds_per_epoch(cohort: Cohort, data: Dataset, known: Known | None) -> float:
    """What an epoch of a cohort takes: as the store knows it, else as a short run shows."""
    try:
        found = known(cohort) if known else None
    except NcplError:  # whoever trains hears of a store that cannot be read
        found = None
    return timing.seconds_per_epoch(cohort, data) if found is None else found


def known_to(store: Store) -> Known:
    """What epochs took of runs in a store that this machine trained, by this version: their average."""
    by_scenario: dict[str, list[RunRow]] = {}

    def seconds(cohort: Cohort) -> float | None:
        spec = cohort.specs[0]
        if spec.scenario.id not in by_scenario:
            by_scenario[spec.scenario.id] = store.runs(scenario=spec.scenario.id)[::-1]
        alike = [row for row in by_scenario[spec.scenario.id] if _alike(row, spec, len(cohort.specs))]
        total, epochs, runs = 0.0, 0, 0
        for row in alike:
            number, mean = store.epoch_seconds(row.id, WARM_EPOCHS)
            if number >= FEWEST_EPOCHS and _here(store, row, cohort):
                total, epochs, runs = total + number * mean, epochs + number, runs + 1
            if runs == FEW_RUNS:
                break
        return total / epochs * len(cohort.specs) if epochs else None

    return seconds


def _alike(row: RunRow, spec: RunSpec, members: int) -> bool:
    """Whether an epoch of a stored run takes as long as one of a spec."""

    def kept(settings: dict[str, Any]) -> dict[str, Any]:
        found = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in settings.items() if key not in FREE
        }  # fmt: skip
        found["interventions"] = [str(label).partition(":")[0] for label in found.get("interventions", ())]
        return found | {"weight_decay": bool(found.get("weight_decay"))}

    def measured(asked: dict[str, Any]) -> list[Any]:
        values = [asked.get(f.name, f.default) for f in fields(MeasureSpec) if f.name != "plan"]
        return [list(value) if isinstance(value, tuple) else value for value in values]

    same = kept(row.settings) == kept(flat(spec)) and max(len(row.cohort), 1) == members
    return same and measured(row.recorded) == measured(vars(spec.measure))


def _here(store: Store, row: RunRow, cohort: Cohort) -> bool:
    """Whether the latest attempt at a run was this machine's, with the same engine."""
    facts = store.attempts(row.id)[-1]["provenance"]
    wanted = {"host": platform.node(), "ncpl": __version__, "device": cohort.device, "engine": cohort.engine,
              "cores": os.cpu_count(), "numerics": numerics_of(cohort.engine)}  # fmt: skip
    return all(facts.get(key) == value for key, value in wanted.items())
