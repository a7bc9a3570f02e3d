"""The only training loop. It reads from top to bottom and knows neither disk nor SQL.

    for task in tasks: each epoch: engine.train_epoch -> snapshot -> metrics -> EpochRecord   (x R runs)

`train` is a generator: whoever drives it decides when the next epoch happens, saves the records and, between
epochs, takes the state for a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines import ENGINES, Progress
from ncpl_cli.errors import InputError
from ncpl_cli.metrics import Measured, measure
from ncpl_cli.metrics.catalogue import AT_START, chosen
from ncpl_cli.metrics.history import plasticity
from ncpl_cli.metrics.snapshot import Snapshot, task_accuracy
from ncpl_cli.plan import Cohort
from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.scenarios import Task
from ncpl_cli.spec import OptimizerSpec, RunSpec

State = dict[str, Tensor]
"""What a checkpoint holds of one run: `network.*` and `optimizer.*`."""

History = list[tuple[int, int, float]]
"""(task, task_epoch, online_accuracy) of every epoch so far."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands after an epoch. `next_task` and `next_task_epoch` say what comes."""

    epoch: int = 0
    samples_seen: int = 0
    next_task: int = 0
    next_task_epoch: int = 1
    diverged: bool = False


@dataclass(frozen=True)
class Start:
    """Where to go on: the position, and each run's state and history up to it."""

    position: Position
    states: Sequence[Mapping[str, Tensor]]
    histories: Sequence[History]
    diverged: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Epoch:
    """One epoch of a cohort: a record for each run, None for those that diverged before.

    state()  each run's state; to be taken before the next epoch is asked for
    """

    records: tuple[EpochRecord | None, ...]
    diverged: frozenset[int]
    position: Position
    state: Callable[[], list[State]]


