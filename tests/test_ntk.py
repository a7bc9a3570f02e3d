"""The tangent kernel against torch.func's Jacobians and loss gradients, its metrics against plain linear algebra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from ncpl_cli.data import Dataset
from ncpl_cli.metrics import ntk
from ncpl_cli.metrics.inputs import Batch, training_samples
from tests.test_online_engine import a_network, a_task


def dense(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Theta (N, C, N, C) from the whole Jacobian at once."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = jacrev(lambda p: functional_call(net, p, (x,)))(parameters)  # N x C x shape
    j = torch.cat([value.flatten(2) for value in found.values()], 2)
    return torch.einsum("icp,jdp->icjd", j, j)


def small(data: Dataset, n: int = 9, **shape: Any) -> tuple[nn.Module, Batch]:
    net, task = a_network(data, **{"width": 12, **shape}), a_task(data)
    if shape.get("norm") == "batch":
        with torch.no_grad():
            net.train()(torch.rand(50, 64, dtype=torch.float64))
    return net.eval(), training_samples(net, data, task, slice(0, n))


@pytest.mark.parametrize(
    "shape",
    [{}, {"depth": 1}, {"activation": "tanh"}, {"activation": "crelu"}, {"norm": "layer"}, {"norm": "batch"}],
    ids=str,
)
def test_the_kernel_is_that_of_the_jacobian(digits: Dataset, shape: dict[str, Any]) -> None:
    net, batch = small(digits, **shape)
    with torch.no_grad():  # gains and shifts that are not 1 and 0
        for name, p in net.named_parameters():
            if name.startswith("norms"):
                p.add_(torch.linspace(-0.5, 0.7, len(p)))
    true = dense(net, batch.images)
    assert ntk.has_closed_form(net) == (shape.get("norm") != "batch")
    size = float(true.abs().max())
    assert torch.allclose(ntk.full_kernel(net, batch.images), true, atol=1e-12 * size)
    for budget in (1 << 30, 400_000, 50_000):  # whole, in parts, and parameters cut through
        assert torch.allclose(ntk.jacobian_kernel(net, batch.images, budget), true, atol=1e-12 * size)
    single = net.float()
    found = ntk.full_kernel(single, batch.images.float())
    assert float((found - true).abs().max()) < 1e-5 * size


class Convolutional(nn.Module):
    """A network that is no MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.classifier = nn.Linear(3 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.classifier(self.stem(x))
        return found


def test_any_network_has_a_kernel(digits: Dataset) -> None:
    torch.manual_seed(0)
    net = Convolutional().double().eval()
    x = torch.from_numpy(digits.train.images[:6]).double() / 16
    assert torch.allclose(ntk.full_kernel(net, x), dense(net, x), atol=1e-10)


def test_the_memory_is_stated_and_kept(digits: Dataset) -> None:
    net, _ = small(digits, norm="batch")
    count = sum(p.numel() for p in net.parameters())
    whole = ntk.cost(net, 9, 10)
    assert whole.passes == 1 and whole.parameters == count and not whole.closed
    assert whole.bytes == 8 * 90 * count + 2 * 8 * 90**2
    parts = ntk.cost(net, 9, 10, budget=80_000)
    assert parts.passes == math.ceil(count / (80_000 // (2 * 90 * 8)))
    assert parts.bytes <= 80_000 + 2 * 8 * 90**2
    assert f"{parts.passes} passes" in str(parts) and "MiB" in str(parts)
    assert "closed form" in str(ntk.cost(small(digits)[0], 9, 10))


def test_metrics_of_the_spectrum(digits: Dataset) -> None:
    net, batch = small(digits, width=40)
    true = dense(net, batch.images)
    values, undefined = ntk.ntk_metrics(net, batch)
    assert not undefined and tuple(values) == ntk.NTK_METRICS
    trace = sum(true[:, c, :, c] for c in range(10)).numpy()  # type: ignore[union-attr]
    for name, kernel in (("ntk", trace), ("ntk_full", true.reshape(90, 90).numpy())):
        eigenvalues = np.linalg.eigvalsh(kernel)
        p = eigenvalues / eigenvalues.sum()
        assert values[f"{name}_effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
        assert values[f"{name}_condition"] == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-5)
    assert values["ntk_full_effective_rank"] > values["ntk_effective_rank"]


def test_interference_is_that_of_loss_gradients(digits: Dataset) -> None:
    net, batch = small(digits, n=12)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(net, p, (x[None],)), y[None])

    found = vmap(grad(loss), (None, 0, 0))(parameters, batch.images, batch.labels)
    g = torch.cat([value.flatten(1) for value in found.values()], 1)
    cosine = F.normalize(g) @ F.normalize(g).T
    apart = cosine[~torch.eye(12, dtype=torch.bool)]
    values, _ = ntk.ntk_metrics(net, batch, ["gradient_interference", "gradient_interference_negative"])
    assert values["gradient_interference"] == pytest.approx(float(apart.mean()))
    assert values["gradient_interference_negative"] == pytest.approx(float((apart < 0).double().mean()))


def test_samples_that_are_learnt_still_have_a_direction(digits: Dataset) -> None:
    """Where softmax is 1 to the last digit, the gradient is that of the other classes."""
    net, batch = small(digits)
    full = ntk.full_kernel(net, batch.images)
    logits = 30.0 * F.one_hot(batch.labels, 10).double()
    sure = ntk.gradient_interference(full, logits, batch.labels)
    surer = ntk.gradient_interference(full, 2 * logits, batch.labels)
    assert sure is not None and sure == pytest.approx(surer, rel=1e-6)


def test_what_is_undefined_has_its_reason(digits: Dataset) -> None:
    net, batch = small(digits)
    twice = Batch(batch.images[[0, 0, 1]], batch.labels[[0, 0, 1]])
    values, undefined = ntk.ntk_metrics(net, twice)
    assert undefined["ntk_condition"] == "the kernel is singular" and "ntk_effective_rank" in values
    assert (
        ntk.gradient_interference(torch.zeros(2, 3, 2, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)) is None
    )
    assert ntk.effective_rank(torch.zeros(3)) is None
    with torch.no_grad():
        next(net.parameters())[0, 0] = math.inf
    assert set(ntk.ntk_metrics(net, batch)[1].values()) == {"the kernel is not finite"}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter(digits: Dataset, seed: int) -> None:
    net, batch = small(digits)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(batch)))
    plain, _ = ntk.ntk_metrics(net, batch)
    other, _ = ntk.ntk_metrics(net, Batch(batch.images[order], batch.labels[order]))
    assert other == pytest.approx(plain, rel=1e-6)
    kernel = ntk.trace_kernel(ntk.full_kernel(net, batch.images))
    assert 1 <= (ntk.effective_rank(ntk.spectrum(kernel)) or 0) <= len(batch)


def test_trace_top_share_and_centring_are_plain_linear_algebra(digits: Dataset) -> None:
    net, batch = small(digits)
    kernel = torch.einsum("icjc->ij", dense(net, batch.images)).numpy()
    found, why = ntk.ntk_metrics(net, batch, ("ntk_trace", "ntk_top_share", "ntk_centred_effective_rank"))
    values = np.linalg.eigvalsh(kernel)
    h = np.eye(9) - 1 / 9
    p = np.linalg.eigvalsh(h @ kernel @ h)
    p = p[p > 1e-12 * p.max()] / p.sum()
    assert found["ntk_trace"] == pytest.approx(np.trace(kernel)) and not why
    assert found["ntk_top_share"] == pytest.approx(values[-1] / values.sum())
    assert found["ntk_centred_effective_rank"] == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-8)
    shared = torch.full((9, 9), 1e6, dtype=torch.float64) + torch.eye(9)  # a direction that all samples share
    assert ntk.effective_rank(ntk.spectrum(ntk.centred(shared))) == pytest.approx(8)
    assert ntk.effective_rank(ntk.spectrum(shared)) == pytest.approx(1, abs=1e-4)
