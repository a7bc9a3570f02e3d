"""What a task asks of a network's outputs: a loss, its slope, and whether a prediction is right.

The tuple below is the registry. An objective is a frozen dataclass of its options. Throughout, the outputs `out` are
a tensor whose axis `dim` holds them, and what is asked, `asked`, is

    labels   int64, the shape of `out` without that axis: one class a sample
    numbers  floating, the shape of `out` with the number of targets on that axis: regression; NaN = not asked

Losses and residuals are of single samples; the mean over a batch is its reader's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from ncpl_cli import parts
from ncpl_cli.errors import InputError
from ncpl_cli.later import later
from ncpl_cli.parts import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional as F
else:
    torch, F = later("torch"), later("torch.nn.functional")

REGRESSION = "regression"
"""Why what needs classes is undefined where a task asks for numbers."""


class Objective(Protocol):
    """What all have."""

    id: ClassVar[str]
    of_labels: ClassVar[bool]
    """Whether it can be asked for classes; `of_numbers`: for numbers."""
    of_numbers: ClassVar[bool]

    @property
    def label(self) -> str:
        """As it is written."""
        ...

    def outputs(self, asked: int) -> int:
        """How many outputs a network needs for so many classes or target numbers."""
        ...

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """The loss of each sample: the shape of `out` without the axis."""
        ...

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """d loss / d out of each sample, the shape of `out`, with as many digits as can be had."""
        ...

    def step(self, out: Tensor, asked: Tensor, residual: Tensor, kept: Tensor) -> None:
        """For engines, along axis 1: write the residual into given memory, and into `kept` what `seen` then needs."""
        ...

    def seen(self, out: Tensor, kept: Tensor, asked: Tensor, dim: int) -> Tensor:
        """The losses, from what `step` kept."""
        ...

    def right(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor | None:
        """Whether each prediction is right (the first of equal outputs counts); None for numbers."""
        ...

    def value(self, out: Tensor, dim: int = -1) -> Tensor:
        """The numbers that the outputs predict: the axis holds the targets."""
        ...


@dataclass(frozen=True)
class Base:
    """What an objective need not say: it gives `losses`, and where digits or time count a `residual` of its own."""

    id: ClassVar[str]
    of_labels: ClassVar[bool] = True
    of_numbers: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """As it is written."""
        return parts.written(self)

    def outputs(self, asked: int) -> int:
        """As many as classes or numbers."""
        return asked

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """The loss of each sample."""
        raise NotImplementedError

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """By automatic differentiation of the losses."""
        with torch.enable_grad():
            leaf = out.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.losses(leaf, asked, dim).sum(), leaf)
        return found

    def step(self, out: Tensor, asked: Tensor, residual: Tensor, kept: Tensor) -> None:
        """The residual; nothing is kept."""
        residual.copy_(self.residual(out, asked, 1))

    def seen(self, out: Tensor, kept: Tensor, asked: Tensor, dim: int) -> Tensor:
        """From the outputs."""
        return self.losses(out, asked, dim)

    def right(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor | None:
        """Whether the largest output is the label's; None for numbers."""
        return None if asked.is_floating_point() else out.max(dim).indices == asked

    def value(self, out: Tensor, dim: int = -1) -> Tensor:
        """The outputs themselves."""
        return out


