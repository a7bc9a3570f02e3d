"""The only training loop. It reads from top to bottom and knows neither disk nor SQL.

    for task in tasks: each epoch: engine.train_epoch -> snapshot -> metrics -> EpochRecord   (x R runs)

`train` is a generator: whoever drives it decides when the next epoch happens, saves the records and, between
epochs, takes the state for a checkpoint. What belongs to one run is in its `Run`; what is asked once for a cohort
is `agreed`, which `plan.lockstep_key` has seen to.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines import ENGINES, Engine, Progress
from ncpl_cli.engines.copies import copied
from ncpl_cli.interventions import Treatment, parse
from ncpl_cli.interventions.intervention import INITIALISATION
from ncpl_cli.matrix import OF_ROW
from ncpl_cli.metrics import Measured, measure
from ncpl_cli.metrics.catalogue import AT_START, METRICS, at_start, chosen, every_epoch
from ncpl_cli.metrics.forgetting import evaluated_tasks, task_accuracy
from ncpl_cli.metrics.forward import predictions
from ncpl_cli.metrics.history import fresh_gap, plasticity, task_online
from ncpl_cli.metrics.inputs import at_initialisation
from ncpl_cli.metrics.retained import OF_FIRST, Retained, look_ahead, of_first
from ncpl_cli.metrics.similarity import NAMES as SIMILARITY
from ncpl_cli.metrics.similarity import task_similarity
from ncpl_cli.metrics.snapshot import Snapshot
from ncpl_cli.objectives import REGRESSION
from ncpl_cli.plan import Cohort, agreed
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.scenarios import Task, outputs_of, shown_by, task_of
from ncpl_cli.spec import OptimizerSpec, RunSpec

State = dict[str, Tensor]
"""What a checkpoint holds of one run: `network.*` and `optimizer.*`."""

OUTPUTS = "task.outputs"
"""What a checkpoint within a task holds where its targets come from what the network predicted before it."""

History = list[tuple[int, int, float]]
"""(task, task_epoch, online_accuracy) of every epoch so far; NaN where the task asks for numbers."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands after an epoch. `next_task` and `next_task_epoch` say what comes."""

    epoch: int = 0
    samples_seen: int = 0
    next_task: int = 0
    next_task_epoch: int = 1
    diverged: bool = False
    finished: bool = False


@dataclass(frozen=True)
class Start:
    """Where to go on: the position, and each run's state and history up to it."""

    position: Position
    states: Sequence[Mapping[str, Tensor]]
    histories: Sequence[History]
    diverged: frozenset[int] = frozenset()
    finished: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Epoch:
    """One epoch of a cohort: a record for each run, None for those that diverged or finished before.

    state()  a copy of each run's state; to be taken before the next epoch is asked for
    notes    what a person should know of how it was trained
    """

    records: tuple[EpochRecord | None, ...]
    diverged: frozenset[int]
    finished: frozenset[int]
    position: Position
    state: Callable[[], list[State]]
    notes: tuple[str, ...] = ()


