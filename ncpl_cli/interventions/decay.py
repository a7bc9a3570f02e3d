"""Penalties on the parameters: towards zero, towards the initialisation, towards spectral norm one."""

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
class Penalty(Intervention):
    """A term of the loss that vanishes at strength 0."""

    in_loss: ClassVar[bool] = True

    @property
    def idle(self) -> bool:
        """Nothing is added at strength 0."""
        return float(getattr(self, "strength", 1.0)) == 0


@dataclass(frozen=True)
class L2(Penalty):
    """(strength/2) |theta|^2 over all parameters; `scope=weights`: all but gains and shifts of normalisation."""

    id: ClassVar[str] = "l2"
    source: ClassVar[str] = "common"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")

    strength: float = option(1e-4, "lambda", least=0)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)
    scope: str = option("all", "of which parameters", choices=("all", "weights"))

    def pull(self) -> tuple[float, bool]:
        """Towards zero: what engines ask where nothing is normalised, so that all parameters are weights."""
        return self.strength, False

    def penalty(self, batch: Batch) -> Tensor:
        """(strength/2) |theta|^2, (R,)."""
        left_out = batch.norms if self.scope == "weights" else frozenset()
        return self.strength / 2 * sum_of_squares(p for n, p in batch.parameters.items() if n not in left_out)


@dataclass(frozen=True)
class L2Init(Penalty):
    """(strength/2) |theta - theta_0|^2, theta_0 = the run's own initialisation, in probes too."""

    id: ClassVar[str] = "l2_init"
    source: ClassVar[str] = "K23"
    engines: ClassVar[tuple[str, ...]] = ("online", "stacked")

    strength: float = option(1e-2, "lambda", least=0)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    def pull(self) -> tuple[float, bool]:
        """Towards the initialisation."""
        return self.strength, True

    def penalty(self, batch: Batch) -> Tensor:
        """(strength/2) |theta - theta_0|^2, (R,)."""
        return self.strength / 2 * sum_of_squares(p - batch.initial[name] for name, p in batch.parameters.items())


@dataclass(frozen=True)
class Spectral(Penalty):
    """strength times the sum over weight matrices of (sigma_max(W)^k - 1)^2."""

    id: ClassVar[str] = "spectral"
    source: ClassVar[str] = "Lewandowski et al. 2024, arXiv 2406.06811"

    strength: float = option(1e-3, "weight of the term in the loss", least=0)
    k: int = option(2, "power of the spectral norm", least=1)
    phase: str = option("warm-up", "of a warm start: where it acts", choices=PHASES)
    tasks: str = option("all", "of a sequence of tasks: where it acts", choices=TASKS)

    def penalty(self, batch: Batch) -> Tensor:
        """The sum over all tensors of two or more dimensions, a convolution in its (out, in x h x w) form, (R,)."""
        total = batch.features.new_zeros(batch.features.shape[0])
        for parameter in batch.parameters.values():
            if parameter.dim() >= 3:  # R x out x in (x h x w)
                total = total + (spectral_norms(parameter.flatten(2)) ** self.k - 1) ** 2
        return self.strength * total


def spectral_norms(matrices: Tensor) -> Tensor:
    """Largest singular value of each of the matrices (R, m, n), (R,): u^T W v with u, v from the smaller Gram matrix.

    Exact and, u and v being stationary there, with the exact gradient u v^T.
    """
    with torch.no_grad():
        wide = matrices.shape[1] <= matrices.shape[2]
        square = matrices if wide else matrices.mT
        gram = square @ square.mT
        vectors = top_by_squaring(gram) if gram.is_cuda else differentiable.eigh(gram)[1][..., -1:]  # R x min x 1
        other = square.mT @ vectors
        other = other / torch.linalg.vector_norm(other, dim=1, keepdim=True).clamp_min(torch.finfo(other.dtype).tiny)
        left, right = (vectors, other) if wide else (other, vectors)
    norms: Tensor = (left.mT @ matrices @ right)[:, 0, 0]
    return norms


def top_by_squaring(gram: Tensor, times: int = 12) -> Tensor:
    """The eigenvector of the largest eigenvalue of each Gram matrix (R, n, n), (R, n, 1), without waiting for a device.

    G^(2^12) is u u^T but for (s_2 / s_1)^4096: squared twelve times, at unit trace each time. Its longest column is u.
    """
    tiny = torch.finfo(gram.dtype).tiny
    for _ in range(times):
        trace = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(tiny)[:, None, None]
        gram = gram / trace
        gram = gram @ gram
    place = gram.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None].expand(-1, gram.shape[1], 1)
    column = gram.gather(2, place)
    vector: Tensor = column / torch.linalg.vector_norm(column, dim=1, keepdim=True).clamp_min(tiny)
    return vector


def sum_of_squares(tensors: object) -> Tensor:
    """The squares of each run summed over all tensors (R, ...), (R,)."""
    total: Tensor | None = None
    for tensor in tensors:  # type: ignore[attr-defined]
        part = tensor.flatten(1).square().sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total