@dataclass(frozen=True)
class CrossEntropy(Base):
    """-sum over c of q_c log softmax(out)_c, q = (1 - smoothing) [c = label] + smoothing / C, as torch smooths.

    Soft labels are shares of the classes in the label's place: floating, the shape of `out`.
    """

    id: ClassVar[str] = "cross_entropy"

    smoothing: float = option(0.0, "share of the target spread over all classes", least=0, most=1)

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """-sum q_c log p_c."""
        return self._of(F.log_softmax(out, dim), asked, dim)

    def _of(self, log_p: Tensor, asked: Tensor, dim: int) -> Tensor:
        if asked.is_floating_point():
            own = -(asked * log_p).sum(dim)
        else:
            own = -log_p.gather(dim, asked.unsqueeze(dim)).squeeze(dim)
        return own if self.smoothing == 0 else (1 - self.smoothing) * own - self.smoothing * log_p.mean(dim)

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """p - q. The own class's is minus the sum of the others', which leaves its digits where the loss is near 0."""
        others = out.softmax(dim) - self.smoothing / out.shape[dim]
        if asked.is_floating_point():
            return others - (1 - self.smoothing) * asked
        own = asked.unsqueeze(dim)
        others = others.scatter(dim, own, 0.0)
        return others.scatter(dim, own, -others.sum(dim, keepdim=True))

    def step(self, out: Tensor, asked: Tensor, residual: Tensor, kept: Tensor) -> None:
        """p - q; `kept` are log p."""
        torch.log_softmax(out, 1, out=kept)
        torch.exp(kept, out=residual)
        if asked.is_floating_point():
            residual.sub_(asked, alpha=1 - self.smoothing)
        else:
            own = _constant(self.smoothing - 1, out.dtype, out.device).expand(out.shape[0], 1, out.shape[2])
            residual.scatter_add_(1, asked[:, None], own)
        if self.smoothing:
            residual.sub_(self.smoothing / out.shape[1])

    def seen(self, out: Tensor, kept: Tensor, asked: Tensor, dim: int) -> Tensor:
        """From log p."""
        return self._of(kept, asked, dim)

    def right(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor | None:
        """Whether the largest output is the label's, of a soft one that of the largest share."""
        return super().right(out, asked.max(dim).indices if asked.is_floating_point() else asked, dim)


@dataclass(frozen=True)
class MSE(Base):
    """Mean over the outputs of (out - target)^2; the targets of a label are 1 for its class and 0 for the others."""

    id: ClassVar[str] = "mse"
    of_numbers: ClassVar[bool] = True

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """The mean over the outputs that are asked."""
        difference, count = self._difference(out, asked, dim)
        return (difference.square() / count).sum(dim)

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """2 (out - target) / outputs asked."""
        difference, count = self._difference(out, asked, dim)
        return 2 * difference / count

    def _difference(self, out: Tensor, asked: Tensor, dim: int) -> tuple[Tensor, Tensor | int]:
        if not asked.is_floating_point():
            one = torch.ones((), dtype=out.dtype, device=out.device).expand_as(asked.unsqueeze(dim))
            return out.scatter_add(dim, asked.unsqueeze(dim), -one), out.shape[dim]
        known = ~asked.isnan()
        return torch.where(known, out - asked.to(out.dtype), 0), known.sum(dim, keepdim=True).clamp_min(1)


@dataclass(frozen=True)
class TwoHot(Base):
    """Cross-entropy of a number spread over the two of `bins` centres, from low to high, that it lies between.

    A target has `bins` outputs of its own; its prediction is the mean of the centres under their softmax. What lies
    beyond low or high counts as low or high. Several targets are averaged.
    """

    id: ClassVar[str] = "two_hot"
    of_labels: ClassVar[bool] = False
    of_numbers: ClassVar[bool] = True

    low: float = option(-10.0, "the first centre", least=-1e9)
    high: float = option(10.0, "the last centre", least=-1e9)
    bins: int = option(51, "centres, evenly spaced", least=2, most=100_000)

    def __post_init__(self) -> None:
        if not self.low < self.high or max(abs(self.low), abs(self.high)) == float("inf"):
            raise InputError(f"two_hot: low={self.low:g} must be below high={self.high:g}, and both finite.")

    def outputs(self, asked: int) -> int:
        """Every target's own bins."""
        return asked * self.bins

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """-sum q_b log p_b, the mean over the targets that are asked."""
        dim = dim % out.dim()
        q, count = self._shares(out, asked, dim)
        log_p = F.log_softmax(self._by_target(out, dim), dim + 1)
        return -(q * log_p).sum((dim, dim + 1)) / count

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """(p - q) / targets asked."""
        dim = dim % out.dim()
        q, count = self._shares(out, asked, dim)
        p = self._by_target(out, dim).softmax(dim + 1) * q.sum(dim + 1, keepdim=True)
        found: Tensor = (p - q) / count.unsqueeze(dim).unsqueeze(dim)
        return found.flatten(dim, dim + 1)

    def value(self, out: Tensor, dim: int = -1) -> Tensor:
        """The predicted numbers: the axis holds the targets."""
        dim = dim % out.dim()
        p = self._by_target(out, dim).softmax(dim + 1).movedim(dim + 1, -1)
        centres = torch.linspace(self.low, self.high, self.bins, dtype=out.dtype, device=out.device)
        found: Tensor = (p * centres).sum(-1)
        return found

    def _by_target(self, out: Tensor, dim: int) -> Tensor:
        """The axis of outputs in two: targets, bins."""
        return out.reshape(*out.shape[:dim], -1, self.bins, *out.shape[dim + 1 :])

    def _shares(self, out: Tensor, asked: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """q: the axis of targets is followed by one of bins, all 0 where a target is not asked; how many are."""
        known = ~asked.isnan()
        place = (torch.where(known, asked, self.low).to(out.dtype).clamp(self.low, self.high) - self.low) * (
            (self.bins - 1) / (self.high - self.low)
        )
        centre = torch.arange(self.bins, dtype=out.dtype, device=out.device)
        centre = centre.view([-1] + [1] * (out.dim() - 1 - dim))
        near = (1 - (place.unsqueeze(dim + 1) - centre).abs()).clamp_min(0)
        return near * known.unsqueeze(dim + 1), known.sum(dim).clamp_min(1)


@functools.lru_cache(maxsize=64)
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=dtype, device=device)


@dataclass(frozen=True)
class Within(Base):
    """Another objective of labels, asked among some outputs only: those from `first` to before `last`.

    The others take no part in loss or prediction: nothing is learned of them (a head that grows, a head a task).
    """

    id: ClassVar[str] = "within"

    objective: Objective
    first: int
    last: int

    @property
    def label(self) -> str:
        """As the objective is written."""
        return self.objective.label

    def losses(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """Of those outputs."""
        return self.objective.losses(self._of(out, dim), asked - self.first, dim)

    def residual(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor:
        """0 for the others."""
        found = torch.zeros_like(out)
        self._of(found, dim).copy_(self.objective.residual(self._of(out, dim), asked - self.first, dim))
        return found

    def right(self, out: Tensor, asked: Tensor, dim: int = -1) -> Tensor | None:
        """Whether the largest of those outputs is the label's."""
        return self.objective.right(self._of(out, dim), asked - self.first, dim)

    def _of(self, out: Tensor, dim: int) -> Tensor:
        return out.narrow(dim, self.first, self.last - self.first)


OBJECTIVES: dict[str, type[CrossEntropy] | type[MSE] | type[TwoHot]] = {
    one.id: one for one in (CrossEntropy, MSE, TwoHot)
}

CROSS_ENTROPY = CrossEntropy()


def parse(text: str) -> Objective:
    """An objective from `ID` or `ID:KEY=VALUE,...`; raises InputError naming what is allowed."""
    found: Objective = parts.read("objective", text, OBJECTIVES)
    return found
