"""Re-initialising units that no longer contribute: ReDo and continual backpropagation, for MLPs."""

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
else:
    torch, unit_metrics = later("torch"), later("ncpl_cli.metrics.units")


@dataclass(frozen=True)
class ReDo(Intervention):
    """Every `every` steps: dormant units get fresh incoming weights and outgoing weights of zero (S23).

    A unit is dormant when its mean absolute activation, over the last `samples` trained on, is at most tau times the
    layer's mean. Dead units contribute nothing, so recycling them leaves the network's function as it is.
    """

    id: ClassVar[str] = "redo"
    source: ClassVar[str] = "S23"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")
    networks: ClassVar[str | None] = "mlp"
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
        activations = network.classify(run.images[-self.samples :])[1]
        network.train(was_training)
        width = network.hidden[0].out_features
        found = [
            torch.nonzero(unit_metrics.dormant(unit_metrics.activity(h, width), self.tau))[:, 0] for h in activations
        ]
        fresh = run.fresh() if any(len(units) for units in found) else None
        for layer, units in enumerate(found):
            if len(units):
                replace(run, fresh, layer, units)
        return sum(len(units) for units in found)


def replace(run: Run, fresh: Any, layer: int, units: Tensor) -> None:
    """Incoming weights, bias and norm of `units` as in the fresh network, outgoing weights 0, their moments and step
    counts 0, what is remembered of them 0.

    Between two units that begin anew in one look the weight is 0, as in S23's code (all incoming ones first, then all
    outgoing ones), whichever layer comes first.
    """
    network = run.network
    width = network.hidden[layer].out_features
    for module, theirs, prefix in (
        (network.hidden[layer], fresh.hidden[layer], f"hidden.{layer}"),
        (network.norms[layer], fresh.norms[layer], f"norms.{layer}"),
    ):
        for name, value in module.state_dict().items():
            if value.dim():  # not the count of batches
                value[units] = theirs.state_dict()[name][units]
                run.forget(f"{prefix}.{name}", units)
    run.recycled[layer] = torch.cat([run.recycled[layer], units]) if layer in run.recycled else units
    for below in (layer - 1, layer):
        if below in run.recycled:
            _silence(run, below, run.recycled[below], width)
    for name in ("utility", "age"):
        if (kept := run.memory.get(f"{name}.{layer}")) is not None:
            kept[units] = 0


def _silence(run: Run, layer: int, units: Tensor, width: int) -> None:
    """Outgoing weights 0, with their moments and step counts."""
    last = layer + 1 == len(run.network.hidden)
    after = run.network.classifier if last else run.network.hidden[layer + 1]
    name = "classifier" if last else f"hidden.{layer + 1}"
    for start in range(0, after.in_features, width):  # crelu shows a unit twice
        after.weight[:, start + units] = 0
        run.forget(f"{name}.weight", (slice(None), start + units))


@dataclass(frozen=True)
class ContinualBackprop(Intervention):
    """Every step a small share of the mature units, those of least utility, begins anew (D24, algorithm 1).

    Utility u <- decay u + (1 - decay) mean|h| sum|w_out|, compared as u / (1 - decay^age); a unit is mature at age
    `maturity`. The number to replace grows by rate times the mature units a step, in every layer apart.
    """

    id: ClassVar[str] = "continual_backprop"
    source: ClassVar[str] = "D24"
    networks: ClassVar[str | None] = "mlp"
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
        for layer, linear in enumerate(network.hidden):
            weight = linear.weight
            state[f"utility.{layer}"] = weight.new_zeros(runs, linear.out_features)
            state[f"age.{layer}"] = weight.new_zeros(runs, linear.out_features)
            state[f"due.{layer}"] = weight.new_zeros(runs, 1)
        return state

    @without_gradients
    def step(
        self, state: Mapping[str, Tensor], activations: Sequence[Tensor], outgoing: Sequence[Tensor],
        run_of: Any,
    ) -> list[int]:  # fmt: skip
        """After a step: update utilities from activations (R, B, ...), and replace what is due; units replaced a run.

        outgoing  the weights (R, out, in) that read each layer; run_of(r) gives the `Run` to change in place
        """
        replaced = [0] * len(activations[0])
        run_of = functools.cache(run_of)  # one look for all layers
        for layer, h in enumerate(activations):
            utility, age, due = (state[f"{name}.{layer}"] for name in ("utility", "age", "due"))
            width = utility.shape[1]
            leaving = outgoing[layer].abs().sum(1).reshape(len(h), -1, width)  # R x shown x width
            contribution = (h.abs().mean(1).reshape(len(h), -1, width) * leaving).sum(1)
            utility.mul_(self.decay).add_(contribution, alpha=1 - self.decay)
            age.add_(1)
            mature = age > self.maturity
            due.add_(self.rate * mature.sum(1, keepdim=True))
            if not bool((due >= 1).any()):
                continue
            corrected = (utility / (1 - self.decay**age)).masked_fill(~mature, torch.inf)
            for r, count in enumerate(due[:, 0].floor().long().clamp(max=width).tolist()):
                count = min(count, int(mature[r].sum()))
                if count:
                    units = corrected[r].argsort(stable=True)[:count]  # of equals the first: the same everywhere
                    run = run_of(r)
                    replace(run, run.fresh(), layer, units)
                    due[r] -= count
                    replaced[r] += count
        return replaced
