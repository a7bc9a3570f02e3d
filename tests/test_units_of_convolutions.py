"""Recycling of channels: ReDo (S23) and continual backprop (D24) on convolutions and residual blocks, written out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpl_cli import rng
from ncpl_cli.data import Dataset
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.errors import InputError
from ncpl_cli.interventions import Run, Treatment, parse
from ncpl_cli.main import call
from ncpl_cli.networks import OwnNetwork, ResNet18
from ncpl_cli.networks.convnet import ConvNet
from ncpl_cli.networks.hidden_units import UnitLayer, unit_layers
from ncpl_cli.networks.wide_resnet import WideResNet
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec


def small(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions, one of them with batch norm, and a linear layer that sees each channel at four places."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, classes),
    )  # fmt: skip


def grouped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, classes))


def a_network(kind: str, seed: int) -> Any:
    moments = {"mean": torch.zeros(1), "std": torch.ones(1)}
    network: Any
    if kind == "chain":
        network = OwnNetwork("tests.test_units_of_convolutions:small", (1, 8, 8), 10, **moments)
    elif kind == "convnet":
        network = ConvNet(1, 10, width=4, **moments)
    elif kind.startswith("wide"):
        network = WideResNet(1, 10, width=int(kind[-1]), depth=16, **moments)
    else:
        network = ResNet18(1, 10, width=4, norm="batch" if kind == "resnet" else "none", **moments)
    network.double().initialise(rng.stream(seed, "initialisation"))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                draw = torch.Generator().manual_seed(seed)
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.uniform_(-0.3, 0.3, generator=draw)
                module.running_mean.uniform_(-0.1, 0.1, generator=draw)  # type: ignore[union-attr]
    return network


def the_run(kind: str) -> Run:
    network = a_network(kind, 0)
    moments = {f"exp_avg.{n}": torch.ones_like(p) for n, p in network.named_parameters()}
    images = torch.rand(40, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Run(network, lambda: a_network(kind, 5), moments, images)


def kill(network: Any, layer: UnitLayer, unit: int) -> None:
    """Make a channel dead whatever comes: nothing that writes it gives it anything."""
    with torch.no_grad():
        for name in layer.writers:
            for key, value in network.get_submodule(name).state_dict().items():
                if value.dim():
                    value[unit] = 1.0 if key == "running_var" else 0.0


LAYERS = {"chain": 3, "resnet": 12, "resnet-none": 12, "convnet": 4, "wide-1": 6 + 3, "wide-2": 6 + 4}


@pytest.mark.parametrize("kind", LAYERS)
def test_recycling_a_dead_channel_leaves_the_function_as_it_is(kind: str) -> None:
    run = the_run(kind)
    network = run.network.eval()
    layers = unit_layers(network)
    assert len(layers) == LAYERS[kind]
    for layer in layers:
        kill(network, layer, 1)
    dead = copy.deepcopy(network)
    before = network(run.images).detach()
    count = parse("redo:tau=0").recycle(run)
    assert count >= len(layers) and not run.network.training
    assert torch.allclose(network(run.images), before, atol=1e-10)
    fresh = run.fresh()
    silenced: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        units = run.recycled[number].tolist()
        assert 1 in units
        for name in layer.readers:
            weight = network.get_submodule(name).weight
            kernel = weight.flatten(2).abs().sum(2) if weight.dim() > 2 else weight.abs()
            places = kernel.shape[1] // layer.units  # a linear layer behind a convolution sees every position
            columns = [u * places + p for u in units for p in range(places)]
            assert bool((kernel[:, columns] == 0).all())
            moments = run.moments[f"exp_avg.{name}.weight"]
            assert bool((moments[:, columns] == 0).all())
            silenced[name] = torch.tensor(columns)
    for number, layer in enumerate(layers):
        units = run.recycled[number].tolist()
        for name in layer.writers:
            ours, theirs = (of.get_submodule(name).state_dict() for of in (network, fresh))
            for key, value in ours.items():
                if not value.dim():
                    continue
                renewed = theirs[key][units].clone()
                if key == "weight" and name in silenced:  # between two that begin anew it is 0
                    renewed[:, silenced[name]] = 0
                assert torch.equal(value[units], renewed), (name, key)
                others = [u for u in range(len(value)) if u not in units]
                old = dead.get_submodule(name).state_dict()[key][others].clone()
                if key == "weight" and name in silenced:
                    old[:, silenced[name]] = 0
                assert torch.equal(value[others], old), (name, key)
                if (moments := run.moments.get(f"exp_avg.{name}.{key}")) is not None:
                    assert bool((moments[units] == 0).all())


def test_a_channel_is_as_active_as_its_readers_see_it(digits: Dataset) -> None:
    """S23's score of the first convolution: mean |h| over samples and positions, against the mean over channels."""
    run = the_run("chain")
    body = run.network.eval().body
    h = body[3](F.relu(body[1](body[0](run.images)))).detach()  # 40 x 6 x 4 x 4, behind the pooling
    score = h.abs().mean((0, 2, 3)) / h.abs().mean()
    tau = float(score.sort().values[2:4].mean())
    before = body[0].weight.clone()
    parse(f"redo:tau={tau}").recycle(run)
    changed = (body[0].weight != before).flatten(1).any(1)
    assert changed.tolist() == (score <= tau).tolist()


