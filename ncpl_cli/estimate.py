"""`--dry-run`: what would run, how long and how large, from a short measurement on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from ncpl_cli.data import Dataset
from ncpl_cli.engines import ENGINES
from ncpl_cli.metrics import measure
from ncpl_cli.metrics.snapshot import Snapshot
from ncpl_cli.plan import choose_engine, plan
from ncpl_cli.spec import RunSpec
from ncpl_cli.trainer import build

TIMED_SAMPLES = 2000
BYTES_PER_EPOCH = 4_000
"""One epoch's rows of the default metrics in SQLite, indices included (measured on the demo's store)."""


def dry_run(specs: Sequence[RunSpec], data: Dataset, device: str) -> dict[str, Any]:
    """Runs, cohorts, engine, seconds (None where nobody can know) and bytes; trains a throwaway network only."""
    cohorts = plan(specs, device)
    seconds = 0.0
    known = True
    runs: list[dict[str, Any]] = []
    parameters = 0
    for number, cohort in enumerate(cohorts):
        scenario = cohort.specs[0].scenario
        epochs = sum(scenario.task_epochs(i) for i in range(scenario.tasks)) if scenario.fixed_length else None
        known = known and epochs is not None
        if number == 0:
            per_epoch, parameters = _seconds_per_epoch(cohort.specs, data, cohort.engine, device)
        seconds += per_epoch * (epochs or 0)
        runs += [
            {"id": s.id, "seed": s.seed, "cohort": number, "engine": cohort.engine, "epochs": epochs}
            for s in cohort.specs
        ]
    side_by_side = min(len(cohorts), os.cpu_count() or 1) if cohorts and cohorts[0].engine == "online" else 1
    total_epochs = sum(int(run["epochs"] or 0) for run in runs)
    engine, why = choose_engine(specs[0], device)
    return {
        "runs": runs,
        "engine_why": f"engine {engine}: {why}.",
        "seconds": seconds / side_by_side if known else None,
        "seconds_one_by_one": seconds if known else None,
        "bytes": total_epochs * BYTES_PER_EPOCH + len(runs) * parameters * 4,
    }


def _seconds_per_epoch(specs: Sequence[RunSpec], data: Dataset, engine: str, device: str) -> tuple[float, int]:
    """Seconds that one epoch of a cohort takes with measuring, and the number of parameters of a run."""
    networks = [build(spec, data).to(device) for spec in specs]
    machine = ENGINES[engine](networks, data, specs[0].optimizer, device)
    tasks = [spec.scenario.task(0, data, spec.seed) for spec in specs]
    orders = [task.order(1)[:TIMED_SAMPLES] for task in tasks]
    machine.train_epoch(tasks, [order[: specs[0].optimizer.batch_size] for order in orders], specs[0].optimizer.lr)
    training = machine.train_epoch(tasks, orders, specs[0].optimizer.lr)[0].seconds
    began = time.perf_counter()
    measure(
        Snapshot(networks[0], data, tasks[0], None, device, None), specs[0].measure.metrics, specs[0].measure.layers
    )
    measuring = (time.perf_counter() - began) * len(specs)
    count = sum(parameter.numel() for parameter in networks[0].parameters())
    return training * len(data.train) / len(orders[0]) + measuring / specs[0].measure.every, count
