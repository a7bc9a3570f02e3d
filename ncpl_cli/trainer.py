"""The only training loop. It reads from top to bottom and knows neither disk nor SQL.

    for task in tasks: each epoch: engine.train_epoch -> snapshot -> metrics -> EpochRecord   (x R runs)

`train` is a generator: whoever drives it decides when the next epoch happens, saves the records and, between
epochs, takes the state for a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines import ENGINES, Engine, Progress
from ncpl_cli.interventions import Treatment
from ncpl_cli.metrics import Measured, measure
from ncpl_cli.metrics.catalogue import AT_START, chosen
from ncpl_cli.metrics.forgetting import evaluated_tasks, task_accuracy
from ncpl_cli.metrics.history import plasticity
from ncpl_cli.metrics.snapshot import Snapshot
from ncpl_cli.objectives import REGRESSION
from ncpl_cli.plan import Cohort
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.scenarios import Task, outputs_of, task_of
from ncpl_cli.spec import OptimizerSpec, RunSpec

State = dict[str, Tensor]
"""What a checkpoint holds of one run: `network.*` and `optimizer.*`."""

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

    state()  each run's state; to be taken before the next epoch is asked for
    """

    records: tuple[EpochRecord | None, ...]
    diverged: frozenset[int]
    finished: frozenset[int]
    position: Position
    state: Callable[[], list[State]]


def train(
    cohort: Cohort, data: Dataset, start: Start | None = None, weights: Sequence[Mapping[str, Tensor]] | None = None
) -> Iterator[Epoch]:
    """Train a cohort through its scenario, yielding after each epoch (and once untrained, as epoch 0).

    start    where to go on
    weights  parameters and buffers that runs begin with in place of their initialisation (probes)
    """
    specs, scenario, settings = cohort.specs, cohort.specs[0].scenario, cohort.specs[0].optimizer
    nets, engine = begin(cohort, data)
    initial = [{name: value.detach().clone() for name, value in net.named_parameters()} for net in nets]
    for net, given in zip(nets, weights or [], strict=False):
        if given:  # a cold start has none
            _put(net, given)
    histories: list[History] = [[] for _ in specs]
    diverged: frozenset[int] = frozenset()
    finished: frozenset[int] = frozenset()
    held: dict[int, State] = {}
    position = Position()

    def state() -> list[State]:
        optimizers = engine.state()
        return [
            held.get(r)
            or {f"network.{name}": value.detach().cpu().clone() for name, value in net.state_dict().items()}
            | {f"optimizer.{name}": value for name, value in optimizer.items()}
            for r, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True))
        ]

    if start is not None:
        for net, saved in zip(nets, start.states, strict=True):
            _put(net, part(saved, "network."))
        engine.load_state([part(saved, "optimizer.") for saved in start.states])
        histories = [list(history) for history in start.histories]
        position, diverged, finished = start.position, start.diverged, start.finished
        held = {r: dict(start.states[r]) for r in finished}
        only = scenario.fixed_length and position.next_task == scenario.tasks == 1
        if only and position.epoch < scenario.task_epochs(0):  # its only task has become longer
            position = replace(position, next_task=0, next_task_epoch=position.epoch + 1)

    seen = [[task_of(spec, i, data) for i in range(position.next_task)] for spec in specs]
    if start is None:
        first = [task_of(spec, 0, data) for spec in specs]
        yield Epoch(
            tuple(
                untrained(s, n, data, t, i, cohort.device)
                for s, n, t, i in zip(specs, nets, first, initial, strict=True)
            ),
            diverged,
            finished,
            position,
            state,
        )

    for index in range(position.next_task, scenario.tasks):
        now = [task_of(spec, index, data) for spec in specs]
        for r, task in enumerate(now):
            seen[r].append(task)
        task_epoch = position.next_task_epoch
        if task_epoch == 1 and now[0].changes:
            engine.change(f"{now[0].phase} {index}")
        fresh = _fresh_accuracies(cohort, data, now)
        stopped: frozenset[int] = frozenset()
        while task_epoch <= now[0].epochs:
            rate = learning_rate(settings, task_epoch, now[0].epochs)
            resting = diverged | finished
            starts = [
                _at_start(spec, net, data, task, cohort.device) if task_epoch == 1 and r not in resting else Measured()
                for r, (spec, net, task) in enumerate(zip(specs, nets, now, strict=True))
            ]
            progress = engine.train_epoch(now, [task.order(task_epoch) for task in now], rate)
            samples_seen = position.samples_seen + progress[0].samples
            diverged |= {r for r, p in enumerate(progress) if not p.finite and r not in finished}
            records: list[EpochRecord | None] = []
            for r, spec in enumerate(specs):
                if r in resting:
                    records.append(None)
                    continue
                record, enough = _record(
                    spec,
                    nets[r],
                    data,
                    now[r],
                    seen[r],
                    initial[r],
                    histories[r],
                    progress[r],
                    starts[r],
                    fresh[r],
                    epoch=position.epoch + 1,
                    task_epoch=task_epoch,
                    samples_seen=samples_seen,
                    share=len(specs) - len(resting),
                    device=cohort.device,
                )
                records.append(record)
                if enough:
                    stopped |= {r}
            last = task_epoch == now[0].epochs or len(stopped | diverged) == len(specs)
            position = Position(
                position.epoch + 1, samples_seen, index + 1 if last else index, 1 if last else task_epoch + 1
            )
            if now[0].stop_accuracy is not None and (newly := stopped - finished):
                # the cohort goes on without it: what it was when it stopped is what is kept
                states = state()
                held |= {r: states[r] for r in newly}
                finished |= newly
            yield Epoch(tuple(records), diverged, finished, position, state)
            if len(diverged) == len(specs):
                return
            if last:
                break
            task_epoch += 1


