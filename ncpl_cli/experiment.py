"""The hall: the life of runs. Claim, train, save each epoch, checkpoint, resume, stop.

    specs -> register -> plan cohorts -> claim -> train (least advanced cohort first) -> save -> checkpoint -> finish

Every epoch is one transaction. A checkpoint follows a durable commit, at most about once a second; after a kill
the rows behind the last checkpoint are taken back and trained again, to the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

import torch

from ncpl_cli import __version__, callables, checkpoints, faults, numerics
from ncpl_cli.data import Dataset
from ncpl_cli.errors import DataError, LeaseLost, NcplError, Stopped, StoreError
from ncpl_cli.metrics.catalogue import chosen, every_epoch
from ncpl_cli.metrics.dear import what_it_takes
from ncpl_cli.plan import Cohort, choose_engine, plan
from ncpl_cli.provenance import provenance
from ncpl_cli.records import EpochRecord, RunInfo
from ncpl_cli.scenarios import WarmStart, WarmStartProbe, outputs_of
from ncpl_cli.spec import RunSpec, flat, otherwise, otherwise_said
from ncpl_cli.store import Owner, Store, heartbeat, not_repeated
from ncpl_cli.trainer import Epoch, Start, State, build, part, train

CHECKPOINT_SECONDS = 1.0


class Observer(Protocol):
    """Who watches runs: the terminal, or nobody."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def expect(self, runs: int) -> None:
        """So many runs will begin."""

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None:
        """A run starts, or goes on after `done` epochs; it has `total` epochs, at most where that is not exact."""

    def epoch(self, run: str, record: EpochRecord) -> None:
        """A run has finished an epoch, and it is saved."""

    def end(self, run: str, status: str) -> None:
        """A run has ended."""


Cost = dict[str, float]
"""What measuring a family of metrics took: `seconds` in all, over so many `epochs`."""


