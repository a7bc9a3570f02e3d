"""Engines, interventions and metrics on a GPU that is not there (see `pseudo_device`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ncpl_cli import networks
from ncpl_cli.data import Dataset, resident
from ncpl_cli.engines import ENGINES, captured
from ncpl_cli.engines.copies import on_host
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.interventions import INTERVENTIONS, Treatment, parse
from ncpl_cli.metrics import forward, snapshot
from ncpl_cli.metrics.catalogue import METRICS
from ncpl_cli.metrics.forgetting import task_accuracy
from ncpl_cli.metrics.snapshot import Snapshot, measure
from ncpl_cli.objectives import OBJECTIVES, TwoHot
from ncpl_cli.scenarios.augmentation import Augmentation
from ncpl_cli.spec import NetworkSpec, OptimizerSpec
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
    runs: int = 1, augment: str = "none", engine: Any = StackedEngine, few: int = 4, **task: Any,
) -> tuple[Seen, list[int], list[list[str]]]:  # fmt: skip
    """Two epochs of `few` steps and two of twice as many: what was seen, kernels of the last of each, their waits."""
    with pseudo_device() as seen:
        nets = [network(data, name, seed, **shape).to(DEVICE) for seed in range(runs)]
        treatment = Treatment(
            tuple(map(parse, interventions)), lambda r, purpose: network(data, name, r, **shape).to(DEVICE)
        )  # fmt: skip
        engine = engine(nets, data, optimizer, DEVICE, treatment=treatment)
        moved = [Augmentation.of(augment, s) for s in range(runs)]
        tasks = [replace(a_task(data, s), augmentation=moves, **task) for s, moves in enumerate(moved)]
        kernels, waits = [], []
        for steps in (few, few, 2 * few, 2 * few):
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


@pytest.mark.parametrize("kind", [kind for kind in networks.NETWORKS if kind not in ("mlp", "resnet18")])
def test_a_network_mixes_nothing_and_is_not_waited_for(digits: Dataset, kind: str) -> None:
    """A new one is looked at by itself."""
    seen, kernels, waits = epochs(digits, kind, {}, OptimizerSpec(batch_size=8), few=2)
    assert seen.mixed == [] and seen.arrays == [] and len(waits[1]) <= WAITS_AN_EPOCH, waits[1]
    assert 5 < (kernels[1] - kernels[0]) / 2 <= 60


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_an_objective_mixes_nothing_and_is_not_waited_for(digits: Dataset, kind: str, name: str) -> None:
    optimizer = OptimizerSpec(batch_size=8)
    asked = None if name != "two_hot" else {"trained": np.random.default_rng(0).normal(size=(1437, 2))}  # 2 x 5 bins
    objective = OBJECTIVES[name]() if asked is None else TwoHot(low=-2, high=2, bins=5)
    seen, kernels, waits = epochs(digits, kind, {}, optimizer, few=2, objective=objective, targets=asked or {})
    assert seen.mixed == [] and seen.arrays == [] and len(waits[1]) <= WAITS_AN_EPOCH, waits[1]
    assert 5 < (kernels[1] - kernels[0]) / 2 <= 80


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_mixes_nothing_and_does_not_wait_or_says_that_it_is_of_the_cpu(
    digits: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one is looked at by itself."""
    monkeypatch.setattr(captured, "stream_of", lambda device: None)  # there is none to launch on
    carried = 0
    for kind, norm in (("mlp", "none"), ("convnet", "batch")):
        optimizer = OptimizerSpec(batch_size=8)
        if why := ENGINES[name].refuses(NetworkSpec(kind, norm=norm), optimizer, DEVICE, "float32"):
            assert DEVICE in why or kind == "mlp", why
            continue
        carried += 1
        seen, kernels, waits = epochs(digits, kind, {}, optimizer, engine=ENGINES[name], few=2)
        assert seen.mixed == [] and seen.arrays == [] and len(waits[1]) <= WAITS_AN_EPOCH, waits[1]
        assert 5 < (kernels[1] - kernels[0]) / 2 <= 60
    assert carried or "CPU" in (why or "")


