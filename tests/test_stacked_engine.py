"""The stacked engine against solo training with torch's own modules and optimisers, in float64."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines.stacked import BY_HAND, StackedEngine
from ncpl_cli.errors import InputError
from ncpl_cli.networks import ACTIVATIONS
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import NetworkSpec, OptimizerSpec
from tests.test_online_engine import a_network, a_task, plain_loop

SEEDS = (0, 1, 2)


def compare(
    data: Dataset, optimizer: OptimizerSpec, tolerance: float = 1e-10, tasks: Sequence[Task] | None = None, **shape: Any
) -> None:
    """Train three runs stacked and alone; each has its own labels, order and pixels, and all must agree."""
    stacked = [a_network(data, seed, width=13, **shape) for seed in SEEDS]
    solo = [a_network(data, seed, width=13, **shape) for seed in SEEDS]
    engine = StackedEngine(stacked, data, optimizer, "cpu")
    orders = [np.random.default_rng(10 + seed).permutation(1437)[:173] for seed in SEEDS]
    tasks = tasks or [replace(a_task(data, seed), train_labels=(data.train.labels + seed) % 10) for seed in SEEDS]
    progress = engine.train_epoch(tasks, orders, optimizer.lr)
    for net, task, order, own in zip(solo, tasks, orders, progress, strict=True):
        correct, loss = plain_loop(net, data, task, order, optimizer)
        assert own.correct == correct and own.loss == pytest.approx(loss, abs=tolerance) and own.finite
    x = torch.from_numpy(data.test.images[:50]).flatten(1).double() / data.scale
    for ours, theirs in zip(stacked, solo, strict=True):  # normalised by the samples at hand: no running mean
        assert torch.allclose(ours.train()(x), theirs.train()(x), rtol=0, atol=100 * tolerance)
        ours.eval(), theirs.eval()
    for ours, theirs in zip(stacked, solo, strict=True):
        for name, value in theirs.state_dict().items():
            if of_rounding(optimizer, theirs, name):
                assert float((ours.state_dict()[name] - value).abs().max()) <= noise(optimizer, len(orders[0])), name
            else:
                assert torch.allclose(ours.state_dict()[name], value, rtol=0, atol=tolerance), name


def of_rounding(optimizer: OptimizerSpec, network: networks.MLP, name: str) -> bool:
    """Whether rounding decides a tensor: a bias before batch normalisation has no gradient but noise, which Adam
    divides by its own size (torch does so too), and the running mean follows it."""
    return optimizer.name != "sgd" and network.norm == "batch" and bool(re.match(r"hidden.*bias|.*running_mean", name))


def noise(optimizer: OptimizerSpec, samples: int) -> float:
    """How far Adam walks on gradients of rounding, 1e-14 at most here, beside its eps of 1e-8."""
    return optimizer.lr * math.ceil(samples / optimizer.batch_size) * 1e-14 / 1e-8


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


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("optimizer", [OptimizerSpec(), OptimizerSpec(weight_decay=0.1)], ids=["plain", "decay"])
@pytest.mark.parametrize(("batch", "depth"), [(1, 1), (4, 3), (80, 2)])
def test_by_hand_equals_autograd(
    digits: Dataset, activation: str, optimizer: OptimizerSpec, batch: int, depth: int
) -> None:
    # 211 samples: several whole blocks of steps, a shorter block, a ragged batch
    optimizer = replace(optimizer, batch_size=batch)
    nets = [[a_network(digits, seed, width=11, depth=depth, activation=activation) for seed in SEEDS] for _ in "ab"]
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(211)] * 3
    progress = [
        StackedEngine(group, digits, optimizer, "cpu", autograd=autograd).train_epoch(tasks, orders, 0.05)
        for group, autograd in zip(nets, (False, True), strict=True)
    ]
    for one, other in zip(*progress, strict=True):
        assert one.correct == other.correct and one.loss == pytest.approx(other.loss, abs=1e-12)
    for one_net, other_net in zip(*nets, strict=True):
        for a, b in zip(one_net.parameters(), other_net.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_every_activation_has_its_step_by_hand() -> None:
    assert BY_HAND.keys() == ACTIVATIONS.keys() - {"crelu"}  # which changes the width


def test_plain_sgd_goes_by_hand_and_the_rest_by_autograd(digits: Dataset) -> None:
    def by_hand(optimizer: OptimizerSpec, **shape: Any) -> bool:
        return StackedEngine([a_network(digits, **shape)], digits, optimizer, "cpu")._by_hand

    assert by_hand(OptimizerSpec()) and by_hand(OptimizerSpec(weight_decay=0.1))
    assert not by_hand(OptimizerSpec(momentum=0.9)) and not by_hand(OptimizerSpec("adam"))
    assert not by_hand(OptimizerSpec(batch_size=4), norm="layer")


def test_the_networks_own_parameters_are_views_and_keep_their_values(digits: Dataset) -> None:
    nets = [a_network(digits, seed, norm="batch") for seed in SEEDS]
    before = [{name: value.clone() for name, value in net.state_dict().items()} for net in nets]
    held = [list(net.parameters()) for net in nets]
    engine = StackedEngine(nets, digits, OptimizerSpec(batch_size=8), "cpu")
    for net, values, parameters in zip(nets, before, held, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
        assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    with torch.no_grad():
        for net in nets:
            for value in net.state_dict().values():
                value.zero_()
    assert not any(tensor.any() for tensor in [*engine._stack.tensors, *engine._stack.buffers.values()])


def test_runs_without_a_pixel_order_stand_beside_runs_with_one(digits: Dataset) -> None:
    tasks = [a_task(digits, seed, permuted=seed != 1) for seed in SEEDS]
    compare(digits, OptimizerSpec(lr=0.05, batch_size=3), tasks=tasks, depth=2)


def test_one_sample_left_over_joins_the_last_batch_under_batch_norm(digits: Dataset) -> None:
    engine = StackedEngine([a_network(digits, norm="batch")], digits, OptimizerSpec(batch_size=8), "cpu")
    assert [engine._blocks(n) for n in (33, 34)] == [[(0, 3, 8), (24, 1, 9)], [(0, 4, 8), (32, 1, 2)]]
    (progress,) = engine.train_epoch([a_task(digits)], [np.arange(33)], 0.01)
    assert progress.samples == 33 and progress.finite
    with pytest.raises(InputError, match="at least two samples"):
        engine.train_epoch([a_task(digits)], [np.arange(1)], 0.01)


class Convolutions(nn.Module):
    """Something that is not an MLP: convolution, batch norm, pooling, a linear classifier."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.classifier = nn.Linear(4 * 16, 10)
        self.to(torch.float64)
        draw = np.random.default_rng(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.from_numpy(draw.normal(0, 0.05, tuple(parameter.shape))) - 0.5 * parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(x)[0]

    def classify(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        features = self.body(x.reshape(-1, 1, 8, 8))
        return self.classifier(features), [features], []


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("optimizer", [OptimizerSpec(batch_size=6), OptimizerSpec("adam", lr=1e-3, batch_size=40)])
def test_any_module_equals_solo(digits: Dataset, runs: int, optimizer: OptimizerSpec) -> None:
    torch.manual_seed(0)
    nets = [Convolutions(seed) for seed in range(runs)]
    solo = [copy.deepcopy(net) for net in nets]
    tasks = [a_task(digits, seed, permuted=seed != 1) for seed in range(runs)]
    orders = [np.random.default_rng(seed).permutation(1437)[:203] for seed in range(runs)]
    engine = StackedEngine(nets, digits, optimizer, "cpu")
    for net in nets:
        net.eval()  # as measuring leaves it
    progress = engine.train_epoch(tasks, orders, optimizer.lr)
    assert not any(net.training for net in nets)
    for net, other, task, order, own in zip(nets, solo, tasks, orders, progress, strict=True):
        correct, loss = plain_loop(cast(Any, other), digits, task, order, optimizer)
        assert own.correct == correct and own.loss == pytest.approx(loss, abs=1e-10)
        for name, value in other.state_dict().items():
            assert torch.allclose(net.state_dict()[name], value, rtol=0, atol=1e-10), name


@pytest.mark.parametrize(
    ("optimizer", "shape"),
    [
        (OptimizerSpec(batch_size=1), {}),
        (OptimizerSpec(batch_size=16, momentum=0.9), {}),
        (OptimizerSpec("adam", batch_size=16), {}),
        (OptimizerSpec("adamw", batch_size=16), {"norm": "batch"}),
    ],
    ids=["sgd", "momentum", "adam", "adamw-batch-norm"],
)
def test_going_on_from_a_state_gives_the_same_bits(
    digits: Dataset, optimizer: OptimizerSpec, shape: dict[str, str]
) -> None:
    tasks = [a_task(digits, seed) for seed in SEEDS]

    def engine() -> StackedEngine:
        return StackedEngine([a_network(digits, s, "float32", **shape) for s in SEEDS], digits, optimizer, "cpu")

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
    state = begun.state()
    assert all(bool(own) == bool(optimizer.momentum or optimizer.name != "sgd") for own in state)
    assert all(value.device.type == "cpu" and value.is_contiguous() for own in state for value in own.values())
    resumed.load_state(state)
    train(resumed, 2)
    for one, other in zip(whole.networks, resumed.networks, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("autograd", [False, True])
def test_a_run_that_diverges_leaves_its_neighbours_alone(digits: Dataset, autograd: bool) -> None:
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(300)] * 3
    results = []
    for broken in (False, True):
        nets = [a_network(digits, seed, "float32") for seed in SEEDS]
        engine = StackedEngine(nets, digits, OptimizerSpec(batch_size=4), "cpu", autograd=autograd)
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
        (NetworkSpec(), OptimizerSpec("rmsprop"), "cpu", "float32", "not rmsprop"),
        (NetworkSpec(), OptimizerSpec(), "cuda:0", "bf16", "MLPs"),
        (NetworkSpec("resnet18"), OptimizerSpec(), "cpu", "tf32", "not of cpu"),
        (NetworkSpec(), OptimizerSpec(), "mps", "float64", "float64"),
    ],
)
def test_what_it_cannot_carry_it_refuses_in_words(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, precision: str, words: str
) -> None:
    assert words in str(StackedEngine.refuses(network, optimizer, device, precision))


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "mps"])
def test_it_carries_every_network_on_every_device(device: str) -> None:
    for network in (NetworkSpec(), NetworkSpec(norm="layer"), NetworkSpec("resnet18")):
        assert StackedEngine.refuses(network, OptimizerSpec("adam", batch_size=8), device, "float32") is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("optimizer", "shape"),
    [
        (OptimizerSpec(), {}),
        (OptimizerSpec(batch_size=4, weight_decay=0.01), {"activation": "gelu"}),
        (OptimizerSpec("adam", batch_size=16), {"norm": "batch"}),
    ],
    ids=["by-hand", "decay", "adam-batch-norm"],
)
def test_cuda_follows_the_cpu(digits: Dataset, optimizer: OptimizerSpec, shape: dict[str, str]) -> None:
    tasks, orders = [a_task(digits, seed) for seed in SEEDS], [np.arange(300)] * 3
    nets = {d: [a_network(digits, s, **shape).to(d) for s in SEEDS] for d in ("cpu", "cuda:0")}
    for device, group in nets.items():
        engine = StackedEngine(group, digits, optimizer, device)
        engine.train_epoch(tasks, orders, 0.01)
        engine.load_state(engine.state())
        engine.train_epoch(tasks, orders, 0.01)
    for one, other in zip(nets["cpu"], nets["cuda:0"], strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b.cpu(), rtol=0, atol=1e-9)
