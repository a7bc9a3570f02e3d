"""One online epoch in the compiled engine, beside a plain torch eager loop in the same process, on one core.

    python benchmarks/online_epoch.py [DIR_WITH_MNIST]

Prints microseconds a step and their ratio, the throughput of five runs on two cores over that of one, and the
physical limit: the bytes and operations a step needs over this machine's measured cache bandwidth and FMA rate.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numba import njit
from torch.nn import functional as F

from ncpl_cli import networks
from ncpl_cli.data import Dataset, load
from ncpl_cli.data.dataset import Split
from ncpl_cli.engines.online import OnlineEngine
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import DatasetSpec, OptimizerSpec


def images(folder: Path | None) -> Dataset:
    """Real MNIST where it is given, else images of its size and share of non-zero pixels."""
    if folder is not None:
        return load(DatasetSpec("mnist"), folder)
    draw = np.random.default_rng(0)
    pixels = draw.integers(1, 256, (60_000, 1, 28, 28)) * (draw.random((60_000, 1, 28, 28)) < 0.191)
    split = Split(pixels.astype(np.uint8), draw.integers(0, 10, 60_000))
    return Dataset("synthetic", split, split, 10)


def engine_of(data: Dataset, seed: int) -> tuple[OnlineEngine, Task]:
    """A run of the published network and its permuted task."""
    order = np.random.default_rng(seed).permutation(784)
    task = Task(0, 1, lambda _: np.arange(0), data.train.labels, data.test.labels, order)
    return OnlineEngine([networks.build("mlp", data.shape, 10, seed)], data, OptimizerSpec(), "cpu"), task


def eager(data: Dataset, steps: int = 2000) -> float:
    """Seconds a step of the loop that every tutorial writes."""
    net = networks.build("mlp", data.shape, 10, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.from_numpy(data.train.images[:steps]).flatten(1).float() / 255
    y = torch.from_numpy(data.train.labels[:steps])
    began = time.process_time()  # the backward pass has a thread of its own
    for i in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]).backward()
        optimizer.step()
    return (time.process_time() - began) / steps


@njit(fastmath=True)
def _sweep(x, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        for j in range(x.size):
            x[j] += np.float32(1.0)


@njit(fastmath=True)
def _multiply(x, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        for j in range(x.size):
            v = x[j]
            x[j] = (((v * v + v) * v + v) * v + v) * v + v


def limit(data: Dataset, active: float = 45.0) -> tuple[float, float, float, float]:
    """Bytes and operations of a step, this core's bytes a second in the second-level cache, and its operations.

    A step reads the rows of its non-zero pixels forward, reads and writes them in the update, and does the same to
    the rows of the active units (some 45 of 100 a layer) of the later layers, where the update's read also serves
    the backward pass.
    """
    nonzero = float((data.train.images[:5000] > 0).mean()) * 784
    rows = nonzero + 2 * active
    bytes_moved = rows * 100 * 4 * 3 + active * 10 * 4 * 3
    operations = nonzero * 100 * 4 + 2 * active * 100 * 6 + active * 10 * 6
    cache, registers = np.ones(80_000, np.float32), np.ones(2048, np.float32)
    rates = []
    for kernel, array, work in ((_sweep, cache, 8), (_multiply, registers, 10)):
        kernel(array, 1)
        times = []
        for _ in range(20):
            array[:] = 0.5
            began = time.thread_time()
            kernel(array, 200)
            times.append(time.thread_time() - began)
        rates.append(array.size * work * 200 / float(np.median(times)))
    return bytes_moved, operations, rates[0], rates[1]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    data = images(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    engine, task = engine_of(data, 0)
    order = np.random.default_rng(0).permutation(len(data.train))
    engine.train_epoch([task], [order[:100]], 0.01)
    ours, theirs = [], []
    for _ in range(5):  # in turn, so that both see the same machine
        began = time.thread_time()  # CPU time: the machine may be shared
        engine.train_epoch([task], [order], 0.01)
        ours.append((time.thread_time() - began) / len(order))
        theirs.append(eager(data))
    step, plain = float(np.median(ours)), float(np.median(theirs))
    print(f"compiled {step * 1e6:.2f} us a step, eager {plain * 1e6:.1f} us: {plain / step:.1f} times (floor 75)")

    runs = [engine_of(data, seed) for seed in range(5)]
    ratios = []
    for _ in range(3):
        began = time.perf_counter()
        runs[0][0].train_epoch([runs[0][1]], [order], 0.01)
        alone = time.perf_counter() - began
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:  # ten epochs, whoever is free takes the next
            jobs = [pool.submit(e.train_epoch, [t], [order], 0.01) for _ in range(2) for e, t in runs]
            assert all(job.result() for job in jobs)
        ratios.append(10 * alone / (time.perf_counter() - began))
    print(f"five runs on two cores: {np.median(ratios):.2f} times the throughput of one core (floor 1.8)")

    moved, operations, bandwidth, rate = limit(data)
    by_bytes, by_work = moved / bandwidth, operations / rate
    print(
        f"limit: {moved / 1e3:.0f} kB at {bandwidth / 1e9:.0f} GB/s = {by_bytes * 1e6:.2f} us, "
        f"{operations / 1e3:.0f} kFLOP at {rate / 1e9:.0f} GFLOP/s = {by_work * 1e6:.2f} us; "
        f"the engine takes {step / max(by_bytes, by_work):.1f} times the larger (bar 1.6)"
    )


if __name__ == "__main__":
    main()
