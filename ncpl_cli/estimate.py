"""`--dry-run`: what would run, how long and how large, from a short measurement on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from ncpl_cli.data import Dataset
from ncpl_cli.metrics import measure
from ncpl_cli.metrics.snapshot import Snapshot
from ncpl_cli.plan import Cohort, choose_engine, plan
from ncpl_cli.probes import runs_of
from ncpl_cli.scenarios import shown_by
from ncpl_cli.spec import RunSpec
from ncpl_cli.trainer import begin, begun, build

TIMED_SECONDS = 0.2
"""Training is timed over one batch, and over four times as many until it has taken that long."""

BYTES_PER_EPOCH = 4_000
"""One epoch's rows of the default metrics in SQLite, indices included (measured on the demo's store)."""


Timings = dict[tuple[Any, ...], tuple[float, int]]
"""Seconds an epoch and parameters of the kinds of cohorts that were timed before."""


def dry_run(
    specs: Sequence[RunSpec], data: Dataset, device: str, *, probes: bool = True, here: bool = True,
    timings: Timings | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs, cohorts, engine, seconds (None where nobody can know) and bytes; trains a throwaway network only.

    timings  what was timed for other arms of a sweep: arms that differ in numbers alone are timed once
    here     whether the device is this machine's: another's is not asked for, and nothing is trained or timed
    at_most  whether the seconds are a bound, as for probes, which end when they fit
    """
    cohorts = plan(specs, device)
    timings = {} if timings is None else timings
    seconds, size = 0.0, 0
    known, at_most = here, False
    runs: list[dict[str, Any]] = []
    for number, cohort in enumerate(cohorts):
        scenario = cohort.specs[0].scenario
        epochs = sum(scenario.task_epochs(i) for i in range(scenario.tasks)) if scenario.fixed_length else None
        known = known and epochs is not None
        if number == 0:
            per_epoch, parameters = _timed(cohort, data, here, timings)
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
            per_epoch, _ = _timed(cohort, data, here, timings)
            per_epoch /= len(cohort.specs)
        at_most = at_most or not cohort.shared.scenario.fixed_length
        seconds += per_epoch * len(cohort.specs) * cohort.shared.scenario.task_epochs(0)
    kept = len(branches) * parameters * 4  # what probes branch off is kept
    engine, why = choose_engine(specs[0], device)
    return {
        "runs": runs,
        "probes": len(branches),
        "engine_why": f"engine {engine}: {why}.",
        "seconds": seconds / side_by_side if known else None,
        "seconds_one_by_one": seconds if known else None,
        "at_most": at_most,
        "bytes": size + kept,
    }


def _timed(cohort: Cohort, data: Dataset, here: bool, timings: Timings) -> tuple[float, int]:
    """Seconds an epoch and parameters of a cohort; one that differs from another in numbers alone takes as long."""
    spec = cohort.specs[0]
    kind = (
        spec.scenario.id, spec.dataset, spec.network, spec.optimizer.name, spec.optimizer.batch_size, spec.objective,
        tuple(intervention.id for intervention in spec.interventions), spec.precision, spec.measure, cohort.engine,
        cohort.device, len(cohort.specs), here,
    )  # fmt: skip
    if kind not in timings:
        timings[kind] = _seconds_per_epoch(cohort, data) if here else (0.0, _parameters(cohort, data))
    return timings[kind]


def _parameters(cohort: Cohort, data: Dataset) -> int:
    """How many parameters a run has, from a network in this machine's memory."""
    return sum(parameter.numel() for parameter in build(cohort.specs[0], data).parameters())


def _seconds_per_epoch(cohort: Cohort, data: Dataset) -> tuple[float, int]:
    """Seconds that one epoch of a cohort takes with measuring, and the number of parameters of a run."""
    spec = cohort.specs[0]
    networks, engine = begin(cohort, data)
    data = shown_by(spec.scenario, data)
    tasks = begun(cohort.specs, networks, data, cohort.device)
    whole = [task.order(1) for task in tasks]
    batch = spec.optimizer.batch_size
    engine.train_epoch(tasks, [order[:batch] for order in whole], spec.optimizer.lr)
    timed, training = batch // 4, 0.0
    while training < TIMED_SECONDS and timed < len(whole[0]):
        timed = min(max(4 * timed, batch), len(whole[0]))
        training = engine.train_epoch(tasks, [order[:timed] for order in whole], spec.optimizer.lr)[0].seconds
    measuring = 0.0
    for _ in range(2 if spec.measure.every < 1 << 40 else 0):  # the first look makes what later ones find ready
        began = time.perf_counter()
        measure(
            Snapshot(networks[0], data, tasks[0], None, cohort.device, spec.measure.samples), spec.measure.metrics,
            spec.measure.layers,
        )  # fmt: skip
        measuring = (time.perf_counter() - began) * len(cohort.specs) / spec.measure.every
    count = sum(parameter.numel() for parameter in networks[0].parameters())
    return training * len(whole[0]) / timed + measuring, count
