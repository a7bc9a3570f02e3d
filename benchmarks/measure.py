"""What measuring a run costs: all cheap metrics of every layer, the tangent kernel, the top of the Hessian.

    python benchmarks/measure.py [DIR_WITH_MNIST]

The published 3x100 network, trained for one pass, on 60 000 + 10 000 images; medians, on two cores. Beside them, in
the same run: the plain forward pass in torch, the kernel from a whole Jacobian, the largest eigenvalue from power
iteration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from collapse import median
from online_epoch import images
from torch.func import functional_call, jacrev, vmap

from ncpl_cli import networks
from ncpl_cli.data import Dataset
from ncpl_cli.engines.online import OnlineEngine
from ncpl_cli.metrics import Snapshot, measure
from ncpl_cli.metrics.curvature import hessian_product, hessian_top
from ncpl_cli.metrics.expensive import CURVATURE_SAMPLES
from ncpl_cli.metrics.inputs import training_samples
from ncpl_cli.metrics.ntk import SAMPLES, full_kernel
from ncpl_cli.scenarios.task import Task
from ncpl_cli.spec import OptimizerSpec


def plain_forward(network: networks.Network, data: Dataset) -> None:
    """Both splits through the network, as every evaluation loop does it."""
    with torch.no_grad():
        for split in (data.train, data.test):
            for start in range(0, len(split), 1000):
                network(torch.from_numpy(split.images[start : start + 1000]).float() / 255)


def whole_jacobian(network: networks.Network, batch: torch.Tensor) -> torch.Tensor:
    """The kernel (NC, NC) as the textbook has it."""
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def logits(held: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(network, held, (x[None],))[0]

    found = vmap(jacrev(logits), in_dims=(None, 0))(parameters, batch)
    flat = torch.cat([j.flatten(2) for j in found.values()], 2).flatten(0, 1)
    return flat @ flat.T


def power_iteration(product: Callable[[torch.Tensor], torch.Tensor], count: int) -> float:
    """The same eigenvalue to the same 1e-4 between steps, without a memory of earlier directions."""
    v, before = torch.ones(count) / count**0.5, 0.0
    for _ in range(500):
        w = product(v)
        now, v = float(v @ w), w / w.norm()
        if abs(now - before) <= 1e-4 * abs(now):
            break
        before = now
    return now


def main() -> None:
    """Print one line per floor."""
    torch.set_num_threads(2)
    data = images(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    network = networks.build("mlp", data.shape, 10, 0)
    initial = {name: p.detach().clone() for name, p in network.named_parameters()}
    task = Task(0, 1, lambda _: np.arange(60_000), data.train.labels, data.test.labels)
    engine = OnlineEngine([network], data, OptimizerSpec(), "cpu")
    engine.train_epoch([task], [np.arange(60_000)], 0.01)
    data = Dataset(data.name, data.train, data.test.take(np.arange(10_000)), 10)
    task = Task(0, 1, lambda _: np.arange(60_000), data.train.labels, data.test.labels)
    snapshot = Snapshot(network, data, task, initial)

    (cheap, fastest, cpu), (forward, *_) = median(
        lambda: measure(snapshot, layers="all"), lambda: plain_forward(network, data), times=5
    )
    print(
        f"all cheap metrics, every layer, 60 000 + 10 000 samples: {cheap:.0f} ms (fastest {fastest:.0f}, CPU "
        f"{cpu:.0f}, floor 600); {cheap / forward:.2f} times a plain forward pass in torch ({forward:.0f} ms)"
    )
    seconds = measure(snapshot, layers="all").seconds
    print("    " + ", ".join(f"{family} {took * 1e3:.0f} ms" for family, took in seconds.items()))

    batch = training_samples(network, data, task, SAMPLES).images
    kernel = full_kernel(network, batch)
    theirs = whole_jacobian(network, batch)
    agree = float((kernel.flatten(2).flatten(0, 1) - theirs).norm() / theirs.norm())
    names = ("ntk_effective_rank", "ntk_condition", "gradient_interference")
    (closed, *_), (whole, *_), (asked, *_) = median(
        lambda: full_kernel(network, batch), lambda: whole_jacobian(network, batch), lambda: measure(snapshot, names),
        times=3,
    )  # fmt: skip
    print(
        f"tangent kernel, {SAMPLES} samples: {closed:.0f} ms (floor 500), with effective rank, condition and "
        f"interference {asked:.0f} ms; whole Jacobian {whole:.0f} ms ({whole / closed:.0f} times); they agree to "
        f"{agree:.0e}"
    )

    many = training_samples(network, data, task, CURVATURE_SAMPLES)
    product, count = hessian_product(network, many)

    def top() -> float | None:
        return hessian_top(hessian_product(network, many)[0], torch.zeros(count))

    (ours, *_), (power, *_) = median(top, lambda: power_iteration(product, count), times=3)
    print(
        f"top Hessian eigenvalue, {CURVATURE_SAMPLES} samples: {ours:.0f} ms (floor 2000), power iteration {power:.0f} "
        f"ms; {top():.6g} against {power_iteration(product, count):.6g}"
    )


if __name__ == "__main__":
    main()
