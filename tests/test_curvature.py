"""Curvature against the dense Hessian, churn against a step made by hand, and when a run measures them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from ncpl_cli import rng
from ncpl_cli.data import Dataset
from ncpl_cli.metrics import Snapshot, curvature, measure
from ncpl_cli.metrics.catalogue import AT_START, METRICS, chosen
from ncpl_cli.metrics.churn import churn
from ncpl_cli.metrics.inputs import Batch, training_samples
from ncpl_cli.plan import Cohort
from ncpl_cli.records import Address
from ncpl_cli.scenarios import SCENARIOS
from ncpl_cli.spec import DatasetSpec, MeasureSpec, RunSpec
from ncpl_cli.trainer import train
from tests.test_online_engine import a_network, a_task


def dense(net: nn.Module, batch: Batch) -> np.ndarray[Any, Any]:
    names = {name: p.detach() for name, p in net.named_parameters()}
    sizes = [p.numel() for p in names.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {n: v.view_as(p) for (n, p), v in zip(names.items(), flat.split(sizes), strict=True)}
        return F.cross_entropy(functional_call(net, parts, (batch.images,)), batch.labels)

    return hessian(loss, torch.cat([p.flatten() for p in names.values()])).numpy()  # type: ignore[no-any-return]


def small(data: Dataset, n: int = 60, **shape: Any) -> tuple[nn.Module, Batch]:
    net = a_network(data, **{"width": 4, "depth": 2, "activation": "tanh", **shape})
    return net.eval(), training_samples(net, data, a_task(data), slice(0, n))


@pytest.mark.parametrize("shape", [{}, {"activation": "relu"}, {"norm": "batch"}, {"norm": "layer"}], ids=str)
@pytest.mark.parametrize("block", [None, 7])
def test_products_and_the_top_are_those_of_the_dense_hessian(
    digits: Dataset, shape: dict[str, Any], block: int | None
) -> None:
    net, batch = small(digits, **shape)
    h = dense(net, batch)
    product, count = curvature.hessian_product(net, batch, block)
    assert count == len(h)
    v = torch.from_numpy(np.random.default_rng(0).normal(size=count))
    assert np.allclose(product(v).numpy(), h @ v.numpy(), atol=1e-12)
    top = np.linalg.eigvalsh(h)[-1]
    assert curvature.hessian_top(product, v) == pytest.approx(top, rel=1e-6)
    single, few = curvature.hessian_product(net.float(), Batch(batch.images.float(), batch.labels), block)
    assert curvature.hessian_top(single, torch.zeros(few)) == pytest.approx(top, rel=1e-3)


def matrix(eigenvalues: Any, seed: int = 0) -> torch.Tensor:
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    return torch.from_numpy(q * np.asarray(eigenvalues) @ q.T)


def test_the_eps_rank_counts_eigenvalues() -> None:
    eigenvalues = np.concatenate([np.linspace(2, 100, 60), np.linspace(-0.5, 0.5, 340)])
    h = matrix(eigenvalues)
    found = curvature.hessian_eps_rank(lambda v: h @ v, torch.zeros(400, dtype=torch.float64), 100.0)
    spread = 60 * np.sqrt(2 / (60 * len(curvature.PROBES)))
    assert abs(found - 60) < 3 * spread
    again = curvature.hessian_eps_rank(lambda v: h @ v, torch.zeros(400, dtype=torch.float64), 100.0)
    assert again == found  # its seeds are fixed
    exact = [
        curvature.hessian_eps_rank(lambda v: h @ v, torch.zeros(400, dtype=torch.float64), 100.0, probes=[s], steps=400)
        for s in range(6)
    ]
    draws = np.stack([rng.stream(s, "curvature").standard_normal(400) for s in range(6)])
    vectors = np.linalg.eigh(h.numpy())[1]
    shares = ((draws / np.linalg.norm(draws, axis=1, keepdims=True)) @ vectors[:, -60:]) ** 2
    assert exact == pytest.approx(400 * shares.sum(1), rel=1e-6)


@pytest.mark.parametrize("eigenvalues", [[3.0] * 5, [5.0, 0, 0, 0, 0], [-1.0, -2, -3, -4, -5], [0.0] * 5, [7.0]])
def test_spaces_that_are_soon_exhausted(eigenvalues: list[float]) -> None:
    h = matrix(eigenvalues)
    like = torch.zeros(len(h), dtype=torch.float64)
    assert curvature.hessian_top(lambda v: h @ v, like) == pytest.approx(max(eigenvalues), abs=1e-12)
    if max(eigenvalues) > 0:
        expected = sum(e > 0.01 * max(eigenvalues) for e in eigenvalues)
        found = curvature.hessian_eps_rank(lambda v: h @ v, like, max(eigenvalues), probes=range(400))
        assert found == pytest.approx(expected, abs=0.25)


def test_churn_is_a_step_on_a_copy(digits: Dataset) -> None:
    net, batch = small(digits, norm="batch")
    other = training_samples(net, digits, a_task(digits), slice(60, 100))  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = churn(net, batch, other, 0.1)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    moved = copy.deepcopy(net)
    step = torch.optim.SGD(moved.parameters(), lr=0.1)
    F.cross_entropy(moved(batch.images), batch.labels).backward()
    step.step()
    change = (moved(other.images) - net(other.images)).detach().numpy()
    assert found == pytest.approx(np.linalg.norm(change, axis=1).mean())
    assert churn(net, batch, other, 0.0) == 0


def test_expensive_metrics_are_measured_on_request_only(digits: Dataset) -> None:
    net, task = a_network(digits, precision="float32", width=20), a_task(digits)
    costly = {m.id for m in METRICS.values() if m.cost == "expensive"}
    assert costly and not costly & chosen(["default"]) and costly < chosen(["all"])
    costly -= {"fresh_gap"}  # of a second training run, not of a snapshot
    costly -= {"input_similarity", "label_agreement"}  # of two tasks
    costly -= {"forward_transfer", "drift_of_means", "readout_gap"}  # of the tasks before
    snapshot = Snapshot(net, digits, task, None, learning_rate=0.1)
    found = measure(snapshot, tuple(costly))
    # 1 280 logits and few more parameters, of which dead pixels have no part
    without = {name for name in costly if name.endswith(("_within", "_fresh"))}  # of a task with finer labels
    assert {a.metric for a in found.values} == costly - without - {"ntk_full_condition"}
    assert {a.metric for a in found.undefined} == without | {"ntk_full_condition"}
    assert found.undefined[Address("ntk_full_condition")] == "the kernel is singular"
    unknown = measure(replace(snapshot, learning_rate=None), ("churn",))
    assert unknown.undefined[Address("churn")] == "the learning rate is not known"
    assert set(measure(snapshot, ("hessian_top",)).values) == {Address("hessian_top")}


def test_a_run_measures_curvature_at_the_start_of_a_task(digits: Dataset) -> None:
    scenario = next(s for s in SCENARIOS if s.id == "permuted-digits")(tasks=2, epochs=(2,))
    spec = RunSpec(
        scenario, DatasetSpec("digits"), digits.digest,
        measure=MeasureSpec(metrics=("default", "hessian_top", "churn")),
    )  # fmt: skip
    spec = replace(spec, network=replace(spec.network, width=8, depth=1))
    epochs = list(train(Cohort((spec,), "online", "cpu"), digits))  # one epoch of the first task, two of the second
    records = [epoch.records[0] for epoch in epochs]
    assert all(record is not None for record in records)
    tops = {r.epoch: r.get("hessian_top") for r in records if r is not None}
    assert [e for e, top in tops.items() if top is not None] == [0, 1, 2]  # untrained, and before each task
    assert tops[0] == tops[1] and tops[2] != tops[1]
    assert all(r.get("churn") is not None for r in records if r is not None)
    assert {"hessian_top", "hessian_eps_rank"} == AT_START
