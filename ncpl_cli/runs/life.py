"""The life of runs. It reads from top to bottom.

    specs -> register -> plan cohorts -> claim -> train (least advanced cohort first) -> save -> checkpoint -> finish

One thread stores all, in the order in which it comes; on a GPU the next epoch trains meanwhile. Every epoch is one
transaction, of short ones several are. A checkpoint follows a durable commit, at most about once a second; after a kill
the rows behind the last checkpoint are taken back and trained again, to the same bits.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import torch

from ncpl_cli import callables
from ncpl_cli.data import Dataset
from ncpl_cli.device import keep_memory
from ncpl_cli.errors import LeaseLost, NcplError, Stopped, StoreError
from ncpl_cli.metrics.catalogue import chosen
from ncpl_cli.metrics.expensive import what_it_takes
from ncpl_cli.plan import AT_ONCE, Cohort, choose_engine, plan
from ncpl_cli.provenance import provenance
from ncpl_cli.runs import branches, checkpoints, numerics
from ncpl_cli.runs.active import Active
from ncpl_cli.runs.batch import Batch
from ncpl_cli.runs.describe import describe, lacking
from ncpl_cli.runs.observer import Observer
from ncpl_cli.runs.replay import replay
from ncpl_cli.scenarios import outputs_of
from ncpl_cli.signals import Stopper
from ncpl_cli.spec import RunSpec, otherwise, otherwise_said
from ncpl_cli.store import Owner, RunRow, Store, heartbeat
from ncpl_cli.trainer import Epoch, build
from ncpl_cli.values import count

AHEAD = ("cuda",)
"""Devices on which the next epoch trains while the last is stored. On a CPU nothing is gained: the cores that store are
those that train (digits 3 % slower by it, MNIST and a ResNet of width 8 within the noise)."""


@dataclass(frozen=True)
class How:
    """How runs are brought to their horizon; none of it changes a run.

    name       a label for them
    jobs       threads; default the number of cores
    keep       --keep-checkpoints
    resume     go on where an identical run stopped, or begin anew
    skip_held  leave runs that another process is at to it, instead of refusing
    quietly    say nothing of what is finished already
    """

    device: str = "cpu"
    name: str | None = None
    jobs: int | None = None
    keep: str | None = None
    resume: bool = True
    skip_held: bool = False
    quietly: bool = False

    @property
    def threads(self) -> int:
        """How many threads there are for all of it."""
        return max(1, self.jobs or os.cpu_count() or 1)


def run(
    specs: Sequence[RunSpec], store: Store, data: Dataset, *, device: str, observer: Observer, name: str | None = None,
    jobs: int | None = None, keep: str | None = None, resume: bool = True, probes: bool = True,
) -> dict[str, str]:  # fmt: skip
    """Bring every run to its horizon, and the probes that branch off it; what is finished is not repeated.

    Returns the status of each run by id, probes among them. Raises Stopped after SIGINT, SIGTERM or SIGUSR1, once
    everything up to the last epoch is saved.
    """
    checkpoints.keeper(keep or "last")
    then = sum(len(branches.epochs_of([spec])) for spec in specs) if probes else 0
    if then and (follow := getattr(observer, "follow", None)):
        follow(then)
    statuses = _bring(specs, store, data, observer, How(device, name, jobs, keep, resume))
    branching = [spec for spec in specs if branches.epochs_of([spec]) and statuses[spec.id] == "finished"]
    if branching and probes:
        statuses |= probe(branching, store, data, device=device, observer=observer, name=name, jobs=jobs)
        if keep == "last":  # until here the probes needed them
            for spec in branching:
                checkpoints.keep_newest(store.checkpoints, spec.id)
    return statuses


def probe(
    parents: Sequence[RunSpec], store: Store, data: Dataset, *, device: str, observer: Observer,
    name: str | None = None, jobs: int | None = None, skip_held: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Run the probes that finished runs lack, from their checkpoints, and put the results on the parents' rows.

    skip_held  leave probes that another process is at to it, instead of refusing
    Returns the status of each probe by id.
    """
    specs, lost = branches.probe_specs(parents, store)
    if lost:
        observer.note(
            f"{count(len(lost), 'probe')} cannot run, their checkpoints are gone: {', '.join(lost[:3])}"
            f"{' ...' if len(lost) > 3 else ''}. Train those runs again with --no-resume."
        )
    for parent in parents:
        branches.harvest(parent.id, store)
    # probes of one epoch need about as long as each other: they keep step
    specs.sort(key=lambda spec: (spec.scenario.id, spec.scenario.branch_epoch))
    how = How(device, name, jobs, "last", skip_held=skip_held, quietly=True)
    try:
        return _bring(specs, store, data, observer, how)
    finally:
        for parent in parents:
            branches.harvest(parent.id, store)