def begin(cohort: Cohort, data: Dataset, stream: str = "initialisation") -> tuple[list[networks.Network], Engine]:
    """The cohort's networks as initialised from a random stream of that name, and the engine that will train them."""
    specs = cohort.specs
    nets = [build(spec, data, stream).to(cohort.device) for spec in specs]
    treatment = Treatment(
        specs[0].interventions, lambda r, purpose: build(specs[r], data, purpose).to(cohort.device)
    )  # fmt: skip
    engine = ENGINES[cohort.engine](
        nets, data, specs[0].optimizer, cohort.device, treatment=treatment, precision=specs[0].precision
    )
    return nets, engine


def _put(net: networks.Network, saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in net.state_dict().items():
            value.copy_(saved[name])


def _fresh_accuracies(cohort: Cohort, data: Dataset, tasks: Sequence[Task]) -> list[float | None]:
    """First-epoch online accuracy of a freshly initialised network of each run on its task, in the same data order."""
    if "fresh_gap" not in chosen(cohort.specs[0].measure.metrics):
        return [None] * len(tasks)
    _, engine = begin(cohort, data, f"fresh network {tasks[0].phase} {tasks[0].index}")
    spec = cohort.specs[0]
    rate = learning_rate(spec.optimizer, 1, tasks[0].epochs)
    progress = engine.train_epoch(tasks, [task.order(1) for task in tasks], rate)
    return [None if p.correct is None else p.accuracy for p in progress]


def _record(
    spec: RunSpec,
    net: networks.Network,
    data: Dataset,
    task: Task,
    seen: Sequence[Task],
    initial: Mapping[str, Tensor],
    history: History,
    progress: Progress,
    start: Measured,
    fresh: float | None,
    *,
    epoch: int,
    task_epoch: int,
    samples_seen: int,
    share: int,
    device: str,
) -> tuple[EpochRecord, bool]:
    """Measure one run after an epoch; also whether its task has reached what it was to stop at."""
    began = time.perf_counter()
    history.append((task.index, task_epoch, progress.accuracy))
    values: dict[Address, float] = dict(start.values)
    undefined: dict[Address, str] = dict(start.undefined)
    if progress.correct is None:
        undefined |= {Address("online_accuracy"): REGRESSION, Address("fresh_gap"): REGRESSION}
    else:
        values[Address("online_accuracy")] = progress.accuracy
    costs = dict(start.seconds)
    counts: Mapping[str, Mapping[str, float]] = {}
    if math.isfinite(progress.loss):
        values[Address("online_loss")] = progress.loss
    else:
        undefined[Address("online_loss")] = "not finite"
    values |= {Address(name): value for name, value in progress.extra.items()}
    accuracies: dict[int, float] = {}
    stop = task.stop_accuracy is not None and history[-1][2] > task.stop_accuracy
    if not progress.finite:
        undefined[Address("nc1")] = "the run diverged: parameters are not finite"
    else:
        due = epoch % spec.measure.every == 0 or stop or task_epoch == task.epochs or task.stop_nc1 is not None
        if due:
            snapshot = Snapshot(net, data, task, initial, device, spec.measure.samples, spec.optimizer.lr)
            measured = measure(snapshot, tuple(chosen(spec.measure.metrics) - AT_START), spec.measure.layers)
            values |= measured.values
            undefined |= measured.undefined
            costs |= measured.seconds
            counts = measured.counts
        nc1 = values.get(Address("nc1"))
        stop = stop or (task.stop_nc1 is not None and nc1 is not None and nc1 < task.stop_nc1)
        # else there is only one, and its test accuracy is measured anyway
        if task.phase == "task" and not task.regression:
            tested = evaluated_tasks(spec.measure.task_accuracy, task.index, stop or task_epoch == task.epochs)
            accuracies = task_accuracy(
                net, data, [seen[i] for i in tested], spec.measure.task_accuracy_samples, device
            )  # fmt: skip
    last = stop or task_epoch == task.epochs
    lost, reasons = plasticity(history, is_last_epoch=last)
    values |= {Address(name): value for name, value in lost.items()}
    undefined |= {Address(name): reason for name, reason in reasons.items()}
    if fresh is not None:
        own = next(accuracy for of, at, accuracy in history if (of, at) == (task.index, 1))
        values[Address("fresh_gap")] = fresh - own
    if task.index not in accuracies and (test := values.get(Address("test_accuracy"))) is not None:
        accuracies[task.index] = test
    return EpochRecord(
        epoch, task.index, task_epoch, samples_seen, progress.seconds / share, time.perf_counter() - began,
        values, undefined, accuracies, costs, counts,
    ), stop  # fmt: skip


def _at_start(spec: RunSpec, net: networks.Network, data: Dataset, task: Task, device: str) -> Measured:
    """What is measured before a task's first epoch, on that task."""
    metrics = tuple(chosen(spec.measure.metrics) & AT_START)
    return measure(Snapshot(net, data, task, None, device, spec.measure.samples), metrics) if metrics else Measured()


def untrained(
    spec: RunSpec, net: networks.Network, data: Dataset, task: Task, initial: Mapping[str, Tensor], device: str
) -> EpochRecord:
    """Epoch 0: the network as initialised, measured on the first task."""
    began = time.perf_counter()
    if task.phase == "probe":  # its parent's row of that epoch has it all
        return EpochRecord(0, 0, 0, 0, 0.0, 0.0, {})
    measured = measure(
        Snapshot(net, data, task, initial, device, spec.measure.samples, spec.optimizer.lr),
        spec.measure.metrics,
        spec.measure.layers,
    )
    undefined = dict(measured.undefined)
    for name in ("online_accuracy", "online_loss", "plasticity_loss", "plasticity_loss_b24"):
        undefined[Address(name)] = "untrained"
    took = time.perf_counter() - began
    return EpochRecord(0, 0, 0, 0, 0.0, took, measured.values, undefined, costs=measured.seconds)


def build(spec: RunSpec, data: Dataset, stream: str = "initialisation") -> networks.Network:
    """The run's network as initialised."""
    shape = spec.network
    return networks.build(
        shape.name, data.shape, outputs_of(spec, data), spec.seed, precision=spec.precision, stream=stream,
        statistics=None if shape.name == "mlp" else data.channel_statistics,
        width=shape.width, depth=shape.depth, activation=shape.activation, norm=shape.norm,
    )  # fmt: skip


def learning_rate(optimizer: OptimizerSpec, task_epoch: int, epochs: int) -> float:
    """The rate of an epoch: schedules run over the epochs of a task and start anew with each task.

    constant; cosine: lr (1 + cos(pi (e-1)/E)) / 2; step:EVERY:FACTOR: lr FACTOR^floor((e-1)/EVERY).
    """
    kind, *parts = optimizer.lr_schedule.split(":")
    if kind == "cosine":
        return optimizer.lr * (1 + math.cos(math.pi * (task_epoch - 1) / epochs)) / 2
    if kind == "step":
        return optimizer.lr * float(parts[1]) ** ((task_epoch - 1) // int(parts[0]))
    return optimizer.lr


def part(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors of a state whose names begin with a prefix (`network.`, `optimizer.`), without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
