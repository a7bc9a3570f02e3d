"""feature_norm, gradient_norm and weight_rescale against loops written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ncpl_cli import settings, trainer
from ncpl_cli.data import Dataset
from ncpl_cli.engines import OnlineEngine, StackedEngine
from ncpl_cli.interventions import Treatment, parse, parse_all
from ncpl_cli.networks import MLP
from ncpl_cli.plan import plan
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.spec import DatasetSpec, OptimizerSpec
from tests.test_interventions import SEEDS, assert_same, by_autograd, move, trained
from tests.test_online_engine import a_network, a_task


def feature_norm(net: MLP, initial: MLP, h: Tensor, z: Tensor, y: Tensor) -> Tensor:
    return 0.02 * torch.stack([row @ row for row in h]).mean() / 2


def gradient_norm(net: MLP, initial: MLP, h: Tensor, z: Tensor, y: Tensor) -> Tensor:
    slopes = torch.autograd.grad(F.cross_entropy(z, y), list(net.parameters()), create_graph=True)
    return 0.01 * torch.stack([(g * g).sum() for g in slopes]).sum()


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("optimizer", [OptimizerSpec(lr=0.05), OptimizerSpec("adam", lr=1e-3)], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    ("text", "penalty"), [("feature_norm:strength=0.02", feature_norm), ("gradient_norm:strength=0.02", gradient_norm)]
)
def test_a_remedy_in_the_loss_trains_as_if_written_out(
    digits: Dataset, text: str, penalty: Any, optimizer: OptimizerSpec, norm: str
) -> None:
    optimizer = replace(optimizer, batch_size=32)
    shape = {"width": 14, "depth": 2, "norm": norm, "activation": "tanh"}
    ours, _ = trained(digits, StackedEngine, optimizer, text, **shape)
    theirs = by_autograd(digits, optimizer, penalty, **shape)
    plain, _ = trained(digits, StackedEngine, optimizer, **shape)
    assert_same(ours, theirs, 1e-9)
    assert not torch.allclose(ours[0].classifier.weight, plain[0].classifier.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", [OnlineEngine, StackedEngine])
@pytest.mark.parametrize("batch", [1, 4])
def test_weight_rescale_keeps_every_layer_at_the_norm_it_began_with(digits: Dataset, engine: Any, batch: int) -> None:
    optimizer = OptimizerSpec(lr=0.1, batch_size=batch)
    care = Treatment(parse_all(["weight_rescale"]), lambda run, purpose: a_network(digits, run, width=9, depth=2))
    networks, literal = ([a_network(digits, seed, width=9, depth=2) for seed in SEEDS] for _ in range(2))
    for seed, (one, other) in enumerate(zip(networks, literal, strict=True)):
        move(one, seed), move(other, seed)
    tasks = [a_task(digits, seed) for seed in SEEDS]
    orders = [np.random.default_rng(seed).permutation(1437)[:48] for seed in SEEDS]
    engine(networks, digits, optimizer, "cpu", treatment=care).train_epoch(tasks, orders, optimizer.lr)
    for seed, (net, order, task) in enumerate(zip(literal, orders, tasks, strict=True)):
        first = {name: p.detach().norm() for name, p in a_network(digits, seed, width=9, depth=2).named_parameters()}
        how = torch.optim.SGD(net.parameters(), lr=0.1)
        x = torch.from_numpy(digits.train.images.reshape(1437, -1)[:, task.pixel_order] / digits.scale)[order]
        y = torch.from_numpy(task.train_labels[order])
        for start in range(0, 48, batch):
            how.zero_grad()
            F.cross_entropy(net(x[start : start + batch]), y[start : start + batch]).backward()
            how.step()
            with torch.no_grad():
                for name, p in net.named_parameters():
                    if p.dim() == 2:
                        p *= first[name] / p.norm()
    assert_same(networks, literal, 1e-9)


def test_the_norm_is_that_of_the_runs_own_initialisation(digits: Dataset) -> None:
    given = {"tasks": 1, "width": 8, "depth": 1, "batch_size": 64, "optimizer": "adam", "lr": 0.05}
    spec, other = settings.specs(
        PermutedDigits, {**given, "intervention": ["weight_rescale"]}, digits, DatasetSpec("digits"), [3, 4]
    )  # fmt: skip
    (cohort,) = plan([spec, other], "cpu")
    (*_, last) = trainer.train(cohort, digits)
    for one, state in zip((spec, other), last.state(), strict=True):
        initial = trainer.build(one, digits)
        for name, p in initial.named_parameters():
            same = state[f"network.{name}"].norm() == pytest.approx(float(p.detach().norm()), rel=1e-5)
            assert same == (p.dim() == 2), name


def test_a_matrix_that_became_zero_stays(digits: Dataset) -> None:
    care = Treatment(parse_all(["weight_rescale"]), lambda run, purpose: a_network(digits, run, width=9, depth=1))
    net = a_network(digits, 0, width=9, depth=1)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.hidden[0].weight.mul_(3)  # type: ignore[operator, union-attr]
    parse("weight_rescale").recycle(care.run(0, net, {}, "now"))
    assert not net.classifier.weight.any()
    assert torch.allclose(net.hidden[0].weight, a_network(digits, 0, width=9, depth=1).hidden[0].weight)  # type: ignore[arg-type, union-attr]