def train_claimed(
    cohort: Cohort, attempts: Mapping[str, int], store: Store, data: Dataset, *, observer: Observer, stopper: Stopper,
    keep: str | None = None,
) -> tuple[dict[str, str], Exception | None]:  # fmt: skip
    """Train a cohort that is claimed already to its end; the status of each run by id, and what made it fail if it did.

    Raises LeaseLost when another has taken it over, Stopped after a signal, StoreError when nothing can be stored.
    """
    with _session(store, observer, stopper) as session:
        session.claimed |= attempts
        try:
            one = Active.start(cohort, attempts, store, data, observer, session.batch, keep=keep)
            session.drive([one], 1)
        except (LeaseLost, StoreError, Stopped):
            raise
        except Exception as error:
            session.fail(dict(session.claimed), error)
            return session.statuses, error
        return session.statuses, one.fault


def said(error: Exception) -> str:
    """An error as the store keeps it."""
    return str(error) if isinstance(error, NcplError) else callables.said(error)


def _bring(
    specs: Sequence[RunSpec], store: Store, data: Dataset, observer: Observer, how: How
) -> dict[str, str]:  # fmt: skip
    """Bring runs of one kind to their horizon; the status of each by id."""
    if how.resume:
        numerics.require_all_same(specs, store, how.device)
    todo: list[RunSpec] = []
    again: list[RunSpec] = []
    statuses: dict[str, str] = {}
    for given in specs:
        known = store.register(describe(given), how.name)
        spec = _at_its_horizon(given, known, observer, how)
        if not (known.status in ("finished", "diverged") and how.resume):
            todo.append(spec)
            continue
        statuses[spec.id] = known.status
        if how.quietly:
            continue
        if known.status == "finished" and (missing := lacking(known.recorded, spec)):
            again.append(spec)
            observer.note(f"{spec.id} (seed {spec.seed}) is finished; its epochs are replayed for {missing}.")
        else:
            observer.note(f"{spec.id} (seed {spec.seed}) is {known.status} already: nothing to train.")
    for cohort in plan(again, how.device, _begun(again, store)):
        replay(cohort, store, data, how.device, observer)
    cohorts = plan(todo, how.device, _begun(todo, store))
    if not cohorts:
        return statuses
    observer.expect(len(todo))
    if not how.quietly:
        _say_how(cohorts, data, how.device, observer)
    return statuses | _train(cohorts, store, data, observer, how)


def _at_its_horizon(given: RunSpec, known: RunRow, observer: Observer, how: How) -> RunSpec:
    """The spec with the longer of the horizons that were asked for; what else differs from the stored run is said."""
    key = given.scenario.horizon_field
    asked, horizon = getattr(given.scenario, key), int(known.horizon[key])
    if horizon > asked:
        observer.note(f"{given.id} was begun with {horizon} {key.replace('_', ' ')} and goes by them.")
    if known.attempt and not how.quietly and (other := otherwise(given, known.settings, known.recorded)):
        observer.note(
            f"{given.id} (seed {given.seed}) is in the store already, with another setting that is no part of its "
            f"identity ({otherwise_said(other)}): what is compared later is what both have."
        )
    return given if horizon == asked else replace(given, scenario=replace(given.scenario, **{key: horizon}))


def _begun(specs: Sequence[RunSpec], store: Store) -> list[tuple[str, ...]]:
    """The memberships of the cohorts that have begun."""
    return [tuple(row.cohort) for row in (store.run(spec.id) for spec in specs) if row.cohort]


def _say_how(cohorts: Sequence[Cohort], data: Dataset, device: str, observer: Observer) -> None:
    for engine, why in sorted({(c.engine, choose_engine(c.specs[0], device)[1]) for c in cohorts}):
        observer.note(f"engine {engine}: {why}.")
    first = cohorts[0].specs[0]
    if takes := what_it_takes(lambda: build(first, data), outputs_of(first, data), chosen(first.measure.metrics)):
        observer.note(takes)


