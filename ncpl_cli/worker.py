"""A worker of a sweep: take a unit, train it as `ncpl train` would, take the next, until nothing is left.

take -> rebuild the specs from the store -> train -> (probes: put the results on the parent's rows) -> take ...
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from ncpl_cli import data as data_room
from ncpl_cli import device as device_of
from ncpl_cli import runs, settings
from ncpl_cli.data import Dataset
from ncpl_cli.engines import ENGINES
from ncpl_cli.errors import DataError, InputError, LeaseLost, NcplError, Stopped
from ncpl_cli.plan import Cohort
from ncpl_cli.provenance import provenance
from ncpl_cli.runs import Observer, Stopper, checkpoints
from ncpl_cli.spec import DatasetSpec
from ncpl_cli.store import Owner, Queue, Store, Unit

IDLE_SECONDS = 1.0
"""How often a worker looks again while others are at the rest, which they may lose."""


def work(name: str, store: Store, *, observer: Observer, data_dir: Path | None = None) -> int:
    """Train units of a sweep until none is left; how many were trained to their end.

    Raises Stopped after a signal, DataError when this machine lacks the data: others may have it.
    """
    queue = Queue(store)
    wanted = queue.settings(name)
    store.lease = float(wanted["lease"])
    device = device_of.resolve(wanted["device"])
    torch.set_num_threads(int(wanted["threads"]))
    if device == "cpu":
        device_of.keep_memory()
    owner = Owner.current()
    facts = {engine: provenance(device, engine) for engine in ENGINES}
    loaded: dict[DatasetSpec, Dataset] = {}
    ended = 0
    with Stopper() as stopper, _watch(queue, name, stopper) as cancelled:
        while not stopper.signal:
            unit = queue.take(name, owner, facts)
            if unit is None:
                if not queue.is_open(name):
                    break
                stopper.wait(IDLE_SECONDS)
                continue
            try:
                ended += _train(name, unit, queue, observer, stopper, device, wanted["keep"], loaded, data_dir)
            except LeaseLost as error:  # it went on elsewhere while this process stood still: so does this one
                observer.note(str(error))
            except Stopped:
                break
        if cancelled.is_set():
            observer.note(f"sweep {name} was cancelled; what was being trained is kept.")
            return ended
        if stopper.signal:
            raise stopper.stopped()
        for parent in queue.unharvested(name):
            runs.harvest(parent, store)
    return ended


def _train(
    name: str, unit: Unit, queue: Queue, observer: Observer, stopper: Stopper, device: str, keep: str | None,
    loaded: dict[DatasetSpec, Dataset], data_dir: Path | None,
) -> int:  # fmt: skip
    """Train one unit; 1 when it has come to its end, 0 when it failed."""
    store = queue.store
    rows = [store.run(run) for run in unit.attempts]
    try:
        wanted = settings.dataset_of(rows[0])
        if wanted not in loaded:
            loaded[wanted] = data_room.load(wanted, data_dir)
        specs = tuple(settings.from_row(row, loaded[wanted]) for row in rows)
    except NcplError as error:
        if isinstance(error, InputError):  # the run's own fault
            queue.fail(name, unit, str(error), final=True)
            for run, attempt in unit.attempts.items():
                store.finish(run, attempt, "failed", str(error))
            return 0
        _put_back(name, unit, queue)
        raise
    if unit.tries > 1:
        observer.note(f"{', '.join(unit.attempts)}: attempt {unit.tries} in a row that begins at the same point.")
    try:
        statuses, fault = runs.train_claimed(
            Cohort(specs, unit.engine, device), unit.attempts, store, loaded[wanted], observer=observer,
            stopper=stopper, keep=keep,
        )  # fmt: skip
    except Stopped:
        queue.put_back(name, unit)
        raise
    if fault is not None:
        queue.fail(name, unit, runs.said(fault), final=isinstance(fault, InputError | DataError))
        observer.note(f"{', '.join(unit.attempts)}: {runs.said(fault)}")
    if rows[0].parent is not None:
        _end_of_probes(rows[0].parent, store, keep)
    return int("failed" not in statuses.values())


def _put_back(name: str, unit: Unit, queue: Queue) -> None:
    for run, attempt in unit.attempts.items():
        with contextlib.suppress(LeaseLost):
            queue.store.release(run, attempt)
    queue.put_back(name, unit)


def _end_of_probes(parent: str, store: Store, keep: str | None) -> None:
    """Once all probes of a run have ended, put what they reached on its rows: whoever is last knows them all."""
    if any(row.status not in ("finished", "diverged", "failed") for row in store.runs(parent=parent)):
        return
    runs.harvest(parent, store)
    if keep == "last":  # until here the probes needed them
        checkpoints.keep_newest(store.checkpoints, parent)


@contextlib.contextmanager
def _watch(queue: Queue, name: str, stopper: Stopper) -> Iterator[threading.Event]:
    """Have the worker stop when its sweep is cancelled."""
    over, cancelled = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(min(5.0, queue.store.lease / 3)):
            with contextlib.suppress(NcplError):
                if queue.is_cancelled(name) and not stopper.signal:
                    cancelled.set()
                    stopper.stop()

    thread = threading.Thread(target=look, name="ncpl-cancelled", daemon=True)
    thread.start()
    try:
        yield cancelled
    finally:
        over.set()
        thread.join()
