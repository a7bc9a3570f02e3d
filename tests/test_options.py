"""Initialisation as torch's, Adam's own options, and l2 without gains and shifts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ncpl_cli import networks, settings
from ncpl_cli.commands._grid import keys
from ncpl_cli.data import Dataset
from ncpl_cli.engines import StackedEngine
from ncpl_cli.errors import InputError
from ncpl_cli.interventions import parse
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.spec import DatasetSpec, OptimizerSpec, RunSpec, flat
from tests.test_interventions import SEEDS, treatment
from tests.test_online_engine import a_network, a_task


def a_spec(data: Dataset, **given: Any) -> RunSpec:
    return settings.specs(PermutedDigits, given, data, DatasetSpec("digits"), [0])[0]


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_init_torch_draws_what_torch_draws(name: str) -> None:
    """Same bounds and variances as fresh layers of torch, on other numbers."""
    net = networks.build(name, (3, 16, 16), 10, 4, precision="float64", width=48, init="torch")
    plain = networks.build(name, (3, 16, 16), 10, 4, precision="float64", width=48)
    seen = 0
    for key, layer in net.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        theirs = layer.__class__(**_shape(layer))
        bound = 1 / np.sqrt(layer.weight[0].numel())
        for own, other in ((layer.weight, theirs.weight), (layer.bias, theirs.bias)):
            if own is None or other is None:
                assert own is None and other is None
                continue
            assert float(own.detach().abs().max()) <= bound and float(other.detach().abs().max()) <= bound * (1 + 1e-6)
            if own.numel() > 1000:
                assert float(own.detach().std()) == pytest.approx(bound / np.sqrt(3), rel=0.1)
                assert float(other.detach().std()) == pytest.approx(bound / np.sqrt(3), rel=0.1)
                seen += 1
        if key != "classifier" or name == "mlp":
            assert not torch.equal(layer.weight, plain.get_submodule(key).weight)  # type: ignore[arg-type]
    assert seen >= 3


def _shape(layer: nn.Linear | nn.Conv2d) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    return {
        "in_channels": layer.in_channels, "out_channels": layer.out_channels, "kernel_size": layer.kernel_size,
        "bias": layer.bias is not None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("counted", [False, True])
def test_adam_takes_its_own_options(digits: Dataset, name: str, counted: bool) -> None:
    spec = OptimizerSpec(name, lr=0.01, batch_size=8, weight_decay=0.1, beta1=0.5, beta2=0.9, eps=1e-3)
    text = "redo:tau=0,steps=1000" if counted else "l2:strength=0"
    nets, solo = ([a_network(digits, seed, width=9, depth=1) for seed in SEEDS] for _ in range(2))
    engine = StackedEngine(nets, digits, spec, "cpu", treatment=treatment(digits, text, width=9, depth=1))
    tasks = [a_task(digits, seed) for seed in SEEDS]
    engine.train_epoch(tasks, [np.arange(80)] * 2, spec.lr)
    for net, other, task in zip(nets, solo, tasks, strict=True):
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        how = kind(other.parameters(), lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1)
        x = torch.from_numpy(digits.train.images.reshape(1437, -1)[:80, task.pixel_order] / digits.scale)
        y = torch.from_numpy(task.train_labels[:80])
        for start in range(0, 80, 8):
            how.zero_grad()
            F.cross_entropy(other(x[start : start + 8]), y[start : start + 8]).backward()
            how.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("given", [{"beta1": 0.9}, {"beta2": 0.99}, {"eps": 1e-3}])
def test_what_belongs_to_adam_is_refused_for_sgd(digits: Dataset, given: dict[str, float]) -> None:
    with pytest.raises(InputError, match="belong to adam"):
        a_spec(digits, **given)
    assert a_spec(digits, optimizer="adam", **given).optimizer.name == "adam"


@pytest.mark.parametrize("scope", ["all", "weights"])
def test_l2_of_weights_leaves_gains_and_shifts_alone(digits: Dataset, scope: str) -> None:
    spec = OptimizerSpec("adam", lr=0.01, batch_size=8)
    nets, solo = ([a_network(digits, seed, width=9, depth=2, norm="layer") for seed in SEEDS] for _ in range(2))
    care = treatment(digits, f"l2:strength=0.3,scope={scope}", width=9, depth=2, norm="layer")
    tasks = [a_task(digits, seed) for seed in SEEDS]
    StackedEngine(nets, digits, spec, "cpu", treatment=care).train_epoch(tasks, [np.arange(80)] * 2, spec.lr)
    for net, other, task in zip(nets, solo, tasks, strict=True):
        how = torch.optim.Adam(other.parameters(), lr=0.01)
        x = torch.from_numpy(digits.train.images.reshape(1437, -1)[:80, task.pixel_order] / digits.scale)
        y = torch.from_numpy(task.train_labels[:80])
        for start in range(0, 80, 8):
            how.zero_grad()
            held = [p for n, p in other.named_parameters() if scope == "all" or not n.startswith("norms")]
            penalty = torch.stack([p.square().sum() for p in held]).sum()
            (F.cross_entropy(other(x[start : start + 8]), y[start : start + 8]) + 0.15 * penalty).backward()
            how.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="throughout and on all"):
        a_spec(digits, intervention=["weight_decay:scope=weights"])


def test_new_options_are_settings_and_sweep_keys_and_change_no_identity_at_their_default(digits: Dataset) -> None:
    plain = a_spec(digits, optimizer="adam", intervention=["l2"])
    same = a_spec(
        digits, optimizer="adam", beta1=0.9, beta2=0.999, eps=1e-8, init="kaiming", intervention=["l2:scope=all"]
    )  # fmt: skip
    assert same.id == plain.id and not {"beta1", "beta2", "eps", "init"} & flat(same).keys()
    other = a_spec(digits, optimizer="adam", eps=1e-3, init="torch", intervention=["l2:scope=weights"])
    assert other.id != plain.id and flat(other)["eps"] == 1e-3 and flat(other)["init"] == "torch"
    assert {"init", "beta1", "beta2", "eps", "objective"} <= {*keys(PermutedDigits)}
    assert parse("l2:scope=weights").label == "l2:scope=weights"
    with pytest.raises(InputError, match="cannot be chosen"):
        a_spec(digits, network="torchvision.models:vgg11", init="torch")
