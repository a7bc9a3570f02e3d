"""Trained again to the same bits: for what a finished run was not measured for, or for a state that is gone."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import torch

from ncpl_cli import settings
from ncpl_cli.data import Dataset
from ncpl_cli.errors import DataError, NcplError
from ncpl_cli.plan import Cohort, choose_engine
from ncpl_cli.provenance import provenance
from ncpl_cli.runs import branches, checkpoints, numerics
from ncpl_cli.runs.observer import Observer
from ncpl_cli.runs.resume import resume_point
from ncpl_cli.signals import Stopper
from ncpl_cli.spec import MeasureSpec
from ncpl_cli.store import Owner, Store, heartbeat, not_repeated
from ncpl_cli.trainer import State, part, train


def replay(cohort: Cohort, store: Store, data: Dataset, device: str, observer: Observer) -> None:
    """Train a finished cohort again from its beginning, to the same bits, and add what its epochs lack."""
    for run in cohort.ids:
        numerics.require_same(store, run, cohort.engine)
    torch.set_num_threads(1 if cohort.engine == "online" else os.cpu_count() or 1)
    attempts = store.claim(cohort.ids, Owner.current(), provenance(device, cohort.engine), cohort=cohort.ids)
    claimed = dict(attempts)
    observer.expect(len(cohort.ids))
    with Stopper() as stopper, heartbeat(store, claimed):
        try:
            for spec in cohort.specs:
                observer.begin(spec.id, spec.seed, 0, store.last_epoch(spec.id), True)
            for epoch in train(cohort, data):
                for run, record in zip(cohort.ids, epoch.records, strict=True):
                    if record is not None:
                        store.supplement(run, attempts[run], record)
                        observer.epoch(run, record)
                if stopper.signal:
                    raise stopper.stopped()
            for spec in cohort.specs:
                before = store.run(spec.id).recorded
                metrics = sorted({*before["metrics"], *spec.measure.metrics})
                layers = "all" if "all" in (before["layers"], spec.measure.layers) else "last"
                now = before | {"metrics": metrics, "layers": layers}
                if before.get("at"):
                    now["at"] = sorted({*before["at"], *spec.measure.at})
                store.remember(spec.id, attempts[spec.id], now)
        finally:
            for run in cohort.ids:  # it was finished before, and still is
                with contextlib.suppress(NcplError):
                    store.finish(run, attempts[run], "finished")


def kept_epochs(store: Store, run: str) -> list[int]:
    """The epochs that a run has a checkpoint of, in order."""
    return checkpoints.epochs(store.checkpoints, run)


def state_after(store: Store, run: str, epoch: int, data: Dataset, device: str, observer: Observer) -> State:
    """Parameters and buffers of a stored run after an epoch.

    From its checkpoint, else by training its cohort again from the nearest one before; raises StoreError when the
    epoch's online accuracy is then not what is stored.
    """
    why = f"has no checkpoint after epoch {epoch}"
    if epoch in kept_epochs(store, run):
        try:
            return part(checkpoints.read(store.checkpoints, run, epoch)[1], "network.")
        except DataError as error:
            observer.note(str(error))
            why = f"has no checkpoint after epoch {epoch} that can be used"
    cohort = cohort_of(store, run, data, device)
    numerics.require_same(store, run, cohort.engine)
    start = resume_point(cohort, store, observer, epoch)
    before = start.position.epoch if start else 0
    observer.note(f"{run} {why}: trained again from epoch {before}.")
    r = cohort.ids.index(run)
    weights = weights_of(cohort, store, data, observer) if start is None else None
    for now in train(cohort, data, start, weights):
        record = now.records[r]
        if now.position.epoch < epoch or record is None:
            continue
        stored = next(row["online_accuracy"] for row in store.rows(run) if row["epoch"] == epoch)
        if record.get("online_accuracy") != stored:
            raise not_repeated(run, epoch)
        return part(now.state()[r], "network.")
    raise DataError(f"run {run} ends before epoch {epoch} when it is trained again.")


def cohort_of(store: Store, run: str, data: Dataset, device: str) -> Cohort:
    """The runs it was trained in lockstep with, which bits may depend on; measured for what the scenario needs."""
    members = [settings.from_row(store.run(member), data) for member in store.run(run).cohort or [run]]
    least = MeasureSpec(metrics=("nc1",), every=1 << 40, task_accuracy="current")
    engine, _ = choose_engine(members[0], device)
    return Cohort(tuple(replace(one, measure=least) for one in members), engine, device)


def weights_of(cohort: Cohort, store: Store, data: Dataset, observer: Observer) -> list[State] | None:
    """What probes begin with: parameters and buffers of their parents where they branch off; None for other runs.

    A cold start begins with its initialisation: nothing is put in its place.
    """
    branching = [branches.branch_of(spec) for spec in cohort.specs]
    if not any(branching):
        return None
    return [
        state_after(store, branch.parent, branch.epoch, data, cohort.device, observer)
        if branch and branch.epoch
        else {}
        for branch in branching
    ]