@pytest.mark.parametrize("kind", ["chain", "resnet", "wide-2"])
def test_continual_backprop_is_the_rule_written_out(digits: Dataset, kind: str) -> None:
    """Ten steps of the engine against plain torch: utilities, ages, who is replaced, and the parameters after it."""
    rate, maturity, decay, steps, batch = 0.15, 2, 0.9, 10, 8
    care = parse(f"continual_backprop:rate={rate},maturity={maturity},decay={decay}")
    order = np.random.default_rng(0).permutation(1437)[: steps * batch]
    task = Task(0, 1, lambda _: order, digits.train.labels, digits.test.labels)
    network, fresh = a_network(kind, 0), a_network(kind, 5)
    engine = StackedEngine([network], digits, OptimizerSpec(lr=0.05, batch_size=batch), "cpu",
                           treatment=Treatment((care,), lambda r, purpose: a_network(kind, 5)))  # fmt: skip
    theirs = copy.deepcopy(network).train()
    (progress,) = engine.train_epoch([task], [order], 0.05)

    layers = unit_layers(theirs)
    utility = [torch.zeros(of.units, dtype=torch.float64) for of in layers]
    age = [torch.zeros(of.units, dtype=torch.float64) for of in layers]
    due, total = [0.0] * len(layers), 0
    images = torch.from_numpy(digits.train.images[order] / digits.scale)
    labels = torch.from_numpy(digits.train.labels[order])
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        seen: dict[str, Tensor] = {}
        handles = [
            module.register_forward_pre_hook(
                lambda _, given, name=name, into=seen: into.update({name: given[0].detach()})
            )
            for name, module in theirs.named_modules() if any(name in of.readers for of in layers)
        ]  # fmt: skip
        theirs.zero_grad()
        F.cross_entropy(theirs(images[rows]), labels[rows]).backward()
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for p in theirs.parameters():
                p -= 0.05 * p.grad
        replaced: dict[int, list[int]] = {}
        contributions = []
        for of in layers:
            found = torch.zeros(of.units, dtype=torch.float64)
            for name in of.readers:
                weight, h = theirs.get_submodule(name).weight.detach(), seen[name]
                active = h.abs().mean((0, 2, 3)) if h.dim() > 2 else h.abs().mean(0)
                out = weight.abs().sum((0, 2, 3)) if weight.dim() > 2 else weight.abs().sum(0)
                for column in range(len(active)):
                    found[column * of.units // len(active)] += float(active[column] * out[column])
            contributions.append(found)
        for number in range(len(layers)):
            utility[number] = decay * utility[number] + (1 - decay) * contributions[number]
            age[number] += 1
            mature = age[number] > maturity
            due[number] += rate * int(mature.sum())
            count = min(int(due[number] + 1e-9), int(mature.sum()))
            if count:
                value = (utility[number] / (1 - decay ** age[number])).masked_fill(~mature, torch.inf)
                units = value.argsort(stable=True)[:count].tolist()
                due[number] -= count
                total += count
                replaced[number] = units
                utility[number][units] = 0
                age[number][units] = 0
        with torch.no_grad():
            for number, units in replaced.items():
                for name in layers[number].writers:
                    for key, own in theirs.get_submodule(name).state_dict().items():
                        if own.dim():
                            own[units] = fresh.get_submodule(name).state_dict()[key][units]
            for number, units in replaced.items():
                for name in layers[number].readers:
                    weight = theirs.get_submodule(name).weight
                    times = weight.shape[1] // layers[number].units
                    weight[:, [u * times + p for u in units for p in range(times)]] = 0
    assert progress.extra["recycled_units"] == total > len(layers)
    for (name, ours), expected in zip(network.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(ours.double(), expected.double(), atol=1e-8), name


def test_what_has_no_known_units_is_refused(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    moments = {"mean": torch.zeros(1), "std": torch.ones(1)}
    with pytest.raises(InputError, match="a grouped convolution stands between"):
        unit_layers(OwnNetwork("tests.test_units_of_convolutions:grouped", (1, 8, 8), 10, **moments))
    arguments = ["train", "permuted-digits", "--tasks", "1", "--batch-size", "32", "--train-samples", "64", "--lr",
                 "0.1", "--db", str(tmp_path / "a.db")]  # fmt: skip
    own = ["--network", "tests.test_units_of_convolutions:grouped", "--intervention", "redo"]
    assert call([*arguments, *own]) == 2
    assert "the units of this network are not known" in capsys.readouterr().err
    resnet = ["--network", "resnet18", "--width", "4", "--intervention", "redo:steps=1,tau=0.5"]
    assert call([*arguments, *resnet, "--intervention", "continual_backprop:rate=0.1,maturity=0"]) == 0
