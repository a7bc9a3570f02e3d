"""Re-initialising units that no longer contribute: ReDo and continual backpropagation.

A unit is a neuron, of a convolution a channel (`networks.hidden_units`): its activation is the mean over positions, its
outgoing weights those of all kernel positions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ncpl_cli.interventions.intervention import PHASES, TASKS, Intervention, Run, option, without_gradients
from ncpl_cli.later import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ncpl_cli.metrics import units as unit_metrics
    from ncpl_cli.networks import hidden_units
    from ncpl_cli.networks.hidden_units import UnitLayer
else:
    torch, unit_metrics = later("torch"), later("ncpl_cli.metrics.units")
    hidden_units = later("ncpl_cli.networks.hidden_units")


@dataclass(frozen=True)
class ReDo(Intervention):
    """Every `every` steps: dormant units get fresh incoming weights and outgoing weights of zero (S23).

    A unit is dormant when its mean absolute activation, over the last `samples` trained on, is at most tau times the
    layer's mean. Dead units contribute nothing, so recycling them leaves the network's function as it is.
    """

    id: ClassVar[str] = "redo"
    source: ClassVar[str] = "S23"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")
    renews_units: ClassVar[bool] = True

    tau: float = option(0.025, "share of the layer's mean activation", least=0)
    steps: int = option(1000, "steps between two looks", least=1)
    samples: int = option(256, "samples the activations are averaged over", least=1)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return self.steps

    @property
    def looks_at(self) -> int:
        """The last `samples` trained on, of earlier epochs and tasks too; fewer only where there were fewer."""
        return self.samples

    @without_gradients
    def recycle(self, run: Run) -> int:
        """Re-initialise the dormant units of every hidden layer; all layers are judged before any is changed."""
        assert run.images is not None
        network = run.network
        was_training = network.training
        network.eval()
        layers = hidden_units.unit_layers(network)
        with hidden_units.watching(network, layers, unit_metrics.activity) as seen:
            network(run.images[-self.samples :])
        network.train(was_training)
        found = []
        for layer in layers:  # a unit that several read is as active as they see it on average
            of_readers = [layer.by_unit(seen[name]) for name in layer.readers]
            active = of_readers[0] if len(of_readers) == 1 else torch.stack(of_readers).mean(0)
            found.append(torch.nonzero(unit_metrics.dormant(active, self.tau))[:, 0])
        fresh = run.fresh() if any(len(units) for units in found) else None
        for number, units in enumerate(found):
            if len(units):
                replace(run, fresh, layers, number, units)
        return sum(len(units) for units in found)


def replace(run: Run, fresh: Any, layers: Sequence[UnitLayer], number: int, units: Tensor) -> None:
    """Incoming weights, bias and norm (its running statistics too) of `units` of a layer as in the fresh network,
    outgoing weights 0, their moments and step counts 0, what is remembered of them 0.

    Between two units that begin anew in one look the weight is 0, as in S23's code (all incoming ones first, then all
    outgoing ones), whichever layer comes first.
    """
    writers = layers[number].writers
    for prefix in writers:
        theirs = fresh.get_submodule(prefix).state_dict()
        for name, value in run.network.get_submodule(prefix).state_dict().items():
            if value.dim():  # not the count of batches
                value[units] = theirs[name][units]
                run.forget(f"{prefix}.{name}", units)
    known = run.recycled.get(number)
    run.recycled[number] = units if known is None else torch.cat([known, units])
    for other, gone in run.recycled.items():
        if other == number or set(layers[other].readers) & set(writers):
            _silence(run, layers[other], gone)
    for name in ("utility", "age"):
        if (kept := run.memory.get(f"{name}.{number}")) is not None:
            kept[units] = 0


def _silence(run: Run, layer: UnitLayer, units: Tensor) -> None:
    """Outgoing weights 0, of all kernel positions, with their moments and step counts."""
    for name in layer.readers:
        weight = run.network.get_submodule(name).weight
        inputs = layer.inputs(units, weight.shape[1])
        weight[:, inputs] = 0
        run.forget(f"{name}.weight", (slice(None), inputs))


@dataclass(frozen=True)
class ContinualBackprop(Intervention):
    """Every step a small share of the mature units, those of least utility, begins anew (D24, algorithm 1).

    Utility u <- decay u + (1 - decay) mean|h| sum|w_out|, compared as u / (1 - decay^age); a unit is mature at age
    `maturity`. The number to replace grows by rate times the mature units a step, in every layer apart.
    """

    id: ClassVar[str] = "continual_backprop"
    source: ClassVar[str] = "D24"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")
    each_step: ClassVar[bool] = True
    renews_units: ClassVar[bool] = True

    rate: float = option(1e-4, "share of mature units replaced a step", least=0, most=1)
    maturity: int = option(100, "steps before a unit can be replaced", least=0)
    decay: float = option(0.99, "of the running utility", least=0, most=1)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    @property
    def idle(self) -> bool:
        """Nothing is replaced at rate 0."""
        return self.rate == 0

    def begin(self, network: Any, runs: int) -> dict[str, Tensor]:
        """Its state: utility and age of every unit (R, width), and the replacements due (R, 1), a layer each."""
        state = {}
        like = network.classifier.weight
        for number, layer in enumerate(hidden_units.unit_layers(network)):
            state[f"utility.{number}"] = like.new_zeros(runs, layer.units)
            state[f"age.{number}"] = like.new_zeros(runs, layer.units)
            state[f"due.{number}"] = like.new_zeros(runs, 1)
        return state

    def dues(self, units: int) -> Tensor:
        """What m mature units of a layer add to its replacements due in a step, m = 0 .. units."""
        return self.rate * torch.arange(units + 1)

    @staticmethod
    def counted(state: Mapping[str, Tensor]) -> list[str]:
        """What of its state decides how many units begin anew."""
        return [name for name in state if name.startswith(("age", "due"))]

    @without_gradients
    def step(
        self, state: Mapping[str, Tensor], layers: Sequence[UnitLayer], contributions: Sequence[Tensor], run_of: Any,
        counts: Mapping[str, Tensor],
    ) -> list[int]:  # fmt: skip
        """After a step: update utilities, and replace what is due; units replaced a run.

        contributions  of every layer (R, units): mean|h| times the sum of |outgoing weights|, over all who read it
        run_of(r)      gives the `Run` to change in place
        counts         ages and replacements due on the CPU, see `renew`
        """
        for number, contribution in enumerate(contributions):
            state[f"utility.{number}"].mul_(self.decay).add_(contribution, alpha=1 - self.decay)
            self._count(state, number)
            if counts[f"age.{number}"] is not state[f"age.{number}"]:
                self._count(counts, number)
        return self.renew(state, layers, run_of, counts)

    def _count(self, state: Mapping[str, Tensor], number: int) -> None:
        age = state[f"age.{number}"].add_(1)
        state[f"due.{number}"].add_(self.rate * (age > self.maturity).sum(1, keepdim=True))

    @without_gradients
    def renew(
        self, state: Mapping[str, Tensor], layers: Sequence[UnitLayer], run_of: Any,
        counts: Mapping[str, Tensor] | None = None,
    ) -> list[int]:  # fmt: skip
        """Replace what is due, layer by layer; units replaced a run.

        counts  a copy of ages and replacements due, by which the host decides without waiting for a device: how many
                are due and mature does not depend on which of the mature ones begin anew
        """
        counts = state if counts is None else counts
        replaced = [0] * len(state["due.0"])
        run_of = functools.cache(run_of)  # one look for all layers
        for number in range(len(layers)):
            utility, age, due = (state[f"{name}.{number}"] for name in ("utility", "age", "due"))
            known, wanted = counts[f"age.{number}"], counts[f"due.{number}"]
            if not bool((wanted >= 1).any()):
                continue
            corrected = (utility / (1 - self.decay**age)).masked_fill(age <= self.maturity, torch.inf)
            for r, count in enumerate(wanted[:, 0].floor().long().tolist()):
                mature = torch.nonzero(known[r] > self.maturity)[: max(count, 0), 0]
                if count := len(mature):
                    units = corrected[r].argsort(stable=True)[:count]  # of equals the first: the same everywhere
                    run = run_of(r)
                    replace(run, run.fresh(), layers, number, units)
                    replaced[r] += count
                    due[r] -= count
                    if known is not age:
                        wanted[r] -= count
                        known[r, mature] = 0
        return replaced