@dataclass
class _Active:
    """A cohort in training. `costs`: by run and family, since it was begun or gone on with; `counts`: by run."""

    cohort: Cohort
    attempts: dict[str, int]
    epochs: Iterator[Epoch]
    done: int
    wanted: Callable[[int], bool]
    last_checkpoint: float = field(default_factory=time.monotonic)
    latest: Epoch | None = None
    checkpointed: int = -1
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)
    counts: dict[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    diverged: frozenset[int] = frozenset()
    fault: Exception | None = None


def run(
    specs: Sequence[RunSpec],
    store: Store,
    data: Dataset,
    *,
    device: str,
    observer: Observer,
    name: str | None = None,
    jobs: int | None = None,
    keep: str | None = None,
    resume: bool = True,
    probes: bool = True,
) -> dict[str, str]:
    """Bring every run to its horizon, and the probes that branch off it; what is finished is not repeated.

    Returns the status of each run by id, probes among them. Raises Stopped after SIGINT, SIGTERM or SIGUSR1, once
    everything up to the last epoch is saved.
    """
    checkpoints.keeper(keep or "last")
    statuses = _bring(specs, store, data, device=device, observer=observer, name=name, jobs=jobs, keep=keep,
                      resume=resume)  # fmt: skip
    branching = [spec for spec in specs if isinstance(spec.scenario, WarmStart) and statuses[spec.id] == "finished"]
    if branching and probes:
        statuses |= probe(branching, store, data, device=device, observer=observer, name=name, jobs=jobs)
        if keep == "last":  # until here the probes needed them
            for spec in branching:
                epochs = checkpoints.epochs(store.checkpoints, spec.id)
                checkpoints.prune(store.checkpoints, spec.id, checkpoints.wanted(keep), max(epochs, default=0))
    return statuses


def probe(
    parents: Sequence[RunSpec], store: Store, data: Dataset, *, device: str, observer: Observer,
    name: str | None = None, jobs: int | None = None, skip_held: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Run the probes that finished warm starts lack, from their checkpoints, and put the results on the parents' rows.

    skip_held  leave probes that another process is at to it, instead of refusing
    Returns the status of each probe by id.
    """
    specs, lost = probe_specs(parents, store)
    if lost:
        observer.note(
            f"{len(lost)} probes cannot run, their checkpoints are gone: {', '.join(lost[:3])}"
            f"{' ...' if len(lost) > 3 else ''}. Train those runs again with --no-resume."
        )
    for parent in parents:
        harvest(parent.id, store)
    # probes of one epoch need about as long as each other: they keep step
    specs.sort(key=lambda spec: spec.scenario.branch_epoch)
    try:
        return _bring(
            specs, store, data, device=device, observer=observer, name=name, jobs=jobs, keep="last", resume=True,
            skip_held=skip_held, quietly=True,
        )  # fmt: skip
    finally:
        for parent in parents:
            harvest(parent.id, store)


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


def _bring(
    specs: Sequence[RunSpec], store: Store, data: Dataset, *, device: str, observer: Observer, name: str | None,
    jobs: int | None, keep: str | None, resume: bool, skip_held: bool = False, quietly: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Bring runs of one kind to their horizon; the status of each by id."""
    if resume:
        numerics.require_all_same(specs, store, device)
    todo: list[RunSpec] = []
    again: list[RunSpec] = []
    statuses: dict[str, str] = {}
    for given in specs:
        known = store.register(describe(given), name)
        field_ = given.scenario.horizon_field
        horizon = int(known.horizon[field_])
        if horizon > getattr(given.scenario, field_):
            observer.note(f"{given.id} was begun with {horizon} {field_.replace('_', ' ')} and goes by them.")
        spec = given
        if horizon != getattr(given.scenario, field_):
            spec = replace(given, scenario=replace(given.scenario, **{field_: horizon}))
        if known.attempt and not quietly and (other := otherwise(given, known.settings, known.recorded)):
            observer.note(
                f"{given.id} (seed {given.seed}) is in the store already, with another setting that is no part of its "
                f"identity ({otherwise_said(other)}): what is compared later is what both have."
            )
        if known.status in ("finished", "diverged") and resume:
            statuses[spec.id] = known.status
            if known.status == "finished" and not quietly and (missing := lacking(known.recorded, spec)):
                again.append(spec)
                observer.note(f"{spec.id} (seed {spec.seed}) is finished; its epochs are replayed for {missing}.")
                continue
            if not quietly:
                observer.note(f"{spec.id} (seed {spec.seed}) is {known.status} already: nothing to train.")
        else:
            todo.append(spec)
    together = [tuple(row.cohort) for row in (store.run(spec.id) for spec in todo) if row.cohort]
    for cohort in plan(again, device, [tuple(store.run(spec.id).cohort) for spec in again]):
        _replay(cohort, store, data, device, observer)
    cohorts = plan(todo, device, together)
    if not cohorts:
        return statuses
    observer.expect(len(todo))
    online = all(cohort.engine == "online" for cohort in cohorts)
    # the compiled loop takes one core a run; batched matrices take all cores at once
    workers = min(len(cohorts), jobs or os.cpu_count() or 1) if online else 1
    torch.set_num_threads(1 if online else max(1, jobs or os.cpu_count() or 1))
    for engine, why in sorted({(c.engine, choose_engine(c.specs[0], device)[1]) for c in cohorts}):
        if not quietly:
            observer.note(f"engine {engine}: {why}.")
    first = cohorts[0].specs[0]
    takes = what_it_takes(lambda: build(first, data), outputs_of(first, data), chosen(first.measure.metrics))
    if takes and not quietly:
        observer.note(takes)
    with Stopper() as stopper, contextlib.ExitStack() as stack:
        claimed: dict[str, int] = {}
        stack.callback(_release, store, claimed)
        stack.enter_context(heartbeat(store, claimed))
        if online:  # many at once: all are claimed now, so that their progress is one picture
            active = [
                _start(cohort, store, data, resume, observer, _claim(cohort, store, claimed), keep)
                for cohort in cohorts
            ]
            _drive(active, store, workers, observer, statuses, claimed, stopper)
            return statuses
        for cohort in cohorts:
            try:
                one = _start(cohort, store, data, resume, observer, _claim(cohort, store, claimed), keep)
            except LeaseLost as error:
                if not skip_held:
                    raise
                observer.note(str(error))
                continue
            _drive([one], store, workers, observer, statuses, claimed, stopper)
    return statuses


def train_claimed(
    cohort: Cohort, attempts: Mapping[str, int], store: Store, data: Dataset, *, observer: Observer, stopper: Stopper,
    keep: str | None = None,
) -> tuple[dict[str, str], Exception | None]:  # fmt: skip
    """Train a cohort that is claimed already to its end; the status of each run by id, and what made it fail if it did.

    Raises LeaseLost when another has taken it over, Stopped after a signal, StoreError when nothing can be stored.
    """
    claimed, statuses = dict(attempts), dict[str, str]()
    with contextlib.ExitStack() as stack:
        stack.callback(_release, store, claimed)
        stack.enter_context(heartbeat(store, claimed))
        try:
            one = _start(cohort, store, data, True, observer, attempts, keep)
            _drive([one], store, 1, observer, statuses, claimed, stopper)
        except (LeaseLost, StoreError, Stopped):
            raise
        except Exception as error:
            _fail(dict(claimed), error, store, observer, statuses, claimed)
            return statuses, error
        return statuses, one.fault


def lacking(recorded: Mapping[str, Any], spec: RunSpec) -> str:
    """In words, what a finished run was not measured for and now shall be; empty when nothing."""
    before, now = recorded["metrics"], spec.measure.metrics
    missing = sorted(chosen(now) - chosen(before) | every_epoch(now) - every_epoch(before))
    layers = ["all layers"] if spec.measure.layers == "all" and recorded["layers"] == "last" else []
    return ", ".join([*missing[:5], *(["..."] if len(missing) > 5 else []), *layers])


def _replay(cohort: Cohort, store: Store, data: Dataset, device: str, observer: Observer) -> None:
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
                store.remember(spec.id, attempts[spec.id], before | {"metrics": metrics, "layers": layers})
        finally:
            for run in cohort.ids:  # it was finished before, and still is
                with contextlib.suppress(NcplError):
                    store.finish(run, attempts[run], "finished")


def _claim(cohort: Cohort, store: Store, claimed: dict[str, int]) -> dict[str, int]:
    facts = provenance(cohort.device, cohort.engine)
    attempts = store.claim(cohort.ids, Owner.current(), facts, cohort=cohort.ids)
    claimed |= attempts
    return attempts


def _start(
    cohort: Cohort, store: Store, data: Dataset, resume: bool, observer: Observer, attempts: Mapping[str, int],
    keep: str | None,
) -> _Active:  # fmt: skip
    """Find the newest point all runs of a claimed cohort can go on from, and take back what lies after it."""
    spoiled = _spoiled(cohort, store)
    if resume and spoiled:
        observer.note(
            f"{', '.join(spoiled)}: begun by an ncpl before {'.'.join(map(str, faults.MENDED))}, which left out what "
            "the interventions do before a probe; begun anew."
        )
    start = _resume_point(cohort, store, observer) if resume and not spoiled else None
    for run in cohort.ids if start else ():
        numerics.require_same(store, run, cohort.engine)
    for run in cohort.ids:
        after = start.position.epoch if start else -1
        store.truncate(run, attempts[run], after)
        checkpoints.forget(store.checkpoints, run, after)
        if run in spoiled and start is None:
            store.remember(run, attempts[run], store.run(run).recorded | {faults.BEGUN: __version__})
    scenario = cohort.specs[0].scenario
    total = longest(scenario)
    done = start.position.epoch if start else 0
    for spec in cohort.specs:
        observer.begin(spec.id, spec.seed, done, total, scenario.fixed_length)
        if start:
            observer.note(f"{spec.id} (seed {spec.seed}) goes on after epoch {done}.")
    # a warm start keeps what its probes branch off, whatever is asked for
    branches = scenario.branch_epochs if isinstance(scenario, WarmStart) else []
    weights = [_branched(spec, store) for spec in cohort.specs] if isinstance(scenario, WarmStartProbe) else None
    return _Active(
        cohort, dict(attempts), train(cohort, data, start, weights), done, checkpoints.wanted(keep or "last", branches),
        checkpointed=done, diverged=start.diverged if start else frozenset(),
    )  # fmt: skip


def _spoiled(cohort: Cohort, store: Store) -> list[str]:
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


def kept_epochs(store: Store, run: str) -> list[int]:
    """The epochs that a run has a checkpoint of, in order."""
    return checkpoints.epochs(store.checkpoints, run)


def state_after(cohort: Cohort, store: Store, data: Dataset, run: str, epoch: int, observer: Observer) -> State:
    """Parameters and buffers of a run of a cohort after an epoch.

    From its checkpoint, else by training the cohort again from the nearest one before; raises StoreError when the
    epoch's online accuracy is then not what is stored.
    """
    if epoch in kept_epochs(store, run):
        return part(checkpoints.read(store.checkpoints, run, epoch)[1], "network.")
    numerics.require_same(store, run, cohort.engine)
    start = _resume_point(cohort, store, observer, epoch)
    before = start.position.epoch if start else 0
    observer.note(f"{run} has no checkpoint after epoch {epoch}: trained again from epoch {before}.")
    r, scenario = cohort.ids.index(run), cohort.specs[0].scenario
    weights = [_branched(spec, store) for spec in cohort.specs] if isinstance(scenario, WarmStartProbe) else None
    for now in train(cohort, data, start, weights):
        record = now.records[r]
        if now.position.epoch < epoch or record is None:
            continue
        stored = next(row["online_accuracy"] for row in store.rows(run) if row["epoch"] == epoch)
        if record.get("online_accuracy") != stored:
            raise not_repeated(run, epoch)
        return part(now.state()[r], "network.")
    raise DataError(f"run {run} ends before epoch {epoch} when it is trained again.")


def _branched(spec: RunSpec, store: Store) -> Mapping[str, torch.Tensor]:
    """The parameters and buffers of a probe's parent where it branches off; empty for the cold start."""
    scenario = spec.scenario
    if scenario.branch_epoch == 0:
        return {}
    _, saved = checkpoints.read(store.checkpoints, scenario.parent, scenario.branch_epoch)
    return part(saved, "network.")


def _resume_point(cohort: Cohort, store: Store, observer: Observer, up_to: int | None = None) -> Start | None:
    """The newest epoch (up to one) that every run has a readable checkpoint of and rows up to."""
    root = store.checkpoints
    last = max(store.last_epoch(run) for run in cohort.ids)
    last = last if up_to is None else min(last, up_to)
    common = set.intersection(*({e for e in checkpoints.epochs(root, r) if e <= last} for r in cohort.ids))
    for epoch in sorted(common, reverse=True):
        try:
            read = [checkpoints.read(root, run, epoch) for run in cohort.ids]
        except DataError as error:
            observer.note(f"{error} Going on from an earlier one.")
            continue
        histories = [list(store.history(run, epoch)) for run in cohort.ids]
        diverged = frozenset(r for r, (position, _) in enumerate(read) if position.diverged)
        finished = frozenset(r for r, (position, _) in enumerate(read) if position.finished)
        position = replace(read[0][0], diverged=False, finished=False)
        return Start(position, [state for _, state in read], histories, diverged, finished)
    return None


def _drive(
    active: list[_Active], store: Store, workers: int, observer: Observer, statuses: dict[str, str],
    claimed: dict[str, int], stopper: Stopper,
) -> None:  # fmt: skip
    """Advance all cohorts, the least advanced first, `workers` at a time: no barrier, no idle last round."""
    order = itertools.count()
    ready = [(one.done, next(order), one) for one in active]
    heapq.heapify(ready)
    flying: dict[Future[Epoch | None], _Active] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="ncpl") as pool:
        while (ready or flying) and not (stopper.signal and not flying):
            while ready and len(flying) < workers and not stopper.signal:
                one = heapq.heappop(ready)[2]
                flying[pool.submit(_advance, one.epochs)] = one
            finished, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                one = flying.pop(future)
                try:
                    epoch = future.result()
                except NcplError:
                    raise
                except Exception as error:  # one run's fault must not stop the others: it is stored with its error
                    one.fault = error
                    _fail(one.attempts, error, store, observer, statuses, claimed)
                    continue
                if epoch is None:
                    _finish(one, store, observer, statuses, claimed)
                else:
                    _save(one, epoch, store, observer)
                    heapq.heappush(ready, (one.done, next(order), one))
        if stopper.signal:
            for _, _, one in ready:
                _checkpoint(one, store)
                _remember_measuring(one, store)
            raise stopper.stopped()


def _advance(epochs: Iterator[Epoch]) -> Epoch | None:
    return next(epochs, None)


def _save(one: _Active, epoch: Epoch, store: Store, observer: Observer) -> None:
    runs = one.cohort.ids
    rows = [(run, one.attempts[run], rec) for run, rec in zip(runs, epoch.records, strict=True) if rec is not None]
    due = one.wanted(epoch.position.epoch) or time.monotonic() - one.last_checkpoint >= CHECKPOINT_SECONDS
    store.save(rows, durable=due)
    one.latest, one.done = epoch, epoch.position.epoch
    if due:
        _checkpoint(one, store)
    for run, _, record in rows:
        _count(one.costs.setdefault(run, {}), record)
        if record.counts:
            one.counts[run] = record.counts
        observer.epoch(run, record)


def _count(costs: dict[str, Cost], record: EpochRecord) -> None:
    for family, seconds in record.costs.items():
        known = costs.setdefault(family, {"seconds": 0.0, "epochs": 0})
        known["seconds"] += seconds
        known["epochs"] += 1


def _remember_measuring(one: _Active, store: Store) -> None:
    """Put down what was measured on, and add what it took to what is known of it from earlier attempts."""
    for run, costs in one.costs.items():
        recorded = store.run(run).recorded
        known = dict(recorded.get("cost", {}))
        for family, own in costs.items():
            before = known.get(family, {"seconds": 0.0, "epochs": 0})
            known[family] = {key: before[key] + own[key] for key in ("seconds", "epochs")}
        counts = one.counts.get(run, recorded.get("counts", {}))
        store.remember(run, one.attempts[run], recorded | {"cost": known, "counts": counts})
    one.costs = {}


def _checkpoint(one: _Active, store: Store) -> None:
    """Write the state after the latest epoch of every run, then delete the older ones: a common one always exists."""
    if one.latest is None or one.checkpointed == one.done:
        return
    lost = {one.cohort.ids[r] for r in one.latest.diverged}
    over = {one.cohort.ids[r] for r in one.latest.finished}
    for spec, state in zip(one.cohort.specs, one.latest.state(), strict=True):
        position = replace(one.latest.position, diverged=spec.id in lost, finished=spec.id in over)
        checkpoints.write(store.checkpoints, spec.id, spec.identity, position, state, one.cohort.engine)
    for run in one.cohort.ids:
        checkpoints.prune(store.checkpoints, run, one.wanted, one.done)
    one.last_checkpoint, one.checkpointed = time.monotonic(), one.done


def _finish(one: _Active, store: Store, observer: Observer, statuses: dict[str, str], claimed: dict[str, int]) -> None:
    diverged = one.latest.diverged if one.latest else one.diverged
    _checkpoint(one, store)
    _remember_measuring(one, store)
    for r, run in enumerate(one.cohort.ids):
        status = "diverged" if r in diverged else "finished"
        error = "the loss or the parameters became infinite or NaN" if r in diverged else None
        store.finish(run, one.attempts[run], status, error)
        del claimed[run]
        statuses[run] = status
        observer.end(run, status)


def _fail(
    attempts: Mapping[str, int], error: Exception, store: Store, observer: Observer, statuses: dict[str, str],
    claimed: dict[str, int],
) -> None:  # fmt: skip
    for run, attempt in attempts.items():
        store.finish(run, attempt, "failed", said(error))
        del claimed[run]
        statuses[run] = "failed"
        observer.end(run, "failed")


def said(error: Exception) -> str:
    """An error as the store keeps it."""
    return str(error) if isinstance(error, NcplError) else callables.said(error)


def _release(store: Store, claimed: dict[str, int]) -> None:
    """Give back what was claimed and not finished, so that the next command need not wait for the lease."""
    for run, attempt in claimed.items():
        with contextlib.suppress(NcplError):
            store.release(run, attempt)


class Stopper:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a wish to stop after the epoch in flight; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a signal."""
        end = time.monotonic() + seconds
        while not self.signal and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def stop(self) -> None:
        """Stop as after SIGTERM."""
        self.signal = self.signal or signal.SIGTERM

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def stopped(self) -> Stopped:
        """The error to raise once everything is saved."""
        interrupted = self.signal == signal.SIGINT
        return Stopped(
            f"stopped by {signal.Signals(self.signal or 0).name}; everything up to the last epoch is saved.",
            "the same command goes on where it stopped",
            exit_code=130 if interrupted else 75,
        )


@functools.lru_cache(maxsize=1024)
def longest(scenario: Any) -> int:
    """How many epochs a run of these options has at most."""
    return sum(scenario.task_epochs(index) for index in range(scenario.tasks))


def describe(spec: RunSpec) -> RunInfo:
    """What the store keeps of a run before it starts."""
    scenario = spec.scenario
    total = longest(scenario) if scenario.fixed_length else None
    return RunInfo(
        id=spec.id,
        identity=spec.identity,
        scenario=scenario.id,
        seed=spec.seed,
        settings=flat(spec),
        horizon={scenario.horizon_field: getattr(scenario, scenario.horizon_field)},
        total_epochs=total,
        recorded={**asdict(spec.measure), "engine": spec.engine},
        parent=getattr(scenario, "parent", None),
        branch_epoch=getattr(scenario, "branch_epoch", None),
    )


__all__ = [
    "Observer", "Stopper", "describe", "harvest", "kept_epochs", "lacking", "longest", "probe", "probe_specs", "run",
    "said", "state_after", "train_claimed",
]  # fmt: skip
