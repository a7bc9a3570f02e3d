"""Collapse metrics of minibatches with gradients, for R runs at once: what regularisers add to a loss.

The values are those of `neural_collapse` on the same samples (a test says so). Only classes with two samples or
more count; in every formula K is their number. Shapes: features H (R, B, d), labels (R, B), classifier W (R, C, d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_RATIO = 1e-12
"""Eigenvalues of the means' Gram matrix below this share of the largest are the noise of a float64 eigh."""


@dataclass(frozen=True)
class ClassMoments:
    """Class means and deviations of a minibatch.

    shares   (R, B, C)  one-hot labels of the samples whose class counts
    counts   (R, C)     samples of each class that counts, else 0
    means    (R, C, d)  class means
    centred  (R, C, d)  class means minus the mean of the samples that count; 0 for a class that does not
    within   (R, B, d)  features minus their class mean; 0 for a sample that does not count
    """

    shares: Tensor
    counts: Tensor
    means: Tensor
    centred: Tensor
    within: Tensor

    @property
    def samples(self) -> Tensor:
        """Samples that count, (R,); at least 1."""
        return self.counts.sum(1).clamp_min(1)

    @property
    def classes(self) -> Tensor:
        """K, the number of classes that count, (R,)."""
        return (self.counts > 0).sum(1)

    @property
    def defined(self) -> Tensor:
        """Whether at least two classes count, (R,)."""
        return self.classes >= 2


def class_moments(features: Tensor, labels: Tensor, classes: int) -> ClassMoments:
    """The moments of features (R, B, d) by labels (R, B) in 0..classes-1."""
    shares = F.one_hot(labels, classes).to(features.dtype)  # R x B x C
    counts = shares.sum(1)
    counts = torch.where(counts >= 2, counts, 0)
    shares = shares * (counts > 0)[:, None]
    means = shares.transpose(1, 2) @ features / counts.clamp_min(1)[..., None]
    counted = shares.sum(2, keepdim=True)  # R x B x 1
    centre = (counted * features).sum(1, keepdim=True) / counts.sum(1).clamp_min(1)[:, None, None]
    within = counted * features - shares @ means
    return ClassMoments(shares, counts, means, (means - centre) * (counts > 0)[..., None], within)


def nc1(moments: ClassMoments, features: Tensor) -> Tensor:
    """tr(Sigma_W pinv(Sigma_B)) / K of each run's minibatch, (R,); 0 with no gradient where fewer than two classes
    count or the class means do not differ (P20, B24). The gradient reaches the features directly."""
    # with fewer dimensions than class means have, more than what is known is in their null space
    if features.is_cuda and features.shape[2] >= moments.counts.shape[1] - 1:
        return nc1_without_waiting(moments)
    value: Tensor = _NC1.apply(features, moments)
    return value


def nc1_without_waiting(moments: ClassMoments) -> Tensor:
    """nc1 where an eigendecomposition would have the host wait for the device at every step: by a shifted inverse.

    A = centred class means (C, d), G = A A^T and Z = H minus class means of n samples. G's null space is known: the
    class counts, since n^T A = 0, and the classes that do not count. With an orthonormal basis N of it and t > 0

        pinv(G) = (G + t N N^T)^-1 - N N^T / t,   nc1 = |Z A^T pinv(G)|^2 / n

    Where class means coincide but for rounding (a pivot below the floor of `_NC1`), it counts as undefined: 0.
    """
    counts, a = moments.counts.double(), moments.centred.double()  # R x C, R x C x d
    gram = a @ a.mT
    absent = torch.diag_embed((counts == 0).double())
    along = counts / torch.linalg.vector_norm(counts, dim=1, keepdim=True).clamp_min(1)
    null = along[:, :, None] * along[:, None] + absent  # N N^T
    shift = (gram.detach().diagonal(dim1=1, dim2=2).sum(1) / (moments.classes - 1).clamp_min(1))[:, None, None]
    shifted = gram + shift * null
    pivots = torch.linalg.cholesky_ex(shifted.detach())[0].diagonal(dim1=1, dim2=2).square().amin(1)
    largest = moments.means.detach().abs().amax((1, 2)).double()
    rounding = (torch.finfo(moments.means.dtype).eps * largest) ** 2 * a.shape[2]
    floor = torch.maximum(SMALLEST_RATIO * shift[:, 0, 0], rounding)
    kept = (moments.defined & (pivots > floor))[:, None, None]  # a pivot that is not a number is not above it
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv_ex(torch.where(kept, shifted, one))[0] - null / torch.where(kept, shift, 1)
    projected = moments.within.double() @ a.mT @ inverse  # R x B x C
    value = torch.where(kept, projected, 0)
    return (value.square().sum((1, 2)) / moments.samples).to(moments.means.dtype)


