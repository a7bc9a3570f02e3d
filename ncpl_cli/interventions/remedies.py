"""Further remedies of L24: small features, weights of constant norm, flat places of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ncpl_cli.interventions.decay import Penalty, sum_of_squares
from ncpl_cli.interventions.intervention import PHASES, TASKS, Batch, Intervention, Run, option
from ncpl_cli.later import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch")


@dataclass(frozen=True)
class FeatureNorm(Penalty):
    """(strength/2) times the mean over the minibatch of |h|^2, h the features."""

    id: ClassVar[str] = "feature_norm"
    source: ClassVar[str] = "L24"

    strength: float = option(1e-3, "weight of the term in the loss", least=0)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    def penalty(self, batch: Batch) -> Tensor:
        """(strength/2) mean |h|^2, (R,)."""
        squares: Tensor = batch.features.flatten(2).square().sum(2).mean(1)
        return self.strength / 2 * squares


@dataclass(frozen=True)
class GradientNorm(Penalty):
    """(strength/2) |gradient of the minibatch's mean loss|^2 over all parameters: a step twice as expensive."""

    id: ClassVar[str] = "gradient_norm"
    source: ClassVar[str] = "L24"

    strength: float = option(1e-3, "weight of the term in the loss", least=0)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    def penalty(self, batch: Batch) -> Tensor:
        """(strength/2) |g|^2, (R,): of the loss without penalties, whose own gradient is taken through it."""
        assert batch.loss is not None
        gradient = torch.autograd.grad(batch.loss, list(batch.leaves), create_graph=True, materialize_grads=True)
        return self.strength / 2 * sum_of_squares(gradient)


@dataclass(frozen=True)
class WeightRescale(Intervention):
    """After every step each weight matrix is scaled back to the Frobenius norm it was initialised with.

    Biases, gains and shifts are left alone, and so is a matrix that has become 0.
    """

    id: ClassVar[str] = "weight_rescale"
    source: ClassVar[str] = "L24"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")

    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    @property
    def every(self) -> int:
        """Every step."""
        return 1

    def recycle(self, run: Run) -> int:
        """Scale every tensor of two or more dimensions."""
        norms = run.initial_norms()
        with torch.no_grad():
            for name, parameter in run.network.named_parameters():
                if parameter.dim() >= 2:
                    now = torch.linalg.vector_norm(parameter)
                    parameter.mul_(torch.where(now > 0, norms[name] / now, 1))
        return 0
