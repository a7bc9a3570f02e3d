"""Regularisers that hold neural collapse back or promote it (B24): loss + s min(metric of the minibatch, clip).

To suppress collapse the metric, which is 0 at collapse, is to grow: s = -strength. The gradient is zero above the
clip. Only classes with two samples or more in the minibatch count; with fewer than two such classes the term is
skipped, and the share of steps where that happened is stored as `regulariser_skipped`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ncpl_cli.interventions.intervention import PHASES, TASKS, Batch, Intervention, option
from ncpl_cli.later import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ncpl_cli.metrics import differentiable
else:
    torch, differentiable = later("torch"), later("ncpl_cli.metrics.differentiable")


@dataclass(frozen=True)
class _Regulariser(Intervention):
    in_loss: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True

    strength: float = option(0.05, "weight of the term in the loss", least=0)
    clip: float = option(200.0, "the metric counts up to here", least=0)
    direction: str = option("suppress", "hold collapse back, or promote it", choices=("suppress", "promote"))
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    @property
    def idle(self) -> bool:
        """Nothing is added at strength 0."""
        return self.strength == 0

    def penalty(self, batch: Batch) -> Tensor:
        """s min(metric, clip), (R,)."""
        sign = -1.0 if self.direction == "suppress" else 1.0
        return sign * self.strength * torch.clamp_max(self.metric(batch), self.clip)

    def metric(self, batch: Batch) -> Tensor:
        """The metric of the minibatch, (R,), 0 at collapse."""
        raise NotImplementedError


@dataclass(frozen=True)
class NC1(_Regulariser):
    """Within-class scatter against between-class scatter."""

    id: ClassVar[str] = "nc1"
    source: ClassVar[str] = "B24"

    def metric(self, batch: Batch) -> Tensor:
        """tr(Sigma_W pinv(Sigma_B)) / K."""
        return differentiable.nc1(batch.moments, batch.features)


@dataclass(frozen=True)
class NC2(_Regulariser):
    """Distance of the classifier's weights from a simplex equiangular tight frame."""

    id: ClassVar[str] = "nc2"
    source: ClassVar[str] = "B24's next check"
    needs_classes: ClassVar[bool] = False

    def metric(self, batch: Batch) -> Tensor:
        """Of the weights of the classes that the task trains on."""
        return differentiable.nc2(batch.weight, batch.present)


@dataclass(frozen=True)
class NC3(_Regulariser):
    """Distance of W M^T from a simplex: classifier and class means not aligned."""

    id: ClassVar[str] = "nc3"
    source: ClassVar[str] = "B24's next check"

    def metric(self, batch: Batch) -> Tensor:
        """Over the classes that count."""
        return differentiable.nc3(batch.weight, batch.moments)


@dataclass(frozen=True)
class NC4(_Regulariser):
    """Disagreement of the classifier with the nearest class mean, by a smooth surrogate: one minus the mean of
    sum_c p_c q_c, p = softmax(logits), q = softmax(-|h - mu_c|^2 / (2 sigma^2))."""

    id: ClassVar[str] = "nc4"
    source: ClassVar[str] = "ncpl, after B24's next check"

    def metric(self, batch: Batch) -> Tensor:
        """The surrogate `differentiable.disagreement`."""
        return differentiable.disagreement(batch.moments, batch.features, batch.logits)


@dataclass(frozen=True)
class CDNV(_Regulariser):
    """Class-distance normalised variance."""

    id: ClassVar[str] = "cdnv"
    source: ClassVar[str] = "G22"

    def metric(self, batch: Batch) -> Tensor:
        """Over the classes that count."""
        return differentiable.cdnv(batch.moments)