OPTIONS = {"redo": "redo:steps=4", "continual_backprop": "continual_backprop:rate=0.05,maturity=2"}
"""So that they do what they do within a few steps."""

LOOKS = ("redo",)
"""Interventions that look at the units every so many steps, and are then waited for."""

KERNELS = {"spectral": 600, "continual_backprop": 320}
"""A step with an intervention launches at most: twelve squarings a matrix; whole networks that begin anew."""


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize(("kind", "runs"), [("mlp", 2), ("convnet", 1)])
def test_an_intervention_mixes_nothing_and_is_not_waited_for(digits: Dataset, kind: str, runs: int, name: str) -> None:
    """A new one is looked at by itself."""
    optimizer = OptimizerSpec(name="adam", batch_size=16)
    few = 4 if kind == "mlp" else 2
    seen, kernels, waits = epochs(digits, kind, {"width": 12}, optimizer, [OPTIONS.get(name, name)], runs, few=few)
    assert seen.mixed == [] and seen.arrays == []
    if name not in LOOKS:
        assert len(waits[0]) == len(waits[1]) <= WAITS_AN_EPOCH, waits[1]
    assert 5 < (kernels[1] - kernels[0]) / few <= KERNELS.get(name, 200)


def test_what_begins_anew_is_counted_by_the_host_as_on_the_device(digits: Dataset) -> None:
    """Continual backprop on a device decides by copies of its counts: after resets, looks and resumption too."""
    optimizer, steps = OptimizerSpec(name="adam", batch_size=8), 16
    orders = [[np.random.default_rng([e, r]).permutation(1437)[: steps * 8] for r in range(2)] for e in range(3)]

    def trained(device: str) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
        named = ["continual_backprop:rate=0.03,maturity=3", "redo:steps=20,tau=0.3", "full_reset"]

        def machine() -> tuple[list[Any], StackedEngine]:
            nets = [network(digits, "mlp", seed, width=12).to(device) for seed in range(2)]
            treatment = Treatment(
                tuple(map(parse, named)), lambda r, purpose: network(digits, "mlp", r, width=12).to(device)
            )
            return nets, StackedEngine(nets, digits, optimizer, device, treatment=treatment)

        said, tasks = [], [a_task(digits, s) for s in range(2)]
        nets, engine = machine()
        for epoch, order in enumerate(orders):
            if epoch == 1:
                engine.change("task 1", [1])
            if epoch == 2:
                before, state = nets, engine.state()
                nets, engine = machine()
                for mine, theirs in zip(nets, before, strict=True):
                    mine.load_state_dict(theirs.state_dict())
                engine.load_state(state)
            said += [progress.extra for progress in engine.train_epoch(tasks, order, 0.01)]
        held = [dict(net.state_dict()) | own for net, own in zip(nets, engine.state(), strict=True)]
        return [{name: value.cpu() for name, value in own.items()} for own in held], [dict(one) for one in said]

    here, wanted = trained("cpu")
    with pseudo_device() as seen:
        there, said = trained(DEVICE)
    assert seen.mixed == [] and said == wanted and min(one["recycled_units"] for one in said) > 3
    assert all(torch.equal(value, there[r][name]) for r, own in enumerate(here) for name, value in own.items())


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


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_images_that_lie_on_the_device_are_looked_at_there(
    digits: Dataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of any size, and from one look to the next; what would take too much of it goes there each time."""
    monkeypatch.setattr(forward, "IMAGE_BLOCK", {"cpu": 50, "cuda": 70})
    data, task = digits, a_task(digits)
    wanted = forward.predictions(network(data, kind, 0), data, task, "cpu")
    with pseudo_device() as seen:
        there, uploads = network(data, kind, 0).to(DEVICE), []
        for most in (1 << 30, 1 << 30, 0):
            monkeypatch.setattr(resident, "MOST", most)
            fresh = replace(data, train=data.train.take(np.arange(len(data.train)))) if not most else data
            before = seen.kernels
            found = forward.predictions(there, fresh, task, DEVICE)
            uploads.append(fresh.train in resident._RESIDENT and DEVICE in resident._RESIDENT[fresh.train])
            assert seen.mixed == [] and seen.arrays == [] and seen.kernels > before
            assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert uploads == [True, True, False]


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
