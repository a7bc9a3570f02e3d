"""Collapse of thousands of classes: seconds and gigabytes, each size in a process of its own.

    python benchmarks/many_classes.py [imagenet|tokens|names]

imagenet  K = 1 000, d = 2 048, N = 50 000: nc1 to nc4 of arrays                    floor 8 s, 2.5 GB
tokens    K = 29 233, d = 256, N = 300 000: nc1 to nc4 of a stream, two passes      floor 180 s, 4 GB
names     K = 4 000, d = 96, N = 48 000: every metric of arrays                     floor 15 s, 1.5 GB
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from ncpl_cli.metrics import CollapseAccumulator, collapse

NC = ("nc1", "nc2", "nc3", "nc4")
SIZES = {"imagenet": (1000, 2048, 50_000, NC), "tokens": (29_233, 256, 300_000, NC), "names": (4000, 96, 48_000, None)}


def batches(k: int, d: int, n: int, size: int, means: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples of k classes around their means, the same whenever they are asked for."""
    for start in range(0, n, size):
        draw = np.random.default_rng(start)
        y = (start + np.arange(min(size, n - start))) * 7919 % k
        yield means[y] + 0.7 * draw.standard_normal((len(y), d), dtype=np.float32), y


def main() -> None:
    """One line a size."""
    if len(sys.argv) < 2:
        for name in SIZES:
            subprocess.run([sys.executable, __file__, name], check=True)
        return
    name = sys.argv[1]
    k, d, n, metrics = SIZES[name]
    torch.set_num_threads(2)
    draw = np.random.default_rng(0)
    means = draw.standard_normal((k, d), dtype=np.float32)
    w, b = means + 0.3 * draw.standard_normal((k, d), dtype=np.float32), draw.standard_normal(k, dtype=np.float32)
    # once small, so that what is compiled is
    few = slice(0, 300)
    collapse(means[few].repeat(3, 0), np.arange(300).repeat(3), w[few], b[few])
    warm = CollapseAccumulator(300).update(means[few].repeat(3, 0), np.arange(300).repeat(3))
    warm.revisit(means[few], np.arange(300), w[few], b[few]).compute(w[few], b[few])
    x, y = np.empty((0, d), np.float32), np.empty(0, np.int64)
    if name != "tokens":
        parts = list(batches(k, d, n, 10_000, means))
        x, y = np.concatenate([h for h, _ in parts]), np.concatenate([own for _, own in parts])
        del parts
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began, busy = time.perf_counter(), time.process_time()
    if name == "tokens":
        stream = CollapseAccumulator(k, metrics)
        for h, own in batches(k, d, n, 4096, means):
            stream.update(h, own)
        for h, own in batches(k, d, n, 4096, means):
            stream.revisit(h, own, w, b)
        found = stream.compute(w, b)
    else:
        found = collapse(x, y, w, b, metrics=metrics, classes=k)
    took, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name}: K {k}, d {d}, N {n}: {took:.1f} s (CPU {cpu:.1f} s, load {os.getloadavg()[0]:.1f}), peak "
        f"{peak:.2f} GB ({before:.2f} before); " + ", ".join(f"{m} {v:.6g}" for m, v in found.values.items())
    )  # fmt: skip
    product = torch.randn(2048, d, dtype=torch.float64)
    began = time.perf_counter()
    product @ torch.randn(d, 1000, dtype=torch.float64)
    rate = 2 * 2048 * d * 1000 / (time.perf_counter() - began) / 1e9
    print(f"    float64 products in the same process: {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
