"""Thirty-two runs of the 784-100-100-100-10 MLP stacked, against thirty-two plain eager runs one after another.

Both take turns in one process on the same synthetic images, and each line is the median over the turns: on a busy
machine the ratio holds where the times do not. The eager step is what every tutorial writes. `moved` is the least a
step of stacked matrices could move without holding the first layer's update back: every weight read forward, read
backward (not the first layer's), read and written by the update; beside it what this memory gives.

    python benchmarks/stacked_step.py [--autograd] [--runs 32] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.engines.stacked import StackedEngine
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec

FLOORS = {1: 15.0, 16: 6.0, 32: 4.0, 128: 1.5}
TURNS = 7
FIRST, REST = 784 * 100, 2 * 100 * 100 + 100 * 10  # weights


def images(count: int = 4096) -> Dataset:
    """Images with MNIST's size and share of non-zero pixels."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(1, 256, (count, 1, 28, 28)) * (draw.random((count, 1, 28, 28)) < 0.191)
    split = Split(pixels.astype(np.uint8), draw.integers(0, 10, count))
    return Dataset("synthetic", split, split, 10)


def stacked(data: Dataset, batch: int, runs: int, autograd: bool) -> Callable[[int], float]:
    """Trains so many steps; seconds a step of all runs."""
    nets = [networks.build("mlp", data.shape, 10, seed) for seed in range(runs)]
    engine = StackedEngine(nets, data, OptimizerSpec(batch_size=batch), "cpu", autograd=autograd)
    draw = np.random.default_rng(1)
    task = Task(0, 1, lambda _: np.arange(0), data.train.labels, data.test.labels)

    def train(steps: int) -> float:
        orders = [draw.integers(0, len(data.train), steps * batch) for _ in range(runs)]
        return engine.train_epoch([task] * runs, orders, 0.01)[0].seconds / steps

    return train


def eager(data: Dataset, batch: int, runs: int) -> Callable[[int], float]:
    """Trains one run so many steps; seconds a step, times the number of runs."""
    net = networks.build("mlp", data.shape, 10, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.from_numpy(data.train.images).flatten(1).float() / 255
    y = torch.from_numpy(data.train.labels)

    def train(steps: int) -> float:
        began = time.perf_counter()
        for i in range(steps):
            index = slice(i * batch % 2048, i * batch % 2048 + batch)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x[index]), y[index]))
            optimizer.step()
        return (time.perf_counter() - began) / steps * runs

    return train


def bandwidth(runs: int) -> float:
    """Bytes a second of an addition in place over what the networks occupy, read and written."""
    tensor = torch.ones(runs * (FIRST + REST))
    times = []
    for _ in range(50):
        began = time.perf_counter()
        tensor.add_(1.0)
        times.append(time.perf_counter() - began)
    return 2 * 4 * tensor.numel() / statistics.median(times)


def main() -> None:
    """Print one line per thread count and batch size."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--autograd", action="store_true")
    arguments.add_argument("--runs", type=int, default=32)
    arguments.add_argument("--threads", type=int, nargs="*", default=[torch.get_num_threads(), 1])
    arguments.add_argument("--batches", type=int, nargs="*", default=[*FLOORS])
    asked = arguments.parse_args()
    data = images()
    for threads in asked.threads:
        torch.set_num_threads(threads)
        limit = bandwidth(asked.runs)
        for batch in asked.batches:
            ours, theirs = stacked(data, batch, asked.runs, asked.autograd), eager(data, batch, asked.runs)
            steps = max(8, 256 // batch)
            for train in (ours, theirs):
                train(steps)
            turns = [(ours(steps), theirs(100)) for _ in range(TURNS)]
            seconds = [statistics.median(column) for column in zip(*turns, strict=True)]
            ratio = statistics.median(b / a for a, b in turns)
            moved = asked.runs * 4 * (3 * FIRST + 4 * REST)
            print(
                f"threads {threads} batch {batch:3d}: {asked.runs} runs stacked {seconds[0] * 1e3:6.3f} ms a step, "
                f"eager {seconds[1] * 1e3:6.2f} ms: {ratio:5.1f} times (floor {FLOORS.get(batch, 1)}); "
                f"{moved / 1e6:.1f} MB moved take {moved / limit * 1e3:.3f} ms at {limit / 1e9:.0f} GB/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