class Run:
    """One run in training: all that is its own.

    initial   its parameters as initialised
    history   every epoch so far; `seen`: its tasks so far, the last of them is `task`
    start     what was measured before the task's first epoch
    fresh     online accuracy of a fresh network on the task, epoch by epoch in the same order; empty = not asked for
    stopped   its task has reached what it was to stop at; `finished`: so has the run, and `held` is its last state
    outputs   what it predicted of the training split before the task's first step, where its targets depend on that
    retained  what it remembers of earlier tasks, to say what is left of them
    """

    def __init__(self, spec: RunSpec, network: networks.Network, data: Dataset, device: str) -> None:
        self.spec, self.network, self.data, self.device = spec, network, data, device
        self.initial = {name: value.detach().clone() for name, value in network.named_parameters()}
        self.history: History = []
        self.seen: list[Task] = []
        self.start = Measured()
        self.fresh: list[float] = []
        self.stopped = self.diverged = self.finished = False
        self.held: State = {}
        self.outputs: Tensor | None = None
        self.retained = Retained()

    @property
    def task(self) -> Task:
        """The task at hand."""
        return self.seen[-1]

    @property
    def resting(self) -> bool:
        """Whether it takes no part any more: the cohort goes on without it."""
        return self.diverged or self.finished

    def enter(self, index: int) -> None:
        """Begin a task."""
        if len(self.seen) > 1:  # the first task's features are looked at to the end
            self.seen[-1] = self.task.past()
        self.seen.append(task_of(self.spec, index, self.data))
        self.stopped, self.fresh, self.start = False, [], Measured()

    def begin(self, again: bool = False) -> None:
        """What the task does before its first step with what the network predicts; `again`: it was begun earlier."""
        if self.task.recentre and not again:
            mean = torch.from_numpy(predictions(self.network, self.data, self.task, self.device).mean(0))
            with torch.no_grad():
                bias = self.network.classifier.bias
                bias.sub_(mean.to(bias))
        if self.task.of_outputs is None:
            self.outputs = None
            return
        if self.outputs is None or not again:
            self.outputs = torch.from_numpy(predictions(self.network, self.data, self.task, self.device))
        self.seen[-1] = self.task.of_outputs(self.task, self.outputs.numpy())

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put parameters and buffers into the live network."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                value.copy_(saved[name])

    def state(self, optimizer: Mapping[str, Tensor]) -> State:
        """What a checkpoint holds, where it lies: as it is now, or as it was when it finished."""
        network = self.network.state_dict()
        return self.held or (
            copied({f"network.{name}": value for name, value in network.items()})
            | {f"optimizer.{name}": value for name, value in optimizer.items()}
            | ({OUTPUTS: self.outputs} if self.outputs is not None and self.task.epochs > 1 else {})
            | self.retained.state()
        )

    def snapshot(self, initial: Mapping[str, Tensor] | None, learning_rate: float | None = None) -> Snapshot:
        """The network as it is, to be measured on the task at hand."""
        samples = self.spec.measure.samples
        return Snapshot(self.network, self.data, self.task, initial, self.device, samples, learning_rate)

    def untrained(self) -> EpochRecord:
        """Epoch 0: the network as initialised, measured on the first task."""
        began = time.perf_counter()
        if self.task.phase == "probe":  # its parent's row of that epoch has it all
            return EpochRecord(0, 0, 0, 0, 0.0, 0.0, {})
        spec = self.spec
        wanted = tuple(self._due(0, chosen(spec.measure.metrics)))
        measured = measure(self.snapshot(self.initial, spec.optimizer.lr), wanted, spec.measure.layers)
        undefined = dict(measured.undefined)
        for name in ("online_accuracy", "online_loss", "plasticity_loss", "plasticity_loss_b24"):
            undefined[Address(name)] = "untrained"
        took = time.perf_counter() - began
        return EpochRecord(0, 0, 0, 0, 0.0, took, measured.values, undefined, costs=measured.seconds)

    def measure_start(self) -> None:
        """Measure what is measured before a task's first epoch, on that task."""
        metrics = tuple(chosen(self.spec.measure.metrics) & AT_START)
        self.start = measure(self.snapshot(None), metrics) if metrics else Measured()
        if also := tuple(at_start(self.spec.measure.metrics)):
            found = Measured()
            with self.start.timed("start"):
                self.measure(found, also)
            self.start.values |= {_at_start(a): v for a, v in found.values.items() if a.split == "train"}
            self.start.undefined |= {_at_start(a): why for a, why in found.undefined.items() if a.split == "train"}
        if self.task.index and "forward_transfer" in chosen(self.spec.measure.metrics):
            look_ahead(self.retained, self.network, at_initialisation(self.network, self.initial), self.data, self.task,
                       self.spec.measure.task_accuracy_samples, self.device)  # fmt: skip

    def _due(self, epoch: int, metrics: Collection[str]) -> set[str]:
        """Of some metrics, those that are due after an epoch: the expensive ones only where epochs are named."""
        at = self.spec.measure.at
        return {name for name in metrics if not at or epoch in at or METRICS[name].cost != "expensive"}

    def measure(self, found: Measured, metrics: Collection[str]) -> None:
        """Add metrics of the network as it is to what was found."""
        snapshot = self.snapshot(self.initial, self.spec.optimizer.lr)
        found.add(measure(snapshot, tuple(metrics), self.spec.measure.layers))

    def record(self, progress: Progress, at: Position, task_epoch: int, share: int) -> EpochRecord:
        """Measure it after an epoch, and see whether its task has reached what it was to stop at.

        at     the epoch's number and the samples seen
        share  how many runs the epoch's time was for
        """
        began = time.perf_counter()
        task, spec = self.task, self.spec.measure
        online = progress.accuracy
        self.history.append((task.index, task_epoch, online))
        found, self.start = self.start, Measured()
        if progress.correct is None:
            found.put({}, dict.fromkeys(("online_accuracy", "fresh_gap"), REGRESSION))
        else:
            found.values[Address("online_accuracy")] = online
        if math.isfinite(progress.loss):
            found.values[Address("online_loss")] = progress.loss
        else:
            found.undefined[Address("online_loss")] = "not finite"
        found.values |= {Address(name): value for name, value in progress.extra.items()}
        accuracies: dict[int, float] = {}
        last = task_epoch == task.epochs
        self.stopped = task.stop_accuracy is not None and online > task.stop_accuracy
        if not progress.finite:
            self.diverged = True
            found.undefined[Address("nc1")] = "the run diverged: parameters are not finite"
        else:
            last |= self.stopped
            everything = self._due(at.epoch, chosen(spec.metrics) - AT_START)
            named = at.epoch in spec.at
            often = everything if named else everything & every_epoch(spec.metrics)
            if named or at.epoch % spec.every == 0 or last or task.stop_nc1 is not None:
                self.measure(found, everything if last else often)
            nc1 = found.values.get(Address("nc1"))
            if task.stop_nc1 is not None and nc1 is not None and nc1 < task.stop_nc1:
                if not last:
                    self.measure(found, everything - often)
                self.stopped = last = True
            # else there is only one, and its test accuracy is measured anyway
            alone = "test" in task.parts and self.spec.scenario.tasks == 1
            if task.phase == "task" and not task.regression and not alone:
                tested = [self.seen[i] for i in evaluated_tasks(spec.task_accuracy, task.index, last)]
                with found.timed("forgetting") if tested else contextlib.nullcontext():
                    accuracies = task_accuracy(
                        self.network, self.data, tested, spec.task_accuracy_samples, self.device, task
                    )
                    self._retained(found, accuracies, everything if last else often, last)
        if task_epoch == 1 and chosen(spec.metrics) & {*SIMILARITY}:
            found.values |= task_similarity(self.data, self.seen)
        found.put(*plasticity(self.history, is_last_epoch=last))
        found.put(*task_online(self.history, is_last_epoch=last))
        if self.fresh:
            found.put(*fresh_gap(self.fresh, self.history, over=spec.fresh_over, is_last_epoch=last))
        if task.index not in accuracies and (test := found.values.get(Address("test_accuracy"))) is not None:
            accuracies[task.index] = test
        return EpochRecord(
            at.epoch, task.index, task_epoch, at.samples_seen, progress.seconds / share, time.perf_counter() - began,
            found.values, found.undefined, accuracies, found.seconds, found.counts,
        )  # fmt: skip

    def _retained(self, found: Measured, row: Mapping[int, float], wanted: Collection[str], last: bool) -> None:
        """What is left of earlier tasks, from a row of the forgetting matrix and the first task's features."""
        index, asked = self.task.index, {*OF_ROW, *OF_FIRST, "forward_transfer"} & {*wanted}
        if asked & {*OF_ROW} and (row or last):
            values, undefined = self.retained.of_matrix(index, row)
            found.put({k: v for k, v in values.items() if k in asked},
                      {k: why for k, why in undefined.items() if k in asked and last})  # fmt: skip
        if "forward_transfer" in asked:
            found.put(*self.retained.forward_transfer(index))
        if asked & {*OF_FIRST}:
            values_of, undefined_of = of_first(
                self.retained, self.network, self.data, self.seen, row.get(0), last, self.device
            )
            found.values |= values_of
            found.undefined |= undefined_of
        if last:
            self.retained.end(index, row)


