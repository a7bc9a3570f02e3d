"""A sweep: many runs as one thing, kept in the store, worked at by any number of workers.

arms -> register runs and probes -> cohorts become units of the queue -> an executor starts workers -> watch
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ncpl_cli import runs
from ncpl_cli.analysis.casualties import Casualty, casualties, together
from ncpl_cli.errors import RunFailed
from ncpl_cli.executors import Executor, Local, Places
from ncpl_cli.plan import Cohort, plan
from ncpl_cli.runs import Stopper, checkpoints, numerics
from ncpl_cli.spec import RunSpec, otherwise, otherwise_said
from ncpl_cli.store import Overview, Queue, RunRow, Store
from ncpl_cli.store.leases import LEASE_SECONDS
from ncpl_cli.store.queue import MAX_ATTEMPTS
from ncpl_cli.values import count

WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class Arm:
    """Runs that belong together (as a rule they differ only in seed), and a label that tells them from other arms.

    Runs whose settings differ are told apart without a label too.
    """

    specs: tuple[RunSpec, ...]
    label: str | None = None


@dataclass(frozen=True)
class Options:
    """How the runs of a sweep are worked at; none of it changes a run's identity.

    device        of all workers: cpu, cuda or mps; decides the engine and with it the cohorts
    threads       of each worker; None: the cores divided among the workers, the same again when the sweep goes on
    keep          --keep-checkpoints
    probes        whether the probes of warm starts are part of the sweep
    max_attempts  attempts in a row that get no further, before a unit is given up
    lease         seconds after which a silent worker may be replaced
    """

    device: str = "cpu"
    threads: int | None = None
    keep: str | None = None
    probes: bool = True
    max_attempts: int = MAX_ATTEMPTS
    lease: float = LEASE_SECONDS


@dataclass(frozen=True)
class Outcome:
    """What became of the runs that were asked for: `total` is the sum of the five counts after it.

    skipped  finished before this command
    pending  neither finished nor given up: the sweep was stopped or cancelled, or goes on elsewhere
    probes   of these runs, by status
    errors   see Overview; `casualties` has them, and what diverged, with the settings that vary in the sweep
    """

    sweep: str
    total: int
    finished: int
    failed: int
    diverged: int
    skipped: int
    pending: int
    probes: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[tuple[str, int, str], ...] = ()
    casualties: tuple[Casualty, ...] = ()

    @property
    def bad(self) -> int:
        """Runs and probes that failed or diverged."""
        return self.failed + self.diverged + self.probes.get("failed", 0) + self.probes.get("diverged", 0)

    def to_json(self) -> dict[str, Any]:
        """The document that `ncpl sweep --json` ends with."""
        document = asdict(self) | {"errors": [casualty.to_json() for casualty in self.casualties]}
        document.pop("casualties")
        return document


class Watcher(Protocol):
    """Who watches a sweep: the terminal, or nobody."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def update(self, overview: Overview, workers: int) -> None:
        """How it stands, now and then; `workers` live."""


