"""What acts where the training changes: before a task after the first, and before a probe (after some warm-up)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ncpl_cli.interventions.intervention import Intervention, Run, option, without_gradients
from ncpl_cli.later import later

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch, nn = later("torch"), later("torch.nn")

EVERYWHERE = ("online", "stacked")


@dataclass(frozen=True)
class ShrinkPerturb(Intervention):
    """theta <- shrink theta + perturb times a fresh initialisation.

    At a change of task or phase (A20), or with `per_step` after every step (D24). Statistics of batch normalisation
    belong to the old weights: at a change they begin anew.
    """

    id: ClassVar[str] = "shrink_perturb"
    source: ClassVar[str] = "A20, D24"
    engines: ClassVar[tuple[str, ...]] = EVERYWHERE

    shrink: float = option(0.6, "factor of the old parameters", least=0, most=1)
    perturb: float = option(0.01, "factor of the fresh ones", least=0)
    when: str = option("change", "at a change of task or phase, or after every step", choices=("change", "step"))

    @property
    def idle(self) -> bool:
        """Nothing happens at shrink 1, perturb 0."""
        return self.shrink == 1 and self.perturb == 0

    @property
    def every(self) -> int | None:
        """The form of every step."""
        return 1 if self.when == "step" else None

    def change(self, run: Run) -> None:
        """Shrink and perturb the parameters once."""
        if self.when == "change":
            self._mix(run)
            begin_statistics_anew(run.network)

    def recycle(self, run: Run) -> int:
        """The same after a step; running statistics follow by themselves."""
        self._mix(run)
        return 0

    @without_gradients
    def _mix(self, run: Run) -> None:
        fresh = dict(run.fresh().named_parameters()) if self.perturb else {}
        for name, parameter in run.network.named_parameters():
            parameter.mul_(self.shrink)
            if fresh:
                parameter.add_(fresh[name], alpha=self.perturb)


@dataclass(frozen=True)
class HeadReset(Intervention):
    """A freshly initialised classifier, with fresh optimiser state."""

    id: ClassVar[str] = "head_reset"
    source: ClassVar[str] = "common"
    engines: ClassVar[tuple[str, ...]] = EVERYWHERE

    def change(self, run: Run) -> None:
        """Replace the classifier."""
        prefix = next(name for name, module in run.network.named_modules() if module is run.network.classifier)
        run.put(run.fresh(), prefix + ".")
        for part in ("weight", "bias"):
            run.forget(f"{prefix}.{part}")


@dataclass(frozen=True)
class FullReset(Intervention):
    """A freshly initialised network, with fresh optimiser state: what a network without a past reaches."""

    id: ClassVar[str] = "full_reset"
    source: ClassVar[str] = "common"
    engines: ClassVar[tuple[str, ...]] = EVERYWHERE

    def change(self, run: Run) -> None:
        """Replace everything, and forget what was remembered of the old units."""
        run.put(run.fresh())
        run.forget_everything()
        for value in run.memory.values():
            value.zero_()


@dataclass(frozen=True)
class OptimizerReset(Intervention):
    """Fresh optimiser state, the network as it is."""

    id: ClassVar[str] = "optimizer_reset"
    source: ClassVar[str] = "common"
    engines: ClassVar[tuple[str, ...]] = EVERYWHERE

    def change(self, run: Run) -> None:
        """Forget moments and step counts."""
        run.forget_everything()


def begin_statistics_anew(network: nn.Module) -> None:
    """Set the running statistics of every batch normalisation to those of a fresh one."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