def train(
    cohort: Cohort, data: Dataset, start: Start | None = None, weights: Sequence[Mapping[str, Tensor]] | None = None
) -> Iterator[Epoch]:
    """Train a cohort through its scenario, yielding after each epoch (and once untrained, as epoch 0).

    start    where to go on
    weights  parameters and buffers that runs begin with in place of their initialisation (probes)
    """
    scenario, optimizer = cohort.shared.scenario, cohort.shared.optimizer
    data = shown_by(scenario, data)
    nets, engine = begin(cohort, data)
    runs = [Run(spec, net, data, cohort.device) for spec, net in zip(cohort.specs, nets, strict=True)]
    for run, given in zip(runs, weights or [], strict=False):
        if given:  # a cold start has none
            run.load(given)
    position = Position() if start is None else _go_on(runs, engine, scenario, start)

    def state() -> list[State]:
        return [run.state(own) for run, own in zip(runs, engine.state(), strict=True)]

    def epoch(records: Iterable[EpochRecord | None]) -> Epoch:
        diverged, finished = (
            frozenset(r for r, run in enumerate(runs) if getattr(run, how)) for how in ("diverged", "finished")
        )
        notes, engine.notes[:] = tuple(engine.notes), []
        return Epoch(tuple(records), diverged, finished, position, state, notes)

    if start is None:
        for run in runs:
            run.enter(0)
            run.begin(again=True)
        yield epoch([run.untrained() for run in runs])
        for run in runs:
            run.seen.clear()

    for index in range(position.next_task, scenario.tasks):
        for run in runs:
            run.enter(index)
        phase, length = agreed("phase and length", ((run.task.phase, run.task.epochs) for run in runs))
        first = position.next_task_epoch
        if first == 1 and (changing := [r for r, run in enumerate(runs) if run.task.changes]):
            engine.change(f"{phase} {index}", changing)
        for run in runs:
            run.begin(again=first > 1)
        tasks = [run.task for run in runs]
        fresh = _Fresh(runs, cohort, tasks, length)
        for task_epoch in range(1, first):
            fresh.advance(task_epoch)
        for task_epoch in range(first, length + 1):
            rate = learning_rate(optimizer, task_epoch, length)
            active = [run for run in runs if not run.resting]
            if task_epoch == 1:
                for run in active:
                    run.measure_start()
            fresh.advance(task_epoch)
            progress = engine.train_epoch(tasks, [task.order(task_epoch) for task in tasks], rate, task_epoch)
            samples = agreed("samples", (own.samples for own in progress))
            position = replace(position, epoch=position.epoch + 1, samples_seen=position.samples_seen + samples)
            records = [
                None if run.resting else run.record(own, position, task_epoch, len(active))
                for run, own in zip(runs, progress, strict=True)
            ]
            last = task_epoch == length or all(run.stopped or run.resting for run in runs)
            position = replace(position, next_task=index + last, next_task_epoch=1 if last else task_epoch + 1)
            ending = [run.stopped and run.task.stop_accuracy is not None and not run.finished for run in runs]
            if any(ending):
                # the cohort goes on without it: what it was when it stopped is what is kept
                for run, ends, own in zip(runs, ending, state(), strict=True):
                    if ends:
                        run.held, run.finished = own, True
            yield epoch(records)
            if all(run.diverged for run in runs):
                return
            if last:
                break