def _train(
    cohorts: Sequence[Cohort], store: Store, data: Dataset, observer: Observer, how: How
) -> dict[str, str]:  # fmt: skip
    """Claim and train cohorts; the status of each run by id."""
    online = all(cohort.engine == "online" for cohort in cohorts)
    # the compiled loop takes one core a run; batched matrices take all cores, or the device, at once
    most = how.threads if online else min(AT_ONCE.get(cohort.engine, 1) for cohort in cohorts)
    workers = min(len(cohorts), most)
    torch.set_num_threads(1 if online else how.threads)
    if online:
        keep_memory()
    with Stopper() as stopper, _session(store, observer, stopper) as session:

        def begin(cohort: Cohort) -> Active:
            attempts = session.claim(cohort)
            return Active.start(
                cohort, attempts, store, data, observer, session.batch, resume=how.resume, keep=how.keep
            )

        def begun() -> Iterator[Active]:
            for cohort in cohorts:
                try:
                    yield begin(cohort)
                except LeaseLost as error:
                    if not how.skip_held:
                        raise
                    observer.note(str(error))

        if online:  # many at once: all are claimed now, so that their progress is one picture
            session.drive([begin(cohort) for cohort in cohorts], workers)
        else:
            session.drive([], workers, begun())
        return session.statuses


@dataclass
class _Session:
    """What this process has claimed, and what became of it."""

    store: Store
    observer: Observer
    stopper: Stopper
    batch: Batch
    claimed: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    def claim(self, cohort: Cohort) -> dict[str, int]:
        """Take all runs of a cohort, or none."""
        facts = provenance(cohort.device, cohort.engine)
        attempts = self.store.claim(cohort.ids, Owner.current(), facts, cohort=cohort.ids)
        self.claimed |= attempts
        return attempts

    def drive(self, active: Sequence[Active], workers: int, coming: Iterator[Active] = iter(())) -> None:
        """Advance all cohorts, the least advanced first, `workers` at a time: no barrier, no idle last round.

        coming  further ones, each begun when a worker has nothing else to do
        """
        order = itertools.count()
        ready = [(one.done, next(order), one) for one in active]
        heapq.heapify(ready)
        flying: dict[Future[Epoch | None], Active] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="ncpl") as pool:

            def go_on(begin: bool = True) -> None:
                while len(flying) < workers and not self.stopper.signal:
                    if begin and not ready and (new := next(coming, None)) is not None:
                        heapq.heappush(ready, (new.done, next(order), new))
                    if not ready:
                        return
                    one = heapq.heappop(ready)[2]
                    flying[pool.submit(one.advance)] = one

            go_on()
            while flying:
                landed, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
                self.batch.flush_old()
                for future in landed:
                    one = flying.pop(future)
                    if (epoch := self._landed(one, future)) is None:
                        continue
                    states = one.take(epoch)
                    heapq.heappush(ready, (one.done, next(order), one))
                    if one.cohort.device.startswith(AHEAD):
                        go_on(begin=False)  # before anything new, which may be refused, what has come back is stored
                    one.save(epoch, states)
                go_on()
            if self.stopper.signal:
                for _, _, one in ready:
                    one.pause()
                raise self.stopper.stopped()

    def _landed(self, one: Active, future: Future[Epoch | None]) -> Epoch | None:
        """The epoch that a cohort has come back with; None when it has ended."""
        try:
            epoch = future.result()
        except NcplError:
            raise
        except Exception as error:  # one run's fault must not stop the others: it is stored with its error
            one.fault = error
            self.fail(one.attempts, error)
            return None
        if epoch is None:
            for run, status in one.finish().items():
                self._ended(run, status)
            return None
        for note in epoch.notes:
            self.observer.note(note)
        return epoch

    def fail(self, attempts: Mapping[str, int], error: Exception) -> None:
        """End runs with an error."""
        self.batch.flush()
        for run, attempt in attempts.items():
            self.store.finish(run, attempt, "failed", said(error))
            self._ended(run, "failed")

    def _ended(self, run: str, status: str) -> None:
        del self.claimed[run]
        self.statuses[run] = status
        self.observer.end(run, status)

    def release(self) -> None:
        """Give back what was claimed and not finished, so that the next command need not wait for the lease."""
        for run, attempt in self.claimed.items():
            with contextlib.suppress(NcplError):
                self.store.release(run, attempt)


@contextlib.contextmanager
def _session(store: Store, observer: Observer, stopper: Stopper) -> Iterator[_Session]:
    """Leases are renewed while it is open, and what is left is given back."""
    session = _Session(store, observer, stopper, Batch(store, observer))
    with contextlib.ExitStack() as stack:
        stack.callback(session.release)
        stack.enter_context(heartbeat(store, session.claimed))
        yield session


__all__ = ["How", "probe", "run", "said", "train_claimed"]
