"""What a GPU computes in place of eigendecompositions, which the host would wait for: the same numbers, on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ncpl_cli.interventions.decay import spectral_norms, top_by_squaring
from ncpl_cli.metrics.differentiable import class_moments, nc1, nc1_without_waiting

CLASSES = 5
LABELS = [
    [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1],
    [0, 0, 0, 1, 1, 1, 3, 3, 3, 3, 4, 2],  # two classes of one sample count for nothing
    [1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 3, 4],  # two classes are left
]


def batch(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    labels = np.array(LABELS)
    means = draw.normal(size=(len(labels), CLASSES, 7))
    features = means[np.arange(len(labels))[:, None], labels] + 0.3 * draw.normal(size=(*labels.shape, 7)) + 3
    return torch.from_numpy(features).to(dtype), torch.from_numpy(labels)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_nc1_by_a_shifted_inverse_has_the_value_and_the_gradient(dtype: torch.dtype, close: float) -> None:
    for seed in range(5):
        found = []
        for of in (nc1, lambda moments, _: nc1_without_waiting(moments)):
            features, labels = batch(dtype, seed)
            features.requires_grad_()
            value = of(class_moments(features, labels, CLASSES), features)
            (gradient,) = torch.autograd.grad((value * torch.tensor([1.0, -2.0, 3.0])).sum(), features)
            found.append((value.detach(), gradient))
        (value, gradient), (shifted, by_it) = found
        assert torch.allclose(shifted, value, rtol=close, atol=0) and value.min() > 0
        assert torch.allclose(by_it, gradient, rtol=0, atol=close * float(gradient.abs().max()))


def test_where_it_is_not_defined_it_adds_nothing() -> None:
    features, labels = batch(torch.float64)
    labels[0] = 1  # one class
    features[1] = 2.0  # dead: all class means coincide
    features[2] = torch.where(labels[2][:, None] == 1, features[2].mean(0), features[2])
    features[2, 6:9] = features[2, 0]  # the two classes that count have one mean
    features.requires_grad_()
    value = nc1_without_waiting(class_moments(features, labels, CLASSES))
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert value.tolist() == [0, 0, 0] and bool((gradient == 0).all())
    spoilt = features.detach().clone()
    spoilt[1, 0, 0] = torch.nan  # a run that diverges leaves its neighbours alone
    spoilt[0], labels[0] = batch(torch.float64)[0][0], torch.tensor(LABELS[0])
    found = nc1_without_waiting(class_moments(spoilt, labels, CLASSES))
    assert float(found[0]) == pytest.approx(float(nc1(class_moments(spoilt[:1], labels[:1], CLASSES), spoilt[:1])[0]))


@pytest.mark.parametrize("shape", [(3, 20, 9), (2, 9, 20), (2, 30, 30)])
def test_the_largest_singular_value_by_squaring(shape: tuple[int, int, int]) -> None:
    matrices = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    square = matrices if shape[1] <= shape[2] else matrices.mT
    left = top_by_squaring(square @ square.mT)
    other = square.mT @ left
    norms = torch.linalg.vector_norm(other, dim=1)[:, 0]  # |W^T u|
    assert torch.allclose(norms, torch.linalg.matrix_norm(matrices, 2), rtol=1e-9)
    assert torch.allclose(norms, spectral_norms(matrices), rtol=1e-9)
    zeros = top_by_squaring(torch.zeros(1, 4, 4))
    assert bool(zeros.isfinite().all())
    float32 = top_by_squaring((square @ square.mT).float())
    assert torch.allclose((square.mT.float() @ float32).norm(dim=1)[:, 0], norms.float(), rtol=1e-5)
