"""The stacked engine against solo training with torch's own modules and optimisers, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli.data import Dataset
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.networks import ACTIVATIONS
from ncpl_cli.spec import NetworkSpec, OptimizerSpec
from tests.test_online_engine import a_network, a_task, plain_loop

SEEDS = (0, 1, 2)


def compare(data: Dataset, optimizer: OptimizerSpec, tolerance: float = 1e-10, **shape: Any) -> None:
    """Train three runs stacked and alone through two tasks; parameters, buffers and counts must agree."""
    stacked = [a_network(data, seed, width=13, **shape) for seed in SEEDS]
    solo = [a_network(data, seed, width=13, **shape) for seed in SEEDS]
    engine = StackedEngine(stacked, data, optimizer, "cpu")
    orders = [np.random.default_rng(10 + seed).permutation(1437)[:173] for seed in SEEDS]
    tasks = [replace(a_task(data, seed), train_labels=(data.train.labels + seed) % 10) for seed in SEEDS]
    progress = engine.train_epoch(tasks, orders, optimizer.lr)
    for net, task, order, own in zip(solo, tasks, orders, progress, strict=True):
        correct, loss = plain_loop(net, data, task, order, optimizer)
        assert own.correct == correct and own.loss == pytest.approx(loss, abs=tolerance) and own.finite
    for ours, theirs in zip(stacked, solo, strict=True):
        for name, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[name], value, rtol=0, atol=tolerance), name


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerSpec(lr=0.05), OptimizerSpec(lr=0.05, momentum=0.9), OptimizerSpec(lr=0.05, weight_decay=0.01),
        OptimizerSpec("adam", lr=1e-3), OptimizerSpec("adamw", lr=1e-3, weight_decay=0.01),
    ],
    ids=lambda o: f"{o.name}-{o.momentum}-{o.weight_decay}",
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 5])
def test_stacked_equals_solo_for_every_optimiser(digits: Dataset, optimizer: OptimizerSpec, batch: int) -> None:
    compare(digits, replace(optimizer, batch_size=batch), depth=2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_stacked_equals_solo_for_every_activation(digits: Dataset, activation: str) -> None:
    compare(digits, OptimizerSpec(lr=0.05, batch_size=8), depth=2, activation=activation)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_stacked_equals_solo_for_every_norm(digits: Dataset, norm: str, name: str) -> None:
    # 173 = 10 x 17 + 3: the last batch is ragged, its statistics are its own
    compare(digits, OptimizerSpec(name, lr=0.01, batch_size=17), 1e-9, depth=2, norm=norm)


def test_by_hand_equals_autograd(digits: Dataset) -> None:
    nets = [[a_network(digits, seed) for seed in SEEDS] for _ in range(2)]
    engines = [StackedEngine(group, digits, OptimizerSpec(batch_size=4), "cpu") for group in nets]
    assert engines[0]._by_hand
    engines[1]._by_hand = False
    engines[1]._torch = engines[1]._make_optimizer()
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(200)] * 3
    for engine in engines:
        engine.train_epoch(tasks, orders, 0.02)
    for one, other in zip(*nets, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "optimizer", [OptimizerSpec(batch_size=16, momentum=0.9), OptimizerSpec("adam", batch_size=16)]
)
def test_going_on_from_a_state_gives_the_same_bits(digits: Dataset, optimizer: OptimizerSpec) -> None:
    tasks = [a_task(digits, seed) for seed in SEEDS]

    def engine() -> StackedEngine:
        return StackedEngine([a_network(digits, s, "float32") for s in SEEDS], digits, optimizer, "cpu")

    def train(one: StackedEngine, epoch: int) -> None:
        one.train_epoch(tasks, [task.order(epoch) for task in tasks], 0.01)

    whole, begun, resumed = engine(), engine(), engine()
    train(whole, 1)
    train(whole, 2)
    train(begun, 1)
    for net, saved in zip(resumed.networks, begun.networks, strict=True):
        with torch.no_grad():
            for name, value in net.state_dict().items():
                value.copy_(saved.state_dict()[name])
    resumed.load_state(begun.state())
    train(resumed, 2)
    for one, other in zip(whole.networks, resumed.networks, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_run_that_diverges_leaves_its_neighbours_alone(digits: Dataset) -> None:
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(300)] * 3
    results = []
    for broken in (False, True):
        nets = [a_network(digits, seed, "float32") for seed in SEEDS]
        engine = StackedEngine(nets, digits, OptimizerSpec(batch_size=4), "cpu")
        if broken:
            with torch.no_grad():
                nets[1].classifier.weight.fill_(float("inf"))
        results.append((engine.train_epoch(tasks, orders, 0.01), nets))
    assert [p.finite for p in results[1][0]] == [True, False, True]
    for r in (0, 2):
        for a, b in zip(results[0][1][r].parameters(), results[1][1][r].parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("network", "optimizer", "device", "precision", "words"),
    [
        (NetworkSpec(norm="batch"), OptimizerSpec(batch_size=1), "cpu", "float32", "at least two"),
        (NetworkSpec("resnet18"), OptimizerSpec(), "cpu", "float32", "MLPs"),
        (NetworkSpec(), OptimizerSpec(), "mps", "float64", "float64"),
    ],
)
def test_what_it_cannot_carry_it_refuses_in_words(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str, words: str
) -> None:
    assert words in str(StackedEngine.refuses(network, optimizer, device, precision))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_follows_the_cpu(digits: Dataset) -> None:
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(300)] * 3
    nets = {d: [a_network(digits, s).to(d) for s in SEEDS] for d in ("cpu", "cuda:0")}
    for device, group in nets.items():
        StackedEngine(group, digits, OptimizerSpec(batch_size=4), device).train_epoch(tasks, orders, 0.01)
    for one, other in zip(nets["cpu"], nets["cuda:0"], strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b.cpu(), rtol=0, atol=1e-9)