def _at_start(address: Address) -> Address:
    """Where a value stands that was measured on the training split before a task's first step."""
    return Address(address.metric, "start", address.layer)


def _go_on(runs: Sequence[Run], engine: Engine, scenario: Any, start: Start) -> Position:
    """Put the runs of a cohort back to where they were."""
    engine_states = []
    for r, (run, saved) in enumerate(zip(runs, start.states, strict=True)):
        run.load(part(saved, "network."))
        engine_states.append(part(saved, "optimizer."))
        run.history = list(start.histories[r])
        run.diverged, run.finished = r in start.diverged, r in start.finished
        run.held = dict(saved) if run.finished else {}
        run.outputs = saved.get(OUTPUTS)
        run.retained.load(saved)
    engine.load_state(engine_states)
    position = start.position
    if scenario.fixed_length and position.next_task == scenario.tasks and scenario.horizon_field != "tasks":
        last = scenario.tasks - 1
        before = sum(scenario.task_epochs(index) for index in range(last))
        if position.epoch < before + scenario.task_epochs(last):  # its last task has become longer
            position = replace(position, next_task=last, next_task_epoch=position.epoch - before + 1)
    for run in runs:
        for index in range(position.next_task):
            run.enter(index)
    return position


def begin(cohort: Cohort, data: Dataset, stream: str = "initialisation") -> tuple[list[networks.Network], Engine]:
    """The cohort's networks as initialised from a random stream of that name, and the engine that will train them."""
    specs, shared = cohort.specs, cohort.shared
    nets = [build(spec, data, stream).to(cohort.device) for spec in specs]

    def fresh(r: int, purpose: str) -> networks.Network:
        return build(specs[r], data, stream if purpose == INITIALISATION else purpose).to(cohort.device)

    named = [one.id for one in shared.interventions]
    own = [parse(name) for name in getattr(shared.scenario, "own_interventions", ()) if name not in named]
    treatment = Treatment((*shared.interventions, *own), fresh)
    engine = ENGINES[cohort.engine](
        nets,
        shown_by(shared.scenario, data),
        shared.optimizer,
        cohort.device,
        treatment=treatment,
        precision=shared.precision,
    )
    return nets, engine