def train(cohort: Cohort, data: Dataset, tasks: int, start: Start | None = None) -> Iterator[Epoch]:
    """Train a cohort through `tasks` tasks, yielding after each epoch (and once untrained, as epoch 0)."""
    specs, scenario, settings = cohort.specs, cohort.specs[0].scenario, cohort.specs[0].optimizer
    nets = [build(spec, data).to(cohort.device) for spec in specs]
    initial = [{name: value.detach().clone() for name, value in net.named_parameters()} for net in nets]
    engine = ENGINES[cohort.engine](nets, data, settings, cohort.device)
    histories: list[History] = [[] for _ in specs]
    diverged: frozenset[int] = frozenset()
    position = Position()

    def state() -> list[State]:
        optimizers = engine.state()
        return [
            {f"network.{name}": value.detach().cpu().clone() for name, value in net.state_dict().items()}
            | {f"optimizer.{name}": value for name, value in optimizer.items()}
            for net, optimizer in zip(nets, optimizers, strict=True)
        ]

    if start is not None:
        for net, saved in zip(nets, start.states, strict=True):
            with torch.no_grad():
                for name, value in net.state_dict().items():
                    value.copy_(saved[f"network.{name}"])
        engine.load_state([_part(saved, "optimizer.") for saved in start.states])
        histories = [list(history) for history in start.histories]
        position, diverged = start.position, start.diverged

    seen = [[scenario.task(i, data, spec.seed) for i in range(position.next_task)] for spec in specs]
    if start is None:
        first = [scenario.task(0, data, spec.seed) for spec in specs]
        yield Epoch(
            tuple(
                untrained(s, n, data, t, i, cohort.device)
                for s, n, t, i in zip(specs, nets, first, initial, strict=True)
            ),
            diverged,
            position,
            state,
        )

    for index in range(position.next_task, tasks):
        now = [scenario.task(index, data, spec.seed) for spec in specs]
        for r, task in enumerate(now):
            seen[r].append(task)
        task_epoch = position.next_task_epoch
        while task_epoch <= now[0].epochs:
            rate = learning_rate(settings, task_epoch, now[0].epochs)
            starts = [
                _at_start(spec, net, data, task, cohort.device) if task_epoch == 1 and r not in diverged else Measured()
                for r, (spec, net, task) in enumerate(zip(specs, nets, now, strict=True))
            ]
            progress = engine.train_epoch(now, [task.order(task_epoch) for task in now], rate)
            samples_seen = position.samples_seen + progress[0].samples
            begun = frozenset(diverged)
            diverged |= {r for r, p in enumerate(progress) if not p.finite}
            records: list[EpochRecord | None] = []
            stop = False
            for r, spec in enumerate(specs):
                if r in begun:
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
                    epoch=position.epoch + 1,
                    task_epoch=task_epoch,
                    samples_seen=samples_seen,
                    share=len(specs),
                    device=cohort.device,
                )
                records.append(record)
                stop = stop or enough
            last = stop or task_epoch == now[0].epochs
            position = Position(
                position.epoch + 1, samples_seen, index + 1 if last else index, 1 if last else task_epoch + 1
            )
            yield Epoch(tuple(records), diverged, position, state)
            if len(diverged) == len(specs):
                return
            if last:
                break
            task_epoch += 1


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
    *,
    epoch: int,
    task_epoch: int,
    samples_seen: int,
    share: int,
    device: str,
) -> tuple[EpochRecord, bool]:
    """Measure one run after an epoch; also whether its task has reached the nc1 it was to stop at."""
    began = time.perf_counter()
    history.append((task.index, task_epoch, progress.correct / progress.samples))
    values: dict[Address, float] = {Address("online_accuracy"): history[-1][2], **start.values}
    undefined: dict[Address, str] = dict(start.undefined)
    if math.isfinite(progress.loss):
        values[Address("online_loss")] = progress.loss
    else:
        undefined[Address("online_loss")] = "not finite"
    stop, accuracies = False, {}
    if not progress.finite:
        undefined[Address("nc1")] = "the run diverged: parameters are not finite"
    else:
        due = epoch % spec.measure.every == 0 or task_epoch == task.epochs or task.stop_nc1 is not None
        if due:
            snapshot = Snapshot(net, data, task, initial, device, spec.measure.samples, spec.optimizer.lr)
            measured = measure(snapshot, tuple(chosen(spec.measure.metrics) - AT_START), spec.measure.layers)
            values |= measured.values
            undefined |= measured.undefined
        nc1 = values.get(Address("nc1"))
        stop = task.stop_nc1 is not None and nc1 is not None and nc1 < task.stop_nc1
        which = spec.measure.task_accuracy
        if which == "every" or (which == "end" and (stop or task_epoch == task.epochs)):
            accuracies = task_accuracy(net, data, seen, spec.measure.task_accuracy_samples, device)
    last = stop or task_epoch == task.epochs
    lost, reasons = plasticity(history, is_last_epoch=last)
    values |= {Address(name): value for name, value in lost.items()}
    undefined |= {Address(name): reason for name, reason in reasons.items()}
    if task.index not in accuracies and (test := values.get(Address("test_accuracy"))) is not None:
        accuracies[task.index] = test
    return EpochRecord(
        epoch, task.index, task_epoch, samples_seen, progress.seconds / share, time.perf_counter() - began,
        values, undefined, accuracies,
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
    measured = measure(
        Snapshot(net, data, task, initial, device, spec.measure.samples, spec.optimizer.lr),
        spec.measure.metrics,
        spec.measure.layers,
    )
    undefined = dict(measured.undefined)
    for name in ("online_accuracy", "online_loss", "plasticity_loss", "plasticity_loss_b24"):
        undefined[Address(name)] = "untrained"
    return EpochRecord(0, 0, 0, 0, 0.0, time.perf_counter() - began, measured.values, undefined)


def build(spec: RunSpec, data: Dataset, stream: str = "initialisation") -> networks.Network:
    """The run's network as initialised."""
    shape = spec.network
    if shape.name not in networks.NETWORKS:
        raise InputError(f"unknown network {shape.name!r}.")
    return networks.build(
        shape.name, data.shape, data.classes, spec.seed, precision=spec.precision, stream=stream,
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


def _part(tensors: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