class Nobody:
    """A watcher that looks away."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def update(self, overview: Overview, workers: int) -> None:
        """Show nothing."""


def run_sweep(
    arms: Sequence[Arm],
    store: Store,
    *,
    name: str,
    options: Options = Options(),
    jobs: int | None = None,
    gpus: Sequence[str] = (),
    per_gpu: int = 1,
    data_dir: Path | None = None,
    executor: Executor | None = None,
    watcher: Watcher = Nobody(),
    wait: bool = False,
) -> Outcome:
    """Bring all runs of the arms, and their probes, to their horizon; what is finished is not repeated.

    The workers are processes that rebuild the runs from the store, so it must lie where they can open it.

    jobs      workers; default one a core, or `per_gpu` on each of `gpus`
    executor  where workers run; default processes on this machine
    wait      stay until all is done also where the workers need nobody to look after them (SLURM)
    Raises Stopped after a signal, RunFailed when no worker could do the work.
    """
    executor = executor or Local()
    jobs = jobs or executor.most
    ids, before = enlist(arms, store, name, options, jobs=jobs, watcher=watcher)
    queue = Queue(store)
    if queue.is_open(name):
        places = places_for(queue.overview(name), jobs=jobs, gpus=gpus, per_gpu=per_gpu)
        watch(queue, name, executor, places, store.url, data_dir, watcher, wait=wait or executor.stays)
    overview = queue.overview(name)
    bad = tuple(casualties(store.runs(name=name), overview.errors))
    for line in together(bad):
        watcher.note(line)
    return replace(outcome(overview, ids, before), casualties=bad)


def enlist(
    arms: Sequence[Arm], store: Store, name: str, options: Options, *, jobs: int | None = None,
    watcher: Watcher = Nobody(),
) -> tuple[list[str], set[str]]:  # fmt: skip
    """Make the sweep, or extend it: register runs and probes and put their cohorts into the queue, longest first.

    Returns the ids of the arms' runs, and those that were finished already.
    """
    checkpoints.keeper(options.keep or "last")
    labels: dict[str, list[str]] = {}
    specs: dict[str, RunSpec] = {}
    for arm in arms:
        for spec in arm.specs:
            run = spec.id
            specs.setdefault(run, spec)
            labels.setdefault(run, [name]).extend([arm.label] if arm.label else [])
    numerics.require_all_same(list(specs.values()), store, options.device)
    store.register_all([(runs.describe(spec), labels[run]) for run, spec in specs.items()])
    standing = store.standing(list(specs))
    _say_what_differs(specs, {row.id: row for row in store.runs(name=name)}, watcher)
    queue = Queue(store)
    inside = queue.members(name)
    for run, spec in specs.items():  # a longer horizon that was asked for before holds
        key = spec.scenario.horizon_field
        if (horizon := standing[run]["horizon"][key]) != getattr(spec.scenario, key):
            specs[run] = replace(spec, scenario=replace(spec.scenario, **{key: horizon}))
    over = {run for run in specs if standing[run]["status"] in ("finished", "diverged")}
    _say_what_lacks(specs, standing, watcher)
    together = [row["cohort"] for run, row in standing.items() if row["cohort"] and run not in over]
    todo = [spec for run, spec in specs.items() if run not in inside | over]
    cohorts = plan(todo, options.device, together)
    cohorts.sort(key=lambda cohort: runs.longest(cohort.specs[0].scenario), reverse=True)
    cohorts += plan([spec for run, spec in specs.items() if run in over - inside], options.device)
    if options.probes:
        cohorts += _probes(specs.values(), store, name, options, watcher)
    units = [(cohort.engine, cohort.ids) for cohort in cohorts]
    settings = asdict(options) | {"threads": options.threads or _threads(queue, name, len(units), jobs)}
    queue.add(name, settings, units)
    return list(specs), {run for run in specs if standing[run]["status"] == "finished"}


def _probes(
    specs: Iterable[RunSpec], store: Store, name: str, options: Options, watcher: Watcher
) -> list[Cohort]:  # fmt: skip
    """The probes of runs: those of one run and kind are a cohort, free once it is finished."""
    cohorts: list[Cohort] = []
    gone: list[str] = []
    for parent in (spec for spec in specs if runs.epochs_of([spec])):
        probes, lost = runs.probe_specs([parent], store)
        gone += lost
        store.register_all([(runs.describe(probe), [name]) for probe in probes])
        begun = [row["cohort"] for row in store.standing([probe.id for probe in probes]).values() if row["cohort"]]
        cohorts += plan(probes, options.device, begun)
    if gone:
        watcher.note(f"{count(len(gone), 'probe')} cannot run, their checkpoints are gone: {', '.join(gone[:3])} ...")
    return cohorts


def _say_what_lacks(specs: Mapping[str, RunSpec], standing: Mapping[str, Any], watcher: Watcher) -> None:
    lacking = [
        what for run, spec in specs.items()
        if standing[run]["status"] == "finished" and (what := runs.lacking(standing[run]["recorded"], spec))
    ]  # fmt: skip
    if lacking:
        without = count(len(lacking), "finished run", "was", "were")
        watcher.note(f"{without} not measured for {lacking[0]}: ncpl train replays them.")


def _say_what_differs(specs: Mapping[str, RunSpec], stored: Mapping[str, RunRow], watcher: Watcher) -> None:
    """Settings that are no part of an identity and that stored runs have otherwise: what is compared changes."""
    found: dict[str, list[str]] = {}
    for run, spec in specs.items():
        row = stored.get(run)
        if row is not None and row.attempt and (other := otherwise(spec, row.settings, row.recorded)):
            found.setdefault(otherwise_said(other), []).append(run)
    for words, ids in found.items():
        watcher.note(
            f"{len(ids)} of these runs ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}) are in the store "
            f"already, with another setting that is no part of their identity ({words})."
        )


def _threads(queue: Queue, name: str, units: int, jobs: int | None) -> int:
    """Threads of a worker, fixed when the sweep is made: on some machines results depend on them to the last bit."""
    if name in queue.names():
        return int(queue.settings(name)["threads"])
    return max(1, cores() // max(1, min(jobs or cores(), units)))


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(named.split(","))
    import torch

    return tuple(map(str, range(torch.cuda.device_count()))) or ("0",)


def places_for(overview: Overview, *, jobs: int | None, gpus: Sequence[str], per_gpu: int) -> Places:
    """Where the workers of a sweep run: one a core, or `per_gpu` on each GPU; never more than there are units left."""
    device, threads = str(overview.settings["device"]), int(overview.settings["threads"])
    if device == "cuda" and not gpus:
        gpus = visible_gpus()
    places = len(gpus) * per_gpu if gpus else 1 if device == "mps" else cores()
    return Places(min(jobs or places, max(1, overview.units_left)), threads, tuple(gpus), per_gpu)


def worker_command(name: str, url: str, data_dir: Path | None) -> tuple[list[str], dict[str, str]]:
    """The command line of a worker, and the environment it wants: a URL may hold a password, which `ps` would show."""
    given = ["--data-dir", str(data_dir.absolute())] if data_dir else []
    where = url if "://" in url else str(Path(url).absolute())
    return [sys.executable, "-m", "ncpl_cli", "sweep", "worker", "--sweep", name, *given], {"NCPL_DB": where}


def watch(
    queue: Queue, name: str, executor: Executor, places: Places, url: str, data_dir: Path | None, watcher: Watcher,
    *, wait: bool = True,
) -> None:  # fmt: skip
    """Start the workers and look after them until the last has left."""
    with Stopper() as stopper:
        try:
            watcher.note(f"sweep {name}: {executor.start(*worker_command(name, url, data_dir), places)}.")
            while wait:
                overview = queue.overview(name)
                living = executor.tend(overview.epochs)
                watcher.update(overview, living)
                if not living:
                    break
                stopper.wait(WATCH_SECONDS)
                if stopper.signal:
                    raise stopper.stopped()
        finally:
            if wait:
                executor.stop()
    if executor.failures and queue.is_open(name):
        raise RunFailed(
            f"no worker is left, and sweep {name} is not done: {executor.failures[0]}",
            f"ncpl sweep status {name} shows how it stands; the same command goes on",
        )


def outcome(overview: Overview, ids: Sequence[str], before: set[str]) -> Outcome:
    """What became of some runs of a sweep."""
    of = [overview.statuses[run] for run in ids]
    finished = of.count("finished")
    skipped = sum(overview.statuses[run] == "finished" for run in before)
    failed, diverged = of.count("failed"), of.count("diverged")
    return Outcome(
        overview.name, len(ids), finished - skipped, failed, diverged, skipped,
        len(ids) - finished - failed - diverged, overview.probes, overview.errors,
    )  # fmt: skip


__all__ = [
    "Arm", "Nobody", "Options", "Outcome", "Watcher", "enlist", "outcome", "places_for", "run_sweep", "watch",
    "worker_command",
]  # fmt: skip
