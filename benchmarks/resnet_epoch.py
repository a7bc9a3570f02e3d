"""ResNet-18 on 3 x 32 x 32 images, batch 128: our engine against the loops people write, in one run.

    ours       the data on the device as bytes, gathered, scaled and normalised there
    eager      the same without us: float images in memory, indexed by a permutation, eager steps
    tutorial   DataLoader with workers, a transform for each image, eager steps

All take turns and each line is the median over the turns. From ours follows what one seed of the published
warm-start protocol costs: 350 epochs on 25 000 images, and 71 probes of at most 100 epochs on 50 000.

    python benchmarks/resnet_epoch.py [--device cuda] [--precision bf16] [--width 64] [--steps 8]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from ncpl_cli import networks
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

BATCH, TURNS = 128, 5


def images(count: int) -> Dataset:
    """Random images of CIFAR-10's shape."""
    draw = np.random.default_rng(0)
    split = Split(draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), draw.integers(0, 10, count))
    return Dataset("synthetic", split, split, 10)


def network(data: Dataset, width: int, device: str) -> networks.Network:
    """The network every arm trains."""
    built = networks.build("resnet18", data.shape, 10, 0, width=width, norm="batch", statistics=data.channel_statistics)
    return built.to(device)


def ours(data: Dataset, width: int, device: str, precision: str) -> Callable[[], float]:
    """One epoch; its seconds."""
    engine = StackedEngine([network(data, width, device)], data, OptimizerSpec(batch_size=BATCH), device,
                           precision=precision)  # fmt: skip
    task = Task(0, 1, lambda _: np.arange(0), data.train.labels, data.test.labels)
    draw = np.random.default_rng(1)
    return lambda: engine.train_epoch([task], [draw.permutation(len(data.train))], 0.001)[0].seconds


def eager(data: Dataset, width: int, device: str, _: str) -> Callable[[], float]:
    """Without a DataLoader."""
    net = network(data, width, device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    x = torch.from_numpy(data.train.images).float().div(255).to(device)
    y = torch.from_numpy(data.train.labels).to(device)

    def epoch() -> float:
        began = time.perf_counter()
        order = torch.randperm(len(y), device=device)
        correct = torch.zeros((), device=device)
        for index in order.split(BATCH):
            out = net(x[index])
            optimizer.zero_grad()
            F.cross_entropy(out, y[index]).backward()
            optimizer.step()
            correct += (out.argmax(1) == y[index]).sum()
        correct.item()
        return time.perf_counter() - began

    return epoch


class _Images(TorchDataset[tuple[torch.Tensor, int]]):
    def __init__(self, data: Dataset) -> None:
        mean, std = (values.tolist() for values in data.channel_statistics)
        self.images, self.labels = data.train.images.transpose(0, 2, 3, 1), data.train.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(np.ascontiguousarray(self.images[index])), int(self.labels[index])


def tutorial(data: Dataset, width: int, device: str, _: str) -> Callable[[], float]:
    """DataLoader with workers, normalisation in the transform."""
    net = network(data, width, device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    workers = min(4, os.cpu_count() or 1)
    loader = DataLoader(_Images(data), BATCH, shuffle=True, num_workers=workers, persistent_workers=True)

    def epoch() -> float:
        began = time.perf_counter()
        correct = 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            out = net(x)
            optimizer.zero_grad()
            loss = F.cross_entropy(out, y)
            loss.backward()
            optimizer.step()
            loss.item()
            correct += int((out.argmax(1) == y).sum())
        return time.perf_counter() - began

    return epoch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    data = images(given.steps * BATCH)
    arms = {f.__name__: f(data, given.width, given.device, given.precision) for f in (ours, eager, tutorial)}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(TURNS + 1):
        for name, epoch in arms.items():
            taken = epoch()
            if turn:  # the first warms up
                seconds[name].append(taken)
    print(f"resnet18 width {given.width}, batch {BATCH}, {given.precision} on {given.device}, {TURNS} turns")
    base = statistics.median(seconds["ours"])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"  {name:9} {len(data.train) / middle:9.0f} images/s   {middle / base:5.2f} x ours")
    rate = len(data.train) / base
    print(f"  one published seed: warm-up {350 * 25e3 / rate / 3600:.1f} h, "
          f"71 probes at most {71 * 100 * 50e3 / rate / 3600:.1f} h")  # fmt: skip


if __name__ == "__main__":
    main()
