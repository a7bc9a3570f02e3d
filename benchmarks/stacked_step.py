"""Thirty-two runs of the 3x100 MLP stacked, against thirty-two plain eager runs one after another.

Both in one process on the same synthetic images; the eager step is what every tutorial writes. Prints the ratio per
batch size and thread count, and how much of the memory bandwidth the stacked step uses.

    python benchmarks/stacked_step.py
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

RUNS = 32
FLOORS = {1: 15.0, 16: 6.0, 32: 4.0, 128: 1.5}


def images(count: int = 4096) -> Dataset:
    """Images with MNIST's size and share of non-zero pixels."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(1, 256, (count, 1, 28, 28)) * (draw.random((count, 1, 28, 28)) < 0.191)
    split = Split(pixels.astype(np.uint8), draw.integers(0, 10, count))
    return Dataset("synthetic", split, split, 10)


def stacked(data: Dataset, batch: int, steps: int) -> float:
    """Seconds a step of all runs."""
    nets = [networks.build("mlp", data.shape, 10, seed) for seed in range(RUNS)]
    engine = StackedEngine(nets, data, OptimizerSpec(batch_size=batch), "cpu")
    draw = np.random.default_rng(1)
    task = Task(0, 1, lambda _: np.arange(0), data.train.labels, data.test.labels, draw.permutation(784))

    def epoch(count: int) -> float:
        orders = [draw.integers(0, len(data.train), count * batch) for _ in range(RUNS)]
        return engine.train_epoch([task] * RUNS, orders, 0.01)[0].seconds

    epoch(5)
    return min(epoch(steps) for _ in range(3)) / steps


def eager(data: Dataset, batch: int, steps: int) -> float:
    """Seconds a step of one run, times the number of runs."""
    net = networks.build("mlp", data.shape, 10, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.from_numpy(data.train.images).flatten(1).float() / 255
    y = torch.from_numpy(data.train.labels)

    def run(count: int) -> float:
        began = time.perf_counter()
        for i in range(count):
            index = slice(i * batch % 2048, i * batch % 2048 + batch)
            optimizer.zero_grad()
            F.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
        return time.perf_counter() - began

    run(20)
    return min(run(steps) for _ in range(3)) / steps * RUNS


def bandwidth() -> float:
    """Bytes a second of an addition in place over what 32 networks occupy, read and written."""
    tensor = torch.ones(RUNS * 100_000)
    times = []
    for _ in range(50):
        began = time.perf_counter()
        tensor.add_(1.0)
        times.append(time.perf_counter() - began)
    return 2 * 4 * tensor.numel() / float(np.median(times))


def main() -> None:
    """Print one line per batch size and thread count."""
    data = images()
    weights = 784 * 100 + 2 * 100 * 100 + 1000
    for threads in range(1, (os.cpu_count() or 1) + 1):
        torch.set_num_threads(threads)
        limit = bandwidth()
        for batch, floor in FLOORS.items():
            ours, theirs = stacked(data, batch, max(20, 200 // batch)), eager(data, batch, 100)
            moved = RUNS * weights * 4 * 3 / ours  # every weight read forward, read and written by the update
            print(
                f"threads {threads} batch {batch:4d}: stacked {ours * 1e3:7.3f} ms a step of 32 runs, eager "
                f"{theirs * 1e3:7.2f} ms, ratio {theirs / ours:5.1f} (floor {floor}); weights move at "
                f"{moved / 1e9:5.1f} GB/s of {limit / 1e9:5.1f}"
            )


if __name__ == "__main__":
    main()
