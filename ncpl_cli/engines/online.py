"""Online engine: compiled per-sample or small-batch SGD for ReLU MLPs on the CPU, one core a run."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli import refusals
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.data.rows import aligned
from ncpl_cli.data.sparse import padded, sparse
from ncpl_cli.engines.engine import Progress
from ncpl_cli.engines.online_kernel import CLASSES, LABELS, NUMBERS, SMOOTHED, kernel
from ncpl_cli.engines.shown import Shown
from ncpl_cli.engines.stacked import BLOCK_ROWS
from ncpl_cli.engines.unit_memory import UnitMemory
from ncpl_cli.errors import InputError
from ncpl_cli.interventions import Intervention, Treatment
from ncpl_cli.interventions.recycling import ContinualBackprop
from ncpl_cli.networks import MLP
from ncpl_cli.networks.hidden_units import unit_layers
from ncpl_cli.objectives import MSE, CrossEntropy
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec


class OnlineEngine:
    """Compiled per-sample SGD for ReLU MLPs on the CPU.

    Skips zero pixels and inactive units exactly. Releases the GIL, so runs on several threads use several cores;
    a run's bits depend on nothing but itself.
    """

    def __init__(
        self, networks: Sequence[nn.Module], data: Dataset, optimizer: OptimizerSpec, device: str,
        *, treatment: Treatment = Treatment(), precision: str = "float32",
    ) -> None:  # fmt: skip
        assert device == "cpu" and precision in ("float32", "float64")
        self.networks = networks
        for network in networks:  # the modules train nothing: whoever looks at them need not change their mode
            network.eval()
        self.notes: list[str] = []
        self._optimizer = optimizer
        self._dtype = next(networks[0].parameters()).detach().numpy().dtype
        self._images = sparse(data.train, data.scale, self._dtype)
        self._outputs = cast(MLP, networks[0]).classifier.out_features
        self._treatment = treatment
        self._steps = 0
        towards = any((pull := one.pull()) and pull[1] for one in treatment.interventions if not one.idle)
        self._initial = [copy.deepcopy(cast(MLP, network)) for network in networks] if towards else []
        self._data = data
        self._shown = Shown(len(networks), max((one.looks_at for one in treatment.interventions), default=0))
        self._memory = UnitMemory(networks[0], len(networks), treatment.interventions)
        self._layers = unit_layers(networks[0]) if self._memory else []
        self._drawn: tuple[int, str, Any] = -1, "", None  # the fresh network of a run that a stream has given last

    refuses = staticmethod(refusals.online)

    def train_epoch(
        self, tasks: Sequence[Task], orders: Sequence[NDArray[np.int64]], lr: float, task_epoch: int = 1
    ) -> list[Progress]:
        """One pass over `orders[r]` of `tasks[r]` for each run, one after another."""
        if any(task.augmentation is not None for task in tasks):
            raise InputError("the online engine does not move images.", "--engine stacked")
        acting = self._treatment.acting(tasks[0].phase, tasks[0].index)
        pulls = [pull for one in acting if (pull := one.pull())]
        strength = self._optimizer.weight_decay + sum(weight for weight, _ in pulls)
        share = sum(weight for weight, towards in pulls if towards) / strength if strength else 0.0
        found = [
            self._train(run, task, order, lr, strength, share, acting)
            for run, (task, order) in enumerate(zip(tasks, orders, strict=True))
        ]
        self._steps += -(-len(orders[0]) // self._optimizer.batch_size)
        return found

    def _train(
        self, run: int, task: Task, order: NDArray[np.int64], lr: float, strength: float, share: float,
        acting: Sequence[Intervention],
    ) -> Progress:  # fmt: skip
        """One pass of one run; `share` is the part of the initialisation that the weights are pulled towards."""
        began = time.perf_counter()
        network, batch = cast(MLP, self.networks[run]), self._optimizer.batch_size
        recyclers = [one for one in acting if one.every]
        renewing = next((one for one in acting if isinstance(one, ContinualBackprop)), None)
        pull = (2 if share else 1) if strength else 0
        goal = self._gather(self._initial[run], task.pixel_order, share) if pull == 2 else self._nothing
        buffers = self._gather(network, task.pixel_order)
        asks, smoothing = _asks(task)
        numbers = np.zeros((1, 1)) if asks != NUMBERS else task.targets["trained"]
        numbers = np.ascontiguousarray(numbers, self._dtype)
        correct, loss, recycled, done, looked = 0, 0.0, 0, 0, 0
        while done < len(order):
            steps = min((one.every - (self._steps + done // batch) % one.every for one in recyclers if one.every),
                        default=len(order))  # fmt: skip
            part = order[done : done + steps * batch]
            units = self._units(run, renewing)
            right, lost, count = kernel(*buffers["w_out"].shape, pull, batch == 1, asks, renewing is not None)(
                part, self._images.starts, self._images.pixels, self._images.values, task.train_labels,
                numbers, self._dtype.type(smoothing),
                buffers["w1"], buffers["hidden"], buffers["w_out"], buffers["biases"], buffers["b_out"],
                self._dtype.type(lr), batch, self._outputs, self._dtype.type(strength),
                goal["w1"], goal["hidden"], goal["w_out"], goal["biases"], goal["b_out"], *units,
            )  # fmt: skip
            correct, loss, done = correct + int(right), loss + float(lost), done + int(count)
            taken = -(-done // batch)
            due = [one for one in recyclers if one.every and (self._steps + taken) % one.every == 0]
            renews = renewing is not None and self._remember(run, units)
            if (due and done % batch == 0) or renews:
                self._scatter(network, task.pixel_order, buffers)
                if renewing is not None and renews:
                    block = max(1, BLOCK_ROWS // batch) if done % batch == 0 else 1
                    recycled += self._renew(run, renewing, taken - 1 - (taken - 1 - looked) % block)
                if due and done % batch == 0:
                    recycled += self._recycle(run, network, task, due, order[:done])
                    looked = taken
                buffers = self._gather(network, task.pixel_order)
        self._shown.add(run, order, task.pixel_order)
        # a sparse loop never multiplies by the zeros that would turn an infinity into NaN: look for both
        finite = math.isfinite(loss) and all(bool(np.isfinite(buffer).all()) for buffer in buffers.values())
        self._scatter(network, task.pixel_order, buffers)
        counts = renewing is not None or any(one.id == "redo" for one in recyclers)
        return Progress(
            None if task.regression else correct,
            loss / len(order),
            len(order),
            time.perf_counter() - began,
            finite,
            {"recycled_units": float(recycled)} if counts else {},
        )

    def _units(self, run: int, one: ContinualBackprop | None) -> tuple[Any, ...]:
        """What the kernel keeps of a run's units: utility and age (L, width), replacements due (L,); and its rule."""
        zero = self._dtype.type(0)
        if one is None:
            none = self._nothing
            return none["biases"], none["biases"], none["b_out"], np.zeros(1, np.float32), zero, zero
        own, layers = self._memory.of[one.id], range(len(self._layers))
        utility, age, due = (
            np.stack([own[f"{name}.{layer}"][run].numpy() for layer in layers]) for name in ("utility", "age", "due")
        )
        dues = one.dues(utility.shape[1]).numpy()
        return utility, age, due[:, 0].copy(), dues, self._dtype.type(one.decay), self._dtype.type(one.maturity)

    def _remember(self, run: int, units: tuple[Any, ...]) -> bool:
        """Take back what `_units` gave, after some steps; whether a unit is to begin anew."""
        own = self._memory.live(run)
        for name, kept in zip(("utility", "age", "due"), units, strict=False):
            for layer, value in enumerate(kept):
                own[f"{name}.{layer}"].copy_(torch.as_tensor(value))
        return bool((units[2] >= 1).any())

    def _renew(self, run: int, one: ContinualBackprop, step: int) -> int:
        """Let units begin anew; how many. `step` of the epoch begins the block whose steps draw from one stream of
        random numbers, as they do in the stacked engine."""
        purpose = f"{one.id} step {self._steps + step}"
        own = {name: value[run : run + 1] for name, value in self._memory.of[one.id].items()}
        live = self._treatment.run(run, self.networks[run], {}, purpose, None, self._memory.live(run))
        if self._drawn[:2] != (run, purpose):
            self._drawn = run, purpose, live.fresh()
        return one.renew(own, self._layers, lambda _: replace(live, fresh=lambda: self._drawn[2]))[0]

    def _recycle(
        self, run: int, network: MLP, task: Task, due: Sequence[Intervention], shown: NDArray[np.int64]
    ) -> int:
        """Let interventions look at a run between two steps; units recycled."""
        x = None
        if any(one.looks_at for one in due):
            parts = self._shown.last(run, shown, task.pixel_order)
            images = [self._data.train.images[part.index].reshape(len(part.index), -1) for part in parts]
            ordered = [
                seen if part.pixel_order is None else seen[:, part.pixel_order]
                for seen, part in zip(images, parts, strict=True)
            ]
            x = torch.from_numpy((np.concatenate(ordered) / self._data.scale).astype(self._dtype))
        purpose = f"step {self._steps + len(shown) // self._optimizer.batch_size}"
        return sum(
            one.recycle(self._treatment.run(run, network, {}, f"{one.id} {purpose}", x, self._memory.live(run)))
            for one in due
        )  # fmt: skip

    @functools.cached_property
    def _nothing(self) -> dict[str, NDArray[Any]]:
        """Empty targets, where nothing pulls towards any."""
        shapes = {"w1": 2, "hidden": 3, "w_out": 2, "biases": 2, "b_out": 1}
        return {name: np.zeros((1,) * dimensions, self._dtype) for name, dimensions in shapes.items()}

    def _gather(
        self, network: MLP, pixel_order: NDArray[np.int64] | None, share: float = 1.0
    ) -> dict[str, NDArray[Any]]:
        """The parameters (a share of them) as the kernel reads them: rows are inputs, padded, in image pixel order.

        The network sees x[:, pixel_order], and x[:, pixel_order] @ W == x @ V with V[pixel_order] = W: the task's
        permutation is put into the weights, so all tasks and runs share one copy of the images.
        """
        linears = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
        width, outputs = padded(linears[0].out_features), padded(network.classifier.out_features)
        w1 = self._zeros(linears[0].in_features, width)
        w1[slice(None) if pixel_order is None else pixel_order, : linears[0].out_features] = _numpy(linears[0].weight).T
        hidden = self._zeros(max(1, len(linears) - 1), width, width)
        for matrix, layer in zip(hidden, linears[1:], strict=False):
            matrix[: layer.in_features, : layer.out_features] = _numpy(layer.weight).T
        biases = self._zeros(len(linears), width)
        for row, layer in zip(biases, linears, strict=True):
            row[: layer.out_features] = _numpy(layer.bias)
        w_out, b_out = self._zeros(width, outputs), self._zeros(outputs)
        classifier = network.classifier
        w_out[: classifier.in_features, : classifier.out_features] = _numpy(classifier.weight).T
        b_out[: classifier.out_features] = _numpy(classifier.bias)
        buffers = {"w1": w1, "hidden": hidden, "w_out": w_out, "biases": biases, "b_out": b_out}
        for buffer in buffers.values() if share != 1 else ():
            buffer *= self._dtype.type(share)
        return buffers

    def _zeros(self, *shape: int) -> NDArray[Any]:
        return aligned(shape, self._dtype)

    def _scatter(
        self, network: MLP, pixel_order: NDArray[np.int64] | None, buffers: Mapping[str, NDArray[Any]]
    ) -> None:
        """Write the kernel's parameters back into the network, in place."""
        linears = [layer for layer in network.hidden if isinstance(layer, nn.Linear)]
        w1 = buffers["w1"] if pixel_order is None else buffers["w1"][pixel_order]
        _numpy(linears[0].weight)[...] = w1[:, : linears[0].out_features].T
        for matrix, layer in zip(buffers["hidden"], linears[1:], strict=False):
            _numpy(layer.weight)[...] = matrix[: layer.in_features, : layer.out_features].T
        for row, layer in zip(buffers["biases"], linears, strict=True):
            _numpy(layer.bias)[...] = row[: layer.out_features]
        classifier = network.classifier
        _numpy(classifier.weight)[...] = buffers["w_out"][: classifier.in_features, : classifier.out_features].T
        _numpy(classifier.bias)[...] = buffers["b_out"][: classifier.out_features]

    def state(self) -> list[dict[str, Tensor]]:
        """Plain SGD remembers nothing; what happens every so many steps needs their count."""
        counted = bool(self._memory) or any(one.every for one in self._treatment.interventions)
        return [
            {f"treated.{name}": value for name, value in self._shown.state(run).items()}
            | ({"treated.steps": torch.tensor(self._steps)} if counted else {})
            | {name: value.clone() for name, value in self._memory.state(run).items()}
            for run in range(len(self.networks))
        ]

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned."""
        self._steps = int(states[0].get("treated.steps", 0))
        for run, saved in enumerate(states):
            self._shown.load(run, {name.removeprefix("treated."): value for name, value in saved.items()})
        self._memory.load(states)

    def change(self, purpose: str, which: Collection[int] | None = None) -> None:
        """Let the interventions do what they do at a change of task or phase, to some runs (default: all)."""
        self._treatment.change(self.networks, lambda _: {}, purpose, which, self._memory.live)


def _asks(task: Task) -> tuple[int, float]:
    """What the kernel is to ask, and how far its labels are smoothed."""
    if isinstance(task.objective, CrossEntropy):
        return (SMOOTHED if task.objective.smoothing else CLASSES), task.objective.smoothing
    assert isinstance(task.objective, MSE)
    return (NUMBERS if task.regression else LABELS), 0.0


def _numpy(parameter: torch.Tensor) -> NDArray[Any]:
    return parameter.detach().numpy()
