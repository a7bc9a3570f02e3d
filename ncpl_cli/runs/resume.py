"""Where a cohort goes on: the newest point that all its runs can prove."""

from __future__ import annotations

from dataclasses import replace

from ncpl_cli import faults
from ncpl_cli.errors import DataError
from ncpl_cli.plan import Cohort, agreed
from ncpl_cli.runs import checkpoints
from ncpl_cli.runs.observer import Observer
from ncpl_cli.store import Store
from ncpl_cli.trainer import Start


def resume_point(cohort: Cohort, store: Store, observer: Observer, up_to: int | None = None) -> Start | None:
    """The newest epoch (up to one) that every run has a readable checkpoint of and rows up to."""
    root = store.checkpoints
    last = max(store.last_epoch(run) for run in cohort.ids)
    last = last if up_to is None else min(last, up_to)
    common = set.intersection(*({e for e in checkpoints.epochs(root, r) if e <= last} for r in cohort.ids))
    for epoch in sorted(common, reverse=True):
        try:
            read = [checkpoints.read(root, run, epoch) for run in cohort.ids]
            position = agreed("position", (replace(at, diverged=False, finished=False) for at, _ in read))
        except (DataError, ValueError) as error:
            observer.note(f"{error} Going on from an earlier one.")
            continue
        histories = [list(store.history(run, epoch)) for run in cohort.ids]
        diverged = frozenset(r for r, (position, _) in enumerate(read) if position.diverged)
        finished = frozenset(r for r, (position, _) in enumerate(read) if position.finished)
        return Start(position, [state for _, state in read], histories, diverged, finished)
    return None


def spoiled(cohort: Cohort, store: Store) -> list[str]:
    """Probes of a cohort that an earlier version began wrongly: membership stays as it was, the training does not."""
    branches = [getattr(spec.scenario, "branch_epoch", 0) for spec in cohort.specs]
    found = []
    for spec, branch in zip(cohort.specs, branches, strict=True):
        labels = [one.label for one in spec.interventions]
        if faults.wrongly_treated(labels, branches, branch, ["0"]):  # whether it could be
            versions = [str(tried["provenance"].get("ncpl", "0")) for tried in store.attempts(spec.id)]
            if faults.wrongly_treated(labels, branches, branch, versions, store.run(spec.id).recorded):
                found.append(spec.id)
    return found