class _NC1(torch.autograd.Function):
    """nc1 in the span of the class means, with its gradient in closed form.

    A = centred class means (C, d) = U S V^T, Z = H minus class means, Y = Z V, n samples:

        nc1    = sum_j |Y_j|^2 / (n s_j^2)
        by Z   = 2/n Y S^-2 V^T
        by A   = 2 U (S^-3 (T^T - Q V^T) - S^-1 Q S^-2 V^T),   T = Z^T Y / n,  Q = V^T T = Y^T Y / n

    the second from d pinv(X) at constant rank, X = A^T A. Nothing is larger than C x d or B x d.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, m: ClassMoments) -> Tensor:
        classes, n = m.counts.shape[1], m.samples[:, None, None]
        eigenvalues, u = eigh((m.centred @ m.centred.mT).double())  # R x C ascending, R x C x C
        place = torch.arange(classes, device=features.device)
        kept = place >= classes - (m.classes[:, None] - 1)  # rank at most K - 1
        largest = m.means.abs().amax((1, 2)).double()
        rounding = (torch.finfo(features.dtype).eps * largest) ** 2 * features.shape[2]
        floor = torch.maximum(SMALLEST_RATIO * eigenvalues[:, -1], rounding)
        kept = kept & (eigenvalues > floor[:, None])
        inverse = torch.where(kept, eigenvalues.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0)  # 1/s, R x C
        u, inverse = u.to(features.dtype), inverse.to(features.dtype)[:, None]  # R x 1 x C
        v = m.centred.mT @ (u * inverse)  # R x d x C, orthonormal columns where kept, else 0
        y = m.within @ v  # R x B x C
        scaled = y * inverse  # Y S^-1
        by_within = 2 / n * (scaled * inverse) @ v.mT
        t, q = m.within.mT @ y / n, y.mT @ y / n
        inner = inverse.mT**3 * (t.mT - q @ v.mT) - inverse.mT * (q * inverse**2) @ v.mT
        by_centred = 2 * u @ inner  # R x C x d
        by_mean = by_centred - m.counts[..., None] / n * by_centred.sum(1, keepdim=True)
        ctx.save_for_backward(by_within + m.shares @ (by_mean / m.counts.clamp_min(1)[..., None]))
        value: Tensor = scaled.square().sum((1, 2)) / m.samples
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0][:, None, None] * gradient, None


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending (R, n), and eigenvectors (R, n, n) of symmetric matrices; NaN where one is not finite.

    A run that diverges must not stop its neighbours: given one such matrix, LAPACK fails for the whole stack.
    """
    finite = matrices.isfinite().all(2).all(1)[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, matrices, 0))
    return torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)


def nc2(weight: Tensor, present: Tensor) -> Tensor:
    """Distance of W W^T/|W W^T| from the simplex (I - 11^T/K)/sqrt(K-1), (R,); W's rows of the classes present."""
    rows = weight[:, present]  # R x K x d
    every = torch.ones(rows.shape[:2], dtype=weight.dtype, device=weight.device)
    return _from_simplex(rows @ rows.mT, every)


def nc3(weight: Tensor, moments: ClassMoments) -> Tensor:
    """Distance of W M^T/|W M^T| from the simplex, (R,), over the classes that count."""
    counted = (moments.counts > 0).to(weight.dtype)
    return _from_simplex((weight * counted[..., None]) @ moments.centred.mT, counted)


def _from_simplex(product: Tensor, counted: Tensor) -> Tensor:
    """|P/|P| - (I - 11^T/K)/sqrt(K-1)|, (R,), of products P (R, C, C) among the classes counted (R, C); 0 where the
    simplex or the direction of P is not defined."""
    k = counted.sum(1).clamp_min(2)[:, None, None]
    both = counted[:, :, None] * counted[:, None, :]
    simplex = (torch.diag_embed(counted) - both / k) / (k - 1).sqrt()
    norm = torch.linalg.vector_norm(product, dim=(1, 2), keepdim=True)
    defined = (norm > 0) & (counted.sum(1)[:, None, None] >= 2)
    difference = torch.where(defined, product / torch.where(defined, norm, 1) - simplex, 0)
    square = difference.square().sum((1, 2))
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)  # no NaN gradient at 0


def disagreement(moments: ClassMoments, features: Tensor, logits: Tensor) -> Tensor:
    """Smooth surrogate of 1 - nc4, (R,): one minus the mean over samples of sum_c p_c q_c, with p = softmax(logits),
    q = softmax over c of -|h - mu_c|^2 / (2 sigma^2) and sigma^2 = the mean squared distance to the class mean, held
    constant. It is 0 when every sample is surely of the class whose mean is nearest."""
    counted = moments.shares.sum(2)  # R x B
    sigma2 = moments.within.detach().square().sum((1, 2)) / moments.samples  # R
    centre = moments.means[:, None] - features[:, :, None]  # R x B x C x d
    distance = centre.square().sum(3) / (2 * sigma2.clamp_min(torch.finfo(features.dtype).tiny))[:, None, None]
    absent = (moments.counts == 0)[:, None]
    q = torch.softmax((-distance).masked_fill(absent, -torch.inf), 2)
    agreement = (torch.softmax(logits, 2) * torch.nan_to_num(q)).sum(2)
    return torch.where(moments.defined, 1 - (agreement * counted).sum(1) / moments.samples, 0)


def cdnv(moments: ClassMoments) -> Tensor:
    """Mean over ordered pairs of (v_c + v_c') / (2 |mu_c - mu_c'|^2), (R,), over the classes that count (G22)."""
    counts = moments.counts
    spread = (moments.shares.mT @ moments.within.square().sum(2, keepdim=True))[..., 0] / counts.clamp_min(1)  # R x C
    distance = (moments.centred[:, :, None] - moments.centred[:, None]).square().sum(3)  # R x C x C
    both = (counts > 0)[:, :, None] & (counts > 0)[:, None]
    pairs = both & ~torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device) & (distance > 0)
    ratio = (spread[:, :, None] + spread[:, None]) / (2 * torch.where(pairs, distance, 1))
    return torch.where(pairs, ratio, 0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
