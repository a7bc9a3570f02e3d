"""Convolutional networks: ResNet-18 against torchvision's own, training against a plain loop, users' own networks."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ncpl_cli import networks
from ncpl_cli.data import Dataset, load
from ncpl_cli.data.cifar import FOLDER, RECORD, TEST, TRAIN
from ncpl_cli.data.dataset import Split
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.errors import DataError, InputError
from ncpl_cli.scenarios import scenario_named
from ncpl_cli.scenarios.task import Task
from ncpl_cli.settings import dataset_of, dataset_spec, from_row, network_spec, specs
from ncpl_cli.spec import DatasetSpec, OptimizerSpec, RunSpec, flat
from ncpl_cli.studies import study_named
from ncpl_cli.trainer import build
from tests.forked import start
from tests.test_train import contents, ncpl, unhurried

CIFAR_PARAMETERS = 11_173_962
"""ResNet-18 with a 3x3 stem and ten classes, as counted by others."""


def pictures(count: int = 24) -> Dataset:
    draw = np.random.default_rng(3)
    split = Split(draw.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8), draw.integers(0, 10, count))
    return Dataset("pictures", split, split, 10)


def resnet(data: Dataset, width: int = 4, precision: str = "float64", norm: str = "batch") -> networks.Network:
    return networks.build("resnet18", data.shape, 10, 0, width=width, norm=norm, precision=precision,
                          statistics=data.channel_statistics)  # fmt: skip


def by_hand(
    data: Dataset, orders: list[np.ndarray], batch: int, lr: float, net: networks.Network | None = None
) -> networks.Network:
    """What a plain loop makes of the network."""
    net = resnet(data) if net is None else net
    net.train()
    x, y = torch.from_numpy(data.train.images).double() / 255, torch.from_numpy(data.train.labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for order in orders:
        for index in torch.from_numpy(order).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
    return net


def test_it_is_torchvisions_resnet18_behind_a_small_stem() -> None:
    from torchvision.models import resnet18

    data = pictures()
    ours = resnet(data, 64, "float32").eval()
    assert sum(p.numel() for p in ours.parameters()) == CIFAR_PARAMETERS
    theirs = resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    names = {"stem.0": "conv1", "stem.1": "bn1", "classifier": "fc"}
    state = {}
    for name, value in ours.state_dict().items():
        if name in ("mean", "std"):
            continue
        head, _, rest = name.partition(".")
        if head == "stages":
            stage, _, rest = rest.partition(".")
            state[f"layer{int(stage) + 1}.{rest}"] = value
        else:
            ours_name = next(n for n in names if name.startswith(n + "."))
            state[names[ours_name] + name.removeprefix(ours_name)] = value
    theirs.load_state_dict(state)
    x = torch.from_numpy(data.test.images).float() / 255
    pixels = data.train.images.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    mean, std = (torch.from_numpy(v).float().reshape(1, 3, 1, 1) for v in (pixels.mean(1), pixels.std(1)))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()((x - mean) / std), rtol=1e-4, atol=1e-4)


SMALL = {"convnet": {"width": 3}, "wide_resnet": {"width": 1, "depth": 10}}


def small(name: str, data: Dataset, **shape: Any) -> networks.Network:
    return networks.build(name, data.shape, 10, 0, **{"precision": "float64", "norm": "batch", **SMALL[name], **shape},
                          statistics=data.channel_statistics)  # fmt: skip


def convolved(w: int) -> int:
    """Parameters of a convnet of width w on colour images: 3x3 convolutions, two a channel of each norm, the head."""
    sizes = (3, w, 2 * w, 4 * w, 4 * w)
    products = sum(a * b for a, b in itertools.pairwise(sizes))
    return 9 * products + 2 * sum(sizes[1:]) + (4 * w + 1) * 10


def widened(depth: int, k: int) -> int:
    """Parameters of WRN-depth-k on colour images, summed over its blocks as the paper draws them."""
    found, before = 27 * 16, 16
    for stage in range(3):
        after = 16 * k * 2**stage
        for _ in range((depth - 4) // 6):
            found += 2 * before + 9 * before * after + 2 * after + 9 * after * after
            found += before * after if before != after else 0
            before = after
    return found + 2 * before + (before + 1) * 10


@pytest.mark.parametrize(("name", "shape", "count"), [
    ("convnet", {"width": 16}, convolved(16)), ("convnet", {"width": 5}, convolved(5)),
    ("wide_resnet", {"depth": 28, "width": 10}, 36_479_194),  # as counted by its authors' code
    ("wide_resnet", {"depth": 28, "width": 4}, widened(28, 4)),
    ("wide_resnet", {"depth": 16, "width": 1}, widened(16, 1)),
])  # fmt: skip
def test_convolutional_networks_have_the_size_that_is_published(name: str, shape: dict[str, int], count: int) -> None:
    assert sum(p.numel() for p in small(name, pictures(1), precision="float32", **shape).parameters()) == count
    assert widened(28, 10) == 36_479_194


@pytest.mark.parametrize(("name", "widths"), [("convnet", (3, 6, 12, 12)), ("wide_resnet", (16, 32, 64))])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_layers_are_means_over_positions_and_the_last_is_what_the_classifier_reads(
    name: str, widths: tuple[int, ...], norm: str
) -> None:
    data = pictures()
    net = small(name, data, norm=norm).eval()
    maps: list[torch.Tensor] = []
    stages: Any = getattr(net, "blocks", None) or net.stages
    hooks = [one.register_forward_hook(lambda _, __, out: maps.append(out)) for one in stages]
    logits, activations, shown = net.classify(torch.from_numpy(data.train.images).double() / 255)
    for hook in hooks:
        hook.remove()
    assert [a.shape for a in activations] == [(24, width) for width in widths] and not shown
    assert len(net.layer_names) == len(widths) and net.layer_names[-1] == "last"
    for a, m in zip(activations[:-1], maps, strict=False):
        torch.testing.assert_close(a, m.flatten(2).sum(2) / m[0, 0].numel())
    torch.testing.assert_close(logits, activations[-1] @ net.classifier.weight.T + net.classifier.bias)
    assert isinstance(net.classifier, nn.Linear) and (activations[-1] >= 0).all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("name", list(SMALL))
def test_the_engine_trains_them_as_a_plain_loop_does(name: str) -> None:
    data = pictures()
    orders = [np.random.default_rng(i).permutation(24) for i in range(2)]
    nets = [small(name, data) for _ in range(2)]
    engine = StackedEngine(nets, data, OptimizerSpec(lr=0.05, batch_size=10), "cpu", precision="float64")
    task = Task(0, 1, lambda _: orders[0], data.train.labels, data.test.labels)
    for order in orders:
        engine.train_epoch([task] * 2, [order] * 2, 0.05)
    reference = by_hand(data, orders, 10, 0.05, small(name, data)).state_dict()
    for net in nets:
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, reference[key], rtol=1e-9, atol=1e-11, msg=key)


def test_the_depth_of_a_wide_resnet_is_three_equal_stages() -> None:
    shape = network_spec({"network": "wide_resnet"})
    assert (shape.depth, shape.width, shape.norm) == (28, 4, "batch")
    for depth in (4, 12, 27):
        with pytest.raises(InputError, match="6n"):
            network_spec({"network": "wide_resnet", "depth": depth})
    with pytest.raises(InputError, match="--depth cannot be chosen for --network convnet"):
        network_spec({"network": "convnet", "depth": 3})


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("runs", [1, 2])
def test_the_engine_trains_it_as_a_plain_loop_does(device: str, runs: int) -> None:
    data = pictures()
    orders = [np.random.default_rng(i).permutation(24) for i in range(2)]
    nets = [resnet(data).to(device) for _ in range(runs)]
    engine = StackedEngine(nets, data, OptimizerSpec(lr=0.05, batch_size=10), device, precision="float64")
    task = Task(0, 1, lambda _: orders[0], data.train.labels, data.test.labels)
    for order in orders:
        engine.train_epoch([task] * runs, [order] * runs, 0.05)
    reference = by_hand(data, orders, 10, 0.05).state_dict()
    for net in nets:
        for name, value in net.state_dict().items():
            torch.testing.assert_close(value.cpu(), reference[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("tf32", marks=pytest.mark.gpu)])
def test_coarser_arithmetic_stays_near_float32(precision: str) -> None:
    device = "cuda" if precision == "tf32" else "cpu"
    data = pictures()
    task = Task(0, 1, lambda _: np.arange(24), data.train.labels, data.test.labels)
    losses = {}
    for kind in ("float32", precision):
        net = resnet(data, precision="float32").to(device)
        engine = StackedEngine([net], data, OptimizerSpec(lr=0.02, batch_size=12), device, precision=kind)
        losses[kind] = [engine.train_epoch([task], [np.arange(24)], 0.02)[0].loss for _ in range(6)]
        assert next(net.parameters()).dtype == torch.float32
    assert losses[precision][-1] < losses[precision][0] - 0.2
    assert losses[precision] != losses["float32"]
    assert losses[precision][0] == pytest.approx(losses["float32"][0], rel=0.02)  # later ones drift apart


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_other_norms_are_built_and_take_gradients(norm: str) -> None:
    data = pictures()
    net = resnet(data, norm=norm)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    net(torch.from_numpy(data.train.images).double() / 255).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def tiny(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, num_classes))


def headless(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Tanh())


def test_a_network_of_ones_own_trains_and_is_measured(tmp_path: Path) -> None:
    said = ncpl("train", "warm-start", "--dataset", "digits", "--network", "tests.test_resnet:tiny", "--seeds", "0-1",
                "--warm-up-epochs", "2", "--probe-every", "2", "--probe-max-epochs", "1", "--json",
                cwd=tmp_path)  # fmt: skip
    finals = [run["final"] for run in json.loads(said.stdout)["runs"]]
    assert all(final["nc1"] > 0 and final["test_accuracy"] > 0.3 for final in finals)
    assert finals[0]["nc1"] != finals[1]["nc1"]


def test_a_network_without_a_classifier_is_refused(digits: Dataset) -> None:
    with pytest.raises(InputError, match="it has no linear layer"):
        networks.build("tests.test_resnet:headless", digits.shape, 10, 0, statistics=digits.channel_statistics)


def test_cifar10_is_read_from_its_binary_files(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / FOLDER).mkdir()
    rows = {name: draw.integers(0, 10, (12, RECORD), dtype=np.uint8) for name in (*TRAIN, *TEST)}
    for name, values in rows.items():
        values.tofile(tmp_path / FOLDER / name)
    data = load(DatasetSpec("cifar10"), tmp_path)
    assert data.shape == (3, 32, 32) and len(data.train) == 60 and len(data.test) == 12
    assert data.train.labels[13] == rows[TRAIN[1]][1, 0]
    # red, then green, then blue; rows of 32
    assert data.test.images[5, 2, 7, 3] == rows[TEST[0]][5, 1 + 2 * 1024 + 7 * 32 + 3]
    (tmp_path / FOLDER / TEST[0]).write_bytes(b"\x00" * (RECORD - 1))
    with pytest.raises(DataError, match="truncated"):
        load(DatasetSpec("cifar10"), tmp_path)


def test_cifar10_as_published_is_an_option_of_its_own(tmp_path: Path) -> None:
    """The network standardises by the published numbers, the run says so, and runs without the option stay theirs."""
    draw = np.random.default_rng(1)
    (tmp_path / FOLDER).mkdir()
    for name in (*TRAIN, *TEST):
        rows = draw.integers(0, 256, (20, RECORD), dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        rows.tofile(tmp_path / FOLDER / name)
    kind = scenario_named("warm-start")

    def made(**given: Any) -> tuple[Dataset, RunSpec]:
        wanted = dataset_spec(kind, {"dataset": "cifar10", **given})
        data = load(wanted, tmp_path)
        return data, specs(kind, {"width": 4, "batch_size": 10, **given}, data, wanted, [0])[0]

    plain, own = made()
    data, run = made(normalisation="published")
    network = build(run, data)
    assert network.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-7)
    assert network.std.flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010], abs=1e-7)
    x = torch.from_numpy(data.test.images[:2]).float() / 255
    with torch.no_grad():
        wide = network.double().eval()(x.double())
        other = build(own, plain).double().eval()
        other.mean.copy_(network.mean)
        assert not torch.allclose(wide, other(x.double()))
        other.std.copy_(network.std)
        assert torch.equal(wide, other(x.double()))
    assert run.id != own.id and plain.digest != data.digest and ".2023 .1994 .2010" in data.notes[0]
    assert made(normalisation="own")[1].id == own.id
    assert "normalisation" not in flat(own) and flat(run)["normalisation"] == "published"
    stored = SimpleNamespace(settings=flat(run), scenario="warm-start", id=run.id, seed=0, recorded={"metrics": []})
    assert from_row(stored, data).dataset.normalisation == "published" == dataset_of(stored).normalisation


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"normalisation": "publised"}, "unknown normalisation"),
        ({"normalisation": "published"}, "none is known for digits"),
    ],
)
def test_a_normalisation_that_is_not_known_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(DatasetSpec("digits", **given))


def test_the_published_study_standardises_as_published() -> None:
    study = study_named("bonifazi2024")
    for part in study.parts:
        plan = part.plans.get("full")
        if plan is not None and plan.settings.get("dataset") == "cifar10":
            assert plan.settings["normalisation"] == "published" and "standardise" in part.about


def test_a_killed_resnet_ends_with_the_same_bits(tmp_path: Path) -> None:
    """`kill -9` in the warm-up and again inside a probe; every stored number as without."""
    command = ["train", "warm-start", "--dataset", "digits", "--train-samples", "100", "--network", "resnet18",
               "--width", "4", "--lr", "0.05", "--batch-size", "16", "--warm-up-epochs", "6", "--probe-every", "6",
               "--probe-max-epochs", "6", "--measure-samples", "50"]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    ncpl(*command, cwd=whole)

    def epochs(of_probes: bool) -> int:
        with contextlib.suppress(sqlite3.OperationalError):  # the store is being made
            lengths = [len({row[0] for row in rows}) for rows in contents(broken / "ncpl.db").values()]
            return sum(lengths[1:]) if of_probes else sum(lengths[:1])
        return 0

    for of_probes in (False, True):
        process = start(*command, cwd=broken, before=unhurried)
        while process.poll() is None and epochs(of_probes) < 3:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    ncpl(*command, cwd=broken)
    assert contents(broken / "ncpl.db") == contents(whole / "ncpl.db")