def begun(
    specs: Sequence[RunSpec], nets: Sequence[networks.Network], data: Dataset, device: str, index: int = 0
) -> list[Task]:  # fmt: skip
    """A task of each run, given what its network now predicts."""
    found = []
    for spec, network in zip(specs, nets, strict=True):
        run = Run(spec, network, shown_by(spec.scenario, data), device)
        run.enter(index)
        run.begin(again=True)
        found.append(run.task)
    return found


class _Fresh:
    """Freshly initialised networks of the runs that ask for one, on the same task in the same order."""

    def __init__(self, runs: Sequence[Run], cohort: Cohort, tasks: Sequence[Task], length: int) -> None:
        asked = ["fresh_gap" in chosen(run.spec.measure.metrics) for run in runs]
        whole = any(run.spec.measure.fresh_over == "task" for run in runs)
        self._epochs = (length if whole else 1) if any(asked) else 0
        self._runs, self._asked, self._tasks, self._length = runs, asked, tasks, length
        self._optimizer = cohort.shared.optimizer
        if self._epochs:
            phase, index = agreed("phase and index", ((task.phase, task.index) for task in tasks))
            _, self._engine = begin(cohort, runs[0].data, f"fresh network {phase} {index}")

    def advance(self, task_epoch: int) -> None:
        """Train them for the epoch that their runs are about to train, if it is looked at."""
        if task_epoch > self._epochs:
            return
        rate = learning_rate(self._optimizer, task_epoch, self._length)
        orders = [task.order(task_epoch) for task in self._tasks]
        progress = self._engine.train_epoch(self._tasks, orders, rate, task_epoch)
        for run, asked, own in zip(self._runs, self._asked, progress, strict=True):
            if asked and own.correct is not None:
                run.fresh.append(own.accuracy)


def build(spec: RunSpec, data: Dataset, stream: str = "initialisation") -> networks.Network:
    """The run's network as initialised."""
    shape = spec.network
    return networks.build(
        shape.name, data.shape, outputs_of(spec, data), spec.seed, precision=spec.precision, stream=stream,
        statistics=None if shape.name == "mlp" else data.channel_statistics,
        width=shape.width, depth=shape.depth, activation=shape.activation, norm=shape.norm, init=shape.init,
    )  # fmt: skip


def learning_rate(optimizer: OptimizerSpec, task_epoch: int, epochs: int) -> float:
    """The rate of an epoch: schedules run over the epochs of a task and start anew with each task.

    constant; cosine: lr (1 + cos(pi (e-1)/E)) / 2; step:EVERY:FACTOR: lr FACTOR^floor((e-1)/EVERY);
    step:AT/AT:FACTOR: lr FACTOR^(how many of AT are over).
    """
    kind, *parts = optimizer.lr_schedule.split(":")
    if kind == "cosine":
        return optimizer.lr * (1 + math.cos(math.pi * (task_epoch - 1) / epochs)) / 2
    if kind == "step":
        at = [int(part) for part in parts[0].split("/")]
        past = (task_epoch - 1) // at[0] if len(at) == 1 else sum(task_epoch > epoch for epoch in at)
        return optimizer.lr * float(parts[1]) ** past
    return optimizer.lr


def part(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors of a state whose names begin with a prefix (`network.`, `optimizer.`), without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
