"""From specs to cohorts: which engine carries a run, and which runs train in lockstep."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.refusals import REFUSALS
from ncpl_cli.scenarios import objective_of
from ncpl_cli.spec import MeasureSpec, RunSpec

ONLINE_UP_TO_BATCH = 16
"""Above this batch size batched matrices beat the per-sample loop on the CPU (benchmarks/stacked_step.py)."""

COHORT_SIZE = {"cpu": 32, "mps": 32, "cuda": 128}
"""Runs trained in lockstep at most: 32 networks of 3x100 still fit a 32 MB cache, 128 the one of a large GPU."""

AT_ONCE = {"captured": 3}
"""Cohorts of an engine that train side by side on one device (where it is not named: one): a ResNet-18 at batch 128
fills a part of a large GPU only. Estimated, not measured: benchmarks/gpu.py measures 1, 2 and 4."""

T = TypeVar("T")


@dataclass(frozen=True)
class Cohort:
    """Runs that advance together; fixed once planned, since bits may depend on it.

    They differ only in seed and in what each is asked for itself. What is asked once, for all of them, is asked of
    `shared`; runs that differ in it make no cohort.
    """

    specs: tuple[RunSpec, ...]
    engine: str
    device: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The runs' ids, in order."""
        return tuple(spec.id for spec in self.specs)

    @cached_property
    def shared(self) -> RunSpec:
        """The settings that all have in common; a run's own (seed, what is measured) stand at their default."""
        return agreed("settings", (lockstep_key(spec) for spec in self.specs))

    def __post_init__(self) -> None:
        assert self.shared  # looked at when it is made, not when it is trained


def choose_engine(spec: RunSpec, device: str) -> tuple[str, str]:
    """The engine that carries a run and, in words, why; raises InputError when none or not the named one can."""
    asks = spec.objective or objective_of(spec.scenario)
    carried_by = getattr(spec.scenario, "carried_by", tuple(REFUSALS))
    refusals = {
        name: refuses(spec.network, spec.optimizer, device, spec.precision, spec.interventions, asks)
        or (None if name in carried_by else f"the {name} engine does not carry what {spec.scenario.id} asks here")
        for name, refuses in REFUSALS.items()
    }
    if spec.engine != "auto":
        if spec.engine not in REFUSALS:
            raise unknown("engine", spec.engine, ["auto", *REFUSALS])
        if reason := refusals[spec.engine]:
            raise InputError(f"the {spec.engine} engine cannot carry this run: {reason}.", "use --engine auto")
        return spec.engine, "as asked"
    batch = spec.optimizer.batch_size
    if refusals["online"] is None and batch <= ONLINE_UP_TO_BATCH:
        return "online", f"compiled per-sample loop, the fastest on a CPU at batch size {batch}"
    if refusals["captured"] is None:
        return "captured", f"several steps a launch on {device}, where batched matrices of one run wait for the host"
    if refusals["stacked"] is None:
        why = refusals["online"] or f"batch size {batch} is above {ONLINE_UP_TO_BATCH}"
        return "stacked", f"batched matrices on {device}: {why}"
    raise InputError(f"no engine can carry this run: {'; '.join(f'{n}: {r}' for n, r in refusals.items())}.")


def best_device(specs: Sequence[RunSpec], fastest: Callable[[], str]) -> str:
    """What `auto` means for runs: the CPU where its per-sample loop carries all of them, else the fastest there is.

    At batch sizes near 1 a GPU waits for each step's launches, 25 times as long as a core takes for the step. To ask
    for a GPU loads torch, so that is asked only where it matters.
    """

    def on_cpu(spec: RunSpec) -> bool:
        try:
            return choose_engine(spec, "cpu")[0] == "online"
        except InputError:  # an engine or a precision of the device's
            return False

    return "cpu" if all(map(on_cpu, specs)) else fastest()


def plan(specs: Iterable[RunSpec], device: str, together: Collection[Sequence[str]] = ()) -> list[Cohort]:
    """Cohorts in the order of the specs.

    The online engine needs no lockstep: each run is a cohort of its own. `together` holds the memberships of
    cohorts that have begun (run ids): they are kept as they are.
    """
    specs = list(specs)
    begun = {run: tuple(members) for members in together for run in members}
    cohorts = []
    for _, group in itertools.groupby(specs, key=lambda s: (begun.get(s.id), lockstep_key(s), s.engine)):
        members = list(group)
        engine, _ = choose_engine(members[0], device)
        # a first task that ends by its nc1 lasts as long as it lasts: such runs cannot keep step
        alone = engine == "online" or not members[0].scenario.lockstep
        # mapped over runs, convolutions lose more than they gain
        alone = alone or members[0].network.name != "mlp"
        size = 1 if alone else COHORT_SIZE[device.partition(":")[0]]
        cohorts += [Cohort(tuple(members[i : i + size]), engine, device) for i in range(0, len(members), size)]
    return cohorts


def lockstep_key(spec: RunSpec) -> RunSpec:
    """What runs that can advance together have in common: all that is asked once for a cohort."""
    return replace(spec, seed=0, scenario=spec.scenario.lockstep_key, measure=MeasureSpec(), engine="auto", probes=())


def agreed(what: str, answers: Iterable[T]) -> T:
    """The one answer of all runs of a cohort; an error where they differ, since one must not speak for the others."""
    first, *others = answers
    if different := [other for other in others if other != first]:
        raise ValueError(f"runs of a cohort differ in {what}: {first} and {different[0]}")
    return first
