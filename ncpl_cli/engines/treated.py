"""Interventions on R stacked runs: loss terms, what happens after a step, between two steps, and at a change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ncpl_cli.engines.shown import Shown
from ncpl_cli.engines.stack import Stack
from ncpl_cli.engines.unit_memory import UnitMemory
from ncpl_cli.interventions import Batch, Intervention, Run, Treatment
from ncpl_cli.interventions.recycling import ContinualBackprop
from ncpl_cli.networks import MLP
from ncpl_cli.networks.hidden_units import fan_out, unit_layers
from ncpl_cli.scenarios.task import Task


class Treated:
    """What the interventions of a cohort do during an epoch of a stacked engine.

    initial  the stacked parameters as the runs were initialised, where something pulls towards them, else empty
    shown    the samples trained on last, as many as anybody looks at
    renews_units  whether somebody makes single units anew
    seen     (3, R) on the device: steps of penalties that need classes, of them skipped, classes that counted
    unit_layers  the hidden units, where somebody looks at them every step
    decay    what penalties that pull towards zero add to weight decay, where the step by hand carries them
    """

    def __init__(
        self, stack: Stack, networks: Sequence[nn.Module], treatment: Treatment,
        moments: Callable[[int], Mapping[str, Tensor]],
    ) -> None:  # fmt: skip
        self._stack, self._networks, self._treatment, self._moments = stack, networks, treatment, moments
        busy = [one for one in treatment.interventions if not one.idle]
        towards = any((pull := one.pull()) and pull[1] for one in busy)
        self.initial = [tensor.clone() for tensor in stack.tensors] if towards else []
        self._memory = UnitMemory(networks[0], len(networks), treatment.interventions)
        each_step = any(one.each_step for one in busy)
        self.unit_layers = unit_layers(networks[0]) if each_step else []
        self.shown = Shown(len(networks), max((one.looks_at for one in busy), default=0))
        self.renews_units = any(one.renews_units for one in busy)
        self._counts = any(one.every for one in busy)
        self._steps = 0
        self.decay = 0.0
        self._penalties: list[Intervention] = []
        self._each_step: list[ContinualBackprop] = []
        self._recyclers: list[Intervention] = []

    def begin(self, tasks: Sequence[Task], by_hand: bool) -> None:
        """Look up who acts in this task, and set the counts of the epoch to zero."""
        self._tasks, task = tasks, tasks[0]
        acting = self._treatment.acting(task.phase, task.index)
        self._penalties = [one for one in acting if one.in_loss]
        self._each_step = [one for one in acting if isinstance(one, ContinualBackprop)]
        self._recyclers = [one for one in acting if one.every]
        pulls = [one.pull() for one in self._penalties]
        self.decay = 0.0
        if by_hand and not self._each_step and all(pull and not pull[1] for pull in pulls):
            self.decay = sum(pull[0] for pull in pulls if pull)
            self._penalties = []
        runs = len(self._networks)
        device = self._stack.tensors[0].device
        self._recycled = [0] * runs
        self.seen = torch.zeros(3, runs, device=device)
        self._present = torch.from_numpy(task.classes_trained).to(device)
        self._classifier = classifier_name(self._networks[0])
        self._norms = norm_parameters(self._networks[0])

    @property
    def needs_autograd(self) -> bool:
        """Whether something looks into the single step."""
        return bool(self._penalties or self._each_step)

    def steps_to_next(self, done: int) -> int:
        """Steps from `done` steps into the epoch to the next look of a recycler."""
        at = self._steps + done
        return min((one.every - at % one.every for one in self._recyclers if one.every), default=1 << 60)

    def penalised(self, loss: Tensor, activations: Sequence[Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of all runs with every penalty added."""
        if not self._penalties:
            return loss
        batch = Batch(
            activations[-1], logits, labels, self._stack.named(self._stack.tensors),
            self._stack.named(self.initial) if self.initial else {}, self._classifier, self._present, self._norms,
            loss, self._stack.tensors,
        )  # fmt: skip
        for one in self._penalties:
            loss = loss + one.penalty(batch).sum()
        if any(one.needs_classes for one in self._penalties):
            defined = batch.moments.defined
            self.seen += torch.stack([torch.ones_like(self.seen[0]), (~defined).float(), batch.moments.classes])
        return loss

    def end_step(self, activations: Sequence[Tensor], seen: Mapping[str, Tensor]) -> None:
        """After the optimiser's step: what looks at every step.

        activations  of the hidden layers of MLPs, (R, B, width) each; seen: of other networks the mean absolute input
                     of each reader of units, (R, inputs), by its name
        """
        for one in self._each_step:
            named = self._stack.named([tensor.detach() for tensor in self._stack.tensors])
            if isinstance(self._networks[0], MLP):
                names = [f"hidden.{i}" for i in range(1, len(activations))] + ["classifier"]
                seen = {name: h.detach().abs().mean(1) for name, h in zip(names, activations, strict=True)}
            contributions = [
                torch.stack([
                    layer.by_unit(seen[name] * fan_out(named[f"{name}.weight"]))
                    for name in layer.readers
                ]).sum(0)
                for layer in self.unit_layers
            ]  # fmt: skip
            state, counts = self._memory.of[one.id], self._memory.counts(one)
            for r, count in enumerate(one.step(state, self.unit_layers, contributions, self._run_for(one), counts)):
                self._recycled[r] += count

    def end_block(self, steps: int, images: Callable[[int], Tensor]) -> None:
        """After a block of steps: what happens every so many steps. `images(r)` gives (n, ...) run r was shown last."""
        self._steps += steps
        for one in self._recyclers:
            if one.every and self._steps % one.every == 0:
                self._memory.recount()
                for r in range(len(self._networks)):
                    self._recycled[r] += one.recycle(self._run_for(one)(r, images(r) if one.looks_at else None))

    def _run_for(self, one: Intervention) -> Callable[..., Run]:
        purpose = f"{one.id} step {self._steps}"

        def run(r: int, images: Tensor | None = None) -> Run:
            live = self._treatment.run(r, self._networks[r], self._moments(r), purpose, images, self._memory.live(r))
            order = self._tasks[r].pixel_order
            if order is None or not isinstance(self._networks[r], MLP):
                return live
            # during an epoch an MLP's first layer stands in the order of the image's pixels
            in_image = torch.from_numpy(np.argsort(order)).to(self._stack.tensors[0].device)

            def fresh() -> Any:
                network = live.fresh()
                network.hidden[0].weight.data = network.hidden[0].weight.data[:, in_image]
                return network

            return replace(live, fresh=fresh)

        return run

    def change(self, purpose: str, which: Collection[int] | None = None) -> None:
        """At a change of task or phase, of some runs (default: all)."""
        self._memory.recount()
        self._treatment.change(self._networks, self._moments, purpose, which, self._memory.live)

    def extra(self, seen: Sequence[Sequence[float]]) -> list[dict[str, float]]:
        """What the epoch's interventions have to say, for each run; `seen` as fetched, by run."""
        found: list[dict[str, float]] = [{} for _ in self._networks]
        if self._each_step or any(one.id == "redo" for one in self._recyclers):
            for own, count in zip(found, self._recycled, strict=True):
                own["recycled_units"] = float(count)
        for own, (steps, skipped, classes) in zip(found, seen, strict=True):
            if steps:
                own["regulariser_skipped"], own["regulariser_classes"] = skipped / steps, classes / steps
        return found

    def state(self, run: int) -> dict[str, Tensor]:
        """What a run's interventions remember."""
        counted = {"treated.steps": torch.tensor(self._steps)} if self._counts or self._memory else {}
        counted |= {f"treated.{name}": value for name, value in self.shown.state(run).items()}
        return counted | self._memory.state(run)

    def load_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `state` returned, for all runs; what is not there begins anew."""
        self._steps = int(states[0].get("treated.steps", 0))
        for run, saved in enumerate(states):
            self.shown.load(run, {name.removeprefix("treated."): value for name, value in saved.items()})
        self._memory.load(states)


def classifier_name(network: Any) -> str:
    """The name of the classifier's weight among a network's parameters."""
    if isinstance(network, MLP):
        return "classifier.weight"
    found: str = next(name for name, p in network.named_parameters() if p is network.classifier.weight)
    return found


def norm_parameters(network: nn.Module) -> frozenset[str]:
    """The names of the gains and shifts of a network's normalisation layers."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    )
