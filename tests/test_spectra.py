"""Ranks of exactly few directions and kernels of dead networks: singular values themselves, and 0 log 0 = 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ncpl_cli import networks
from ncpl_cli.metrics import ntk, units
from ncpl_cli.metrics.bisection import largest_eigenvalue
from ncpl_cli.metrics.inputs import Batch

Array = np.ndarray[Any, Any]


def entropy_of(s: Array) -> float:
    """exp(-sum p log p), p = s / sum(s), word for word."""
    p = s / s.sum()
    return float(np.exp(-sum(float(q) * np.log(float(q)) for q in p if q > 0)))


def deficient(kind: str, dtype: Any) -> tuple[Array, float]:
    """Features of few directions, and their effective rank from the singular values of what they are made of."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(900, 7)), draw.normal(size=(7, 80))
    if kind == "integers":  # exactly of rank 7 in every precision
        x = draw.integers(-3, 4, (900, 7)) @ draw.integers(-3, 4, (7, 80)) * 1.0
    elif kind == "one direction":
        x = np.outer(np.arange(900) % 5, np.arange(80) % 3) * 1.0
    elif kind == "dead and doubled":
        x = np.round(np.maximum(a @ b[:, :20], 0) * 8) / 8
        x = np.concatenate([x, x, np.zeros((900, 40))], axis=1)
    elif kind == "more units than samples":
        x = draw.integers(-3, 4, (60, 4)) @ draw.integers(-3, 4, (4, 300)) * 1.0
    else:  # a large offset, and ten classes collapsed to points
        x = np.repeat(np.round(draw.normal(size=(10, 80)) * 8) / 8 + 64, 90, axis=0)
    _, r = np.linalg.qr(x.astype(dtype).astype(np.float64))
    return x.astype(dtype), entropy_of(np.linalg.svd(r, compute_uv=False))


@pytest.mark.parametrize("kind", ["integers", "one direction", "dead and doubled", "more units than samples", "points"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**60])
def test_effective_rank_of_exactly_few_directions(kind: str, dtype: str, scale: float) -> None:
    x, right = deficient(kind, dtype)
    found = units.ranks(units.spectrum(torch.from_numpy((x * scale).astype(dtype))))
    assert found["effective_rank"] == pytest.approx(right, rel=1e-10)
    assert found["srank"] <= 40 and found["stable_rank"] >= 1


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e120])
def test_dead_units_are_values_of_zero_and_need_no_decomposition(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    x = np.maximum(draw.normal(size=(5000, 40)), 0) * scale
    x[:, draw.permutation(40)[:13]] = 0
    right = np.linalg.svd(x / scale, compute_uv=False)
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    found = units.spectrum(torch.from_numpy(x)) / scale
    assert found.shape == (40,) and not found[27:].any()
    assert found[:27] == pytest.approx(right[:27], rel=1e-12)
    of_few = units.spectrum(torch.from_numpy(x[:15])) / scale  # more units than samples
    assert of_few == pytest.approx(np.linalg.svd(x[:15] / scale, compute_uv=False), rel=1e-9)


def test_ranks_do_not_depend_on_the_size_of_the_features() -> None:
    x = np.maximum(np.random.default_rng(0).normal(size=(300, 20)), 0)
    plain = units.ranks(units.spectrum(torch.from_numpy(x)))
    for scale in (1e-200, 1e150, 1e-30):  # squares of these are 0 or infinite
        assert units.ranks(units.spectrum(torch.from_numpy(x * scale))) == pytest.approx(plain, rel=1e-9)
    assert units.ranks(units.spectrum(torch.zeros(30, 4))) == {}


@pytest.mark.parametrize("values", [[1.0, 1e-320, 0.0], [1.0] * 5 + [5e-324] * 9, [3.0, 3.0, 3.0, 1e-300]])
def test_a_share_that_underflows_adds_nothing(values: list[float]) -> None:
    right = sum(v > 1e-200 for v in values)
    assert ntk.effective_rank(torch.tensor(values, dtype=torch.float64)) == pytest.approx(right, rel=1e-12)
    assert units.entropy_rank(np.array(values)) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("n", [3, 16, 100, 128])
@pytest.mark.parametrize("dead", ["every unit", "the last layer", "all but the bias of the classifier"])
def test_the_kernel_of_a_dead_network(n: int, dead: str) -> None:
    """Only the classifier's bias moves the logits: every pair of samples has the identity, so the rank is C."""
    net = networks.build("mlp", (1, 4, 4), 10, 0, precision="float64", width=6, depth=2)
    with torch.no_grad():
        if dead == "every unit":
            for linear in net.hidden:  # type: ignore[union-attr]
                linear.bias.fill_(-1e3)  # type: ignore[operator, union-attr]
        elif dead == "the last layer":
            net.hidden[1].bias.fill_(-1e3)  # type: ignore[operator, union-attr, index]
        else:
            net.classifier.weight.zero_()
            net.hidden[1].weight.zero_()  # type: ignore[operator, union-attr, index]
            net.hidden[1].bias.fill_(-1.0)  # type: ignore[operator, union-attr, index]
    batch = Batch(torch.rand(n, 1, 4, 4, dtype=torch.float64), torch.arange(n) % 10)
    values, undefined = ntk.ntk_metrics(net.eval(), batch)
    assert values["ntk_full_effective_rank"] == pytest.approx(10, rel=1e-9)
    assert values["ntk_effective_rank"] == pytest.approx(1, rel=1e-9)
    assert undefined["ntk_full_condition"] == "the kernel is singular"


def test_a_kernel_that_is_zero_says_so() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :3] + 0 * self.unused

    batch = Batch(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64))
    values, undefined = ntk.ntk_metrics(Constant(), batch, ("ntk_effective_rank", "ntk_full_effective_rank"))
    assert values == {} and {*undefined.values()} == {"the kernel is zero"}


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 40), scale=st.sampled_from([1e-250, 1e-9, 1.0, 1e250]),
    kind=st.sampled_from(["full", "one direction", "diagonal", "block", "negative", "twice"]),
)  # fmt: skip
def test_the_largest_eigenvalue_is_lapack_s(seed: int, n: int, scale: float, kind: str) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 1 if kind == "one direction" else 2 * n))
    a = x @ x.T
    if kind == "diagonal":
        a = np.diag(draw.normal(size=n))
    if kind == "block":
        a[: n // 2, n // 2 :] = a[n // 2 :, : n // 2] = 0
    if kind == "negative":
        a = -a
    if kind == "twice":  # the largest is a double one
        a = np.kron(np.eye(2), a)
    expected = np.linalg.eigvalsh(a)
    found = largest_eigenvalue(a * scale) / scale
    assert found == pytest.approx(expected[-1], rel=1e-12, abs=1e-13 * np.abs(expected).max())


def test_the_largest_eigenvalue_of_nothing_and_of_no_numbers() -> None:
    assert largest_eigenvalue(np.zeros((3, 3))) == 0.0
    assert math.isnan(largest_eigenvalue(np.array([[1.0, np.inf], [np.inf, 1.0]])))
    assert math.isnan(largest_eigenvalue(np.array([[np.nan]])))
