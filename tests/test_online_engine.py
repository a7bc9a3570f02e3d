"""The compiled engine against a plain autograd loop, in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines.online import OnlineEngine
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import NetworkSpec, OptimizerSpec


def a_task(data: Dataset, seed: int = 0, permuted: bool = True) -> Task:
    draw = np.random.default_rng(seed)
    return Task(
        0, 1, lambda epoch: np.random.default_rng(epoch).permutation(len(data.train)), data.train.labels,
        data.test.labels, draw.permutation(data.pixels) if permuted else None,
    )  # fmt: skip


def a_network(data: Dataset, seed: int = 0, precision: str = "float64", **shape: Any) -> networks.MLP:
    return networks.build("mlp", data.shape, data.classes, seed, precision=precision, **shape)


def plain_loop(
    net: networks.MLP, data: Dataset, task: Task, order: np.ndarray[Any, Any], optimizer: OptimizerSpec
) -> tuple[int, float]:
    """What every tutorial does, one batch after another."""
    dtype = next(net.parameters()).dtype
    x = torch.from_numpy(data.train.images).flatten(1).to(dtype) / data.scale
    x = x if task.pixel_order is None else x[:, torch.from_numpy(task.pixel_order)]
    y = torch.from_numpy(task.train_labels)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    extra: dict[str, Any] = {"momentum": optimizer.momentum} if optimizer.name == "sgd" else {}
    how = kinds[optimizer.name](net.parameters(), lr=optimizer.lr, weight_decay=optimizer.weight_decay, **extra)
    correct, loss_sum = 0, 0.0
    net.train()
    for start in range(0, len(order), optimizer.batch_size):
        batch = torch.from_numpy(order[start : start + optimizer.batch_size])
        how.zero_grad()
        logits = net(x[batch])
        loss = F.cross_entropy(logits, y[batch])
        correct += int((logits.argmax(1) == y[batch]).sum())
        loss_sum += float(loss.detach()) * len(batch)
        loss.backward()
        how.step()
    return correct, loss_sum / len(order)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("permuted", [True, False])
def test_it_equals_autograd_in_float64(digits: Dataset, depth: int, batch: int, permuted: bool) -> None:
    task, order = a_task(digits, permuted=permuted), np.random.default_rng(1).permutation(1437)[:400]
    optimizer = OptimizerSpec(lr=0.05, batch_size=batch)
    ours, theirs = (a_network(digits, width=21, depth=depth) for _ in range(2))
    (progress,) = OnlineEngine([ours], digits, optimizer, "cpu").train_epoch([task], [order], 0.05)
    correct, loss = plain_loop(theirs, digits, task, order, optimizer)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    assert progress.correct == correct and progress.loss == pytest.approx(loss, abs=1e-10)
    assert progress.samples == 400 and progress.finite


def test_dead_units_and_empty_images_change_nothing(digits: Dataset) -> None:
    images = digits.train.images.copy()
    images[:50] = 0
    data = replace(digits, train=replace(digits.train, images=images))
    task, order, optimizer = a_task(data), np.arange(120), OptimizerSpec(lr=0.05)
    ours, theirs = (a_network(data, width=10, depth=2) for _ in range(2))
    for net in (ours, theirs):
        with torch.no_grad():
            net.hidden[0].bias[:4] = -50.0  # type: ignore[index, operator]
            net.hidden[1].bias[:] = -50.0  # type: ignore[index, operator]
    OnlineEngine([ours], data, optimizer, "cpu").train_epoch([task], [order], 0.05)
    plain_loop(theirs, data, task, order, optimizer)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_float32_agrees_over_a_real_epoch(digits: Dataset) -> None:
    task, optimizer = a_task(digits), OptimizerSpec()
    ours, theirs = (a_network(digits, precision="float32") for _ in range(2))
    (progress,) = OnlineEngine([ours], digits, optimizer, "cpu").train_epoch([task], [task.order(1)], 0.01)
    correct, _ = plain_loop(theirs, digits, task, task.order(1), optimizer)
    assert abs(progress.correct - correct) / 1437 <= 0.002


def test_company_on_other_threads_changes_no_bit(digits: Dataset) -> None:
    def run(seed: int) -> list[bytes]:
        net, task = a_network(digits, seed, "float32"), a_task(digits, seed)
        engine = OnlineEngine([net], digits, OptimizerSpec(), "cpu")
        for epoch in (1, 2):
            engine.train_epoch([task], [task.order(epoch)], 0.01)
        return [p.detach().numpy().tobytes() for p in net.parameters()]

    alone = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == alone


def test_where_the_weights_lie_in_memory_changes_no_bit(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    gather, order = OnlineEngine._gather, np.random.default_rng(2).permutation(1437)[:300]

    def elsewhere(self: OnlineEngine, *given: Any) -> dict[str, np.ndarray[Any, Any]]:
        found = {}
        for name, buffer in gather(self, *given).items():
            assert buffer.ctypes.data % 64 == 0  # rows are loaded without crossing a line of the cache
            found[name] = np.empty(buffer.size + 1, buffer.dtype)[1:].reshape(buffer.shape)
            found[name][...] = buffer
        return found

    nets = [a_network(digits, precision="float32") for _ in range(2)]
    optimizer = OptimizerSpec(weight_decay=1e-3)
    OnlineEngine(nets[:1], digits, optimizer, "cpu").train_epoch([a_task(digits)], [order], 0.01)
    monkeypatch.setattr(OnlineEngine, "_gather", elsewhere)
    OnlineEngine(nets[1:], digits, optimizer, "cpu").train_epoch([a_task(digits)], [order], 0.01)
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(a, b)


def test_divergence_is_seen(digits: Dataset) -> None:
    net, task = a_network(digits, precision="float32"), a_task(digits)
    (progress,) = OnlineEngine([net], digits, OptimizerSpec(), "cpu").train_epoch([task], [task.order(1)], 1e4)
    assert not progress.finite


@pytest.mark.parametrize(
    ("network", "optimizer", "device", "words"),
    [
        (NetworkSpec(norm="layer"), OptimizerSpec(), "cpu", "without normalisation"),
        (NetworkSpec(activation="tanh"), OptimizerSpec(), "cpu", "ReLU"),
        (NetworkSpec(), OptimizerSpec(momentum=0.9), "cpu", "momentum"),
        (NetworkSpec(), OptimizerSpec(name="adam"), "cpu", "SGD"),
        (NetworkSpec(), OptimizerSpec(), "cuda:0", "cuda:0"),
    ],
)
def test_what_it_cannot_carry_it_refuses_in_words(
    network: NetworkSpec, optimizer: OptimizerSpec, device: str, words: str
) -> None:
    assert words in str(OnlineEngine.refuses(network, optimizer, device, "float32"))
    assert OnlineEngine.refuses(NetworkSpec(), OptimizerSpec(), "cpu", "float32") is None
