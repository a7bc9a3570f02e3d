"""Curvature of the loss: the Hessian of the mean loss, by products with vectors alone.

Lanczos with full reorthogonalisation: Krylov vectors in the network's precision, coefficients in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli import rng
from ncpl_cli.metrics.gradients import trainable
from ncpl_cli.metrics.inputs import Batch

TOLERANCE = 1e-4
"""Residual of the top eigenvalue's vector, as a share of the eigenvalue, at which Lanczos stops."""

MOST_STEPS = 150
EPSILON = 0.01
"""Eigenvalues above this share of the top one count in the eps-rank."""

PROBES = (0, 1, 2, 3)
"""Seeds of the quadrature's random vectors."""

STEPS = 80
"""Lanczos steps of each."""

Product = Callable[[Tensor], Tensor]
Array = NDArray[np.float64]


def hessian_product(network: nn.Module, batch: Batch, block: int | None = None) -> tuple[Product, int]:
    """v (P,) -> H v (P,), H the Hessian of the mean loss over a batch, and P. In the network's mode.

    The graph of the gradient is made once for each block of samples (default: one) where there is one block, and
    anew for every product where there are several: that bounds the memory.
    """
    parameters = trainable(network)
    count = sum(p.numel() for p in parameters)
    block = block or len(batch)
    parts = [slice(start, min(start + block, len(batch))) for start in range(0, len(batch), block)]

    def gradient(part: slice) -> Tensor:
        with torch.enable_grad():
            loss = batch.loss(network(batch.images[part]), part) / len(batch)
            return _flat(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))

    kept = gradient(parts[0]) if len(parts) == 1 else None

    def product(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for part in parts:
            slope = gradient(part) if kept is None else kept
            found = torch.autograd.grad(
                slope, parameters, v, retain_graph=kept is not None, materialize_grads=True
            )  # fmt: skip
            total += _flat(found)
        return total

    return product, count


class Lanczos:
    """A Krylov space of a symmetric product, grown step by step: coefficients alpha (m,), beta (m,)."""

    def __init__(self, product: Product, start: Tensor, most: int) -> None:
        self._product = product
        self._basis = torch.empty(min(most, len(start)), len(start), dtype=start.dtype, device=start.device)
        self._next = start / start.norm()
        self.alpha: list[float] = []
        self.beta: list[float] = []

    @property
    def full(self) -> bool:
        """Whether there is nothing left to explore."""
        return len(self.alpha) == len(self._basis) or (bool(self.beta) and self.beta[-1] == 0)

    def step(self) -> None:
        """One more direction."""
        m = len(self.alpha)
        self._basis[m] = self._next
        w = self._product(self._next)
        along, before = w.double() @ self._next.double(), w.norm()
        basis = self._basis[: m + 1]
        for _ in range(2):  # once is not enough in float32
            w = w - basis.T @ (basis @ w)
        alpha, scale, beta = torch.stack([along, before.double(), w.norm().double()]).tolist()  # the only wait
        self.alpha.append(alpha)
        # what is left of an exhausted space is rounding
        self.beta.append(beta if beta > 10 * torch.finfo(w.dtype).eps * scale else 0.0)
        if self.beta[-1]:
            self._next = w / beta

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values, smallest first, and their vectors in the basis (m, m)."""
        off = self.beta[: len(self.alpha) - 1]
        matrix = np.diag(self.alpha) + np.diag(off, 1) + np.diag(off, -1)
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors


def hessian_top(product: Product, like: Tensor, *, seed: int = 0, tolerance: float = TOLERANCE) -> float | None:
    """The largest eigenvalue of H, by Lanczos from a random vector; high = sharp.

    None where it has not settled, NaN where H is not finite.

    `like` gives the length, precision and device of a vector. It stops when the residual |H u - lambda u| of the
    Ritz pair is below tolerance * lambda, which bounds the distance to an eigenvalue.
    """
    space = Lanczos(product, _draw(like, seed), MOST_STEPS)
    while not space.full:
        space.step()
        if not math.isfinite(space.alpha[-1]) or not math.isfinite(space.beta[-1]):
            return math.nan
        values, vectors = space.ritz()
        if space.beta[-1] * abs(vectors[-1, -1]) <= tolerance * abs(values[-1]) and len(values) > 3:
            return float(values[-1])
    return float(values[-1]) if space.beta[-1] == 0 or len(space.alpha) == len(like) else None


def hessian_eps_rank(
    product: Product, like: Tensor, top: float, *, epsilon: float = EPSILON, probes: Sequence[int] = PROBES,
    steps: int = STEPS,
) -> float:  # fmt: skip
    """How many eigenvalues of H are above epsilon times the top one, by stochastic Lanczos quadrature.

    count = P / probes * sum over probes and Ritz pairs of (first entry of the Ritz vector)^2 [theta > epsilon top]

    One Lanczos run for each probe, a random vector whose seed is its number in `probes`. Low = the loss bends in few
    directions only (2509.22335). An estimate: with r eigenvalues its relative standard deviation is about
    sqrt(2 / (r probes)), and where many lie near the bound, as in an untrained network, it is too low until the steps
    suffice (1 177 with 80 steps, 1 404 with 160).
    """
    total = 0.0
    for seed in probes:
        space = Lanczos(product, _draw(like, seed), steps)
        while not space.full:
            space.step()
        values, vectors = space.ritz()
        total += float((vectors[0] ** 2)[values > epsilon * top].sum())
    return len(like) * total / len(probes)


def _draw(like: Tensor, seed: int) -> Tensor:
    draw = rng.stream(seed, "curvature").standard_normal(len(like))
    return torch.from_numpy(draw).to(like)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
