"""Engines, interventions and metrics on a GPU that is not there (see `pseudo_device`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines.copies import on_host
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.interventions import INTERVENTIONS, Treatment, parse
from ncpl_cli.metrics import forward, snapshot
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.metrics.forgetting import task_accuracy
from ncpl_cli.metrics.snapshot import Snapshot, measure
from ncpl_cli.scenarios.augmentation import Augmentation
from ncpl_cli.spec import OptimizerSpec
from tests.pseudo_device import DEVICE, Seen, pseudo_device
from tests.test_online_engine import a_task

WAITS_AN_EPOCH = 1
"""The progress, and with it what the interventions have to say."""


def network(data: Dataset, name: str, seed: int, **shape: Any) -> Any:
    if name != "mlp":
        shape = {"width": 2, "statistics": data.channel_statistics, **shape}
    return networks.build(name, data.shape, data.classes, seed, **shape)


def epochs(
    data: Dataset, name: str, shape: dict[str, Any], optimizer: OptimizerSpec, interventions: Sequence[str] = (),
    runs: int = 1, augment: str = "none",
) -> tuple[Seen, list[int], list[list[str]]]:  # fmt: skip
    """Two epochs of 4 steps and two of 8: what was seen, kernels of the last of each, their waits."""
    with pseudo_device() as seen:
        nets = [network(data, name, seed, **shape).to(DEVICE) for seed in range(runs)]
        treatment = Treatment(
            tuple(map(parse, interventions)), lambda r, purpose: network(data, name, r, **shape).to(DEVICE)
        )  # fmt: skip
        engine = StackedEngine(nets, data, optimizer, DEVICE, treatment=treatment)
        tasks = [replace(a_task(data, s), augmentation=Augmentation.of(augment, s)) for s in range(runs)]
        kernels, waits = [], []
        for steps in (4, 4, 8, 8):
            seen.kernels, seen.waits = 0, []
            engine.train_epoch(tasks, [np.arange(steps * optimizer.batch_size)] * runs, 0.01)
            kernels.append(seen.kernels)
            waits.append(list(seen.waits))
        held = engine.state()
        seen.waits = []
        for own in held:
            assert not any(seen.there(value) for value in on_host(own).values())
        assert len(seen.waits) <= 2 * runs, seen.waits  # one a precision, not one a parameter
        engine.load_state(held)
    return seen, [kernels[1], kernels[3]], [waits[1], waits[3]]


CASES = {
    "single samples by hand": ("mlp", {}, OptimizerSpec(), 3, 60),
    "batches by hand": ("mlp", {}, OptimizerSpec(batch_size=32, weight_decay=0.01), 2, 45),
    "layer norm, momentum": ("mlp", {"norm": "layer"}, OptimizerSpec(batch_size=16, momentum=0.9), 2, 130),
    "batch norm, Adam": ("mlp", {"norm": "batch"}, OptimizerSpec(name="adam", batch_size=16), 2, 150),
    "resnet18": ("resnet18", {"norm": "batch"}, OptimizerSpec(batch_size=8), 1, 175),
    "resnet18, AdamW": ("resnet18", {"norm": "batch"}, OptimizerSpec(name="adamw", batch_size=8), 1, 175),
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_mixes_nothing_and_does_not_wait(digits: Dataset, case: str) -> None:
    name, shape, optimizer, runs, most = CASES[case]
    seen, kernels, waits = epochs(digits, name, shape, optimizer, runs=runs)
    assert seen.mixed == [] and seen.arrays == []
    assert len(waits[1]) <= WAITS_AN_EPOCH, waits[1]
    a_step = (kernels[1] - kernels[0]) / 4
    assert 5 < a_step <= most


@pytest.mark.parametrize(("name", "runs"), [("mlp", 2), ("convnet", 1)])
def test_images_are_moved_where_they_lie_and_nobody_waits(digits: Dataset, name: str, runs: int) -> None:
    given = (digits, name, {}, OptimizerSpec(batch_size=16), (), runs)
    (seen, kernels, waits), (_, plain, _) = epochs(*given, augment="flip+crop:2+rotate:15"), epochs(*given)
    assert seen.mixed == [] and seen.arrays == [] and len(waits[1]) <= WAITS_AN_EPOCH
    assert 0 < kernels[1] - kernels[0] - (plain[1] - plain[0]) <= 4 * 60, "of four steps"


LOOKS = {"redo": "redo:steps=4", "continual_backprop": "continual_backprop:rate=0.05,maturity=2"}
"""Interventions that decide between two steps what is made anew, and are then waited for."""


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_mixes_nothing_and_is_not_waited_for(digits: Dataset, name: str) -> None:
    optimizer = OptimizerSpec(name="adam", batch_size=16)
    seen, _, waits = epochs(digits, "mlp", {"width": 12}, optimizer, [LOOKS.get(name, name)], 2)
    assert seen.mixed == [] and seen.arrays == []
    if name not in LOOKS:
        assert len(waits[0]) == len(waits[1]) <= WAITS_AN_EPOCH, waits[1]


@pytest.mark.parametrize("kind", ["mlp", "resnet18"])
def test_every_family_is_measured_where_the_network_is(
    digits: Dataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (forward, snapshot):
        monkeypatch.setattr(module, "FEW_ROWS" if module is forward else "DIAGNOSTIC_SAMPLES", 100)  # not all
    data = replace(
        digits, train=digits.train.take(np.arange(160)), test=digits.test.take(np.arange(80))
    )  # fmt: skip
    task = replace(a_task(data), train_labels=data.train.labels, test_labels=data.test.labels)
    plain = network(data, kind, 0, **({"norm": "batch"} if kind != "mlp" else {}))
    names = [m.id for m in METRICS.values() if kind == "mlp" or m.cost == "cheap"]

    def found(device: str) -> Any:
        net = network(data, kind, 0, **({"norm": "batch"} if kind != "mlp" else {})).to(device)
        net.load_state_dict(plain.state_dict())
        initial = {name: value.detach().clone() + 0.01 for name, value in net.named_parameters()}
        look = Snapshot(net, data, task, initial, device, None, 0.01)
        return measure(look, tuple(names), "all"), task_accuracy(net, data, [task], 50, device)

    here, row = found("cpu")
    with pseudo_device() as seen:
        there, same = found(DEVICE)
    assert seen.mixed == [] and seen.arrays == []
    if kind != "mlp":  # not one for each of its 62 parameters
        assert len(seen.waits) < 130, len(seen.waits)
    assert there.values.keys() == here.values.keys() and same == row
    for address, value in here.values.items():
        assert there.values[address] == pytest.approx(value, rel=2e-3, abs=1e-5), address


def test_it_sees_what_it_is_for() -> None:
    with pseudo_device() as seen:
        x = torch.ones(3).to(DEVICE)
        assert x.is_cuda and x.device.type == "cuda" and not torch.ones(3).is_cuda
        y = x + torch.ones(3)
        float(y.sum())
        y.numpy()
        assert (len(seen.mixed), len(seen.waits), len(seen.arrays), seen.kernels) == (1, 1, 1, 2)
        assert not seen.there(y.cpu()) and len(seen.waits) == 2
        assert seen.there(torch.zeros(2, device=DEVICE)) and seen.there(x.new_zeros(2)) and seen.there(x.view(1, 3))
