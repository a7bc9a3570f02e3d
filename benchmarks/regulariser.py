"""The nc1 penalty of a minibatch, forward and backward: closed form in the span of the class means against the
definition written out with `pinv` and autograd. Both take turns in one run; medians over the turns.

On small matrices a second thread costs more than it brings where threads sleep while they wait, as ncpl has them do.

    python benchmarks/regulariser.py [--device cuda] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ncpl_cli.metrics import differentiable

CLASSES, TURNS = 10, 30


def literal(features: Tensor, labels: Tensor) -> Tensor:
    """tr(Sigma_W pinv(Sigma_B)) / C as the definition reads."""
    centre = features.mean(0)
    within = features.new_zeros(features.shape[1], features.shape[1])
    between = torch.zeros_like(within)
    for label in range(CLASSES):
        own = features[labels == label]
        mean = own.mean(0)
        within = within + (own - mean).mT @ (own - mean)
        between = between + torch.outer(mean - centre, mean - centre) / CLASSES
    return torch.trace(within / len(features) @ torch.linalg.pinv(between, hermitian=True)) / CLASSES


def ours(features: Tensor, labels: Tensor) -> Tensor:
    """By ncpl."""
    h = features[None]
    return differentiable.nc1(differentiable.class_moments(h, labels[None], CLASSES), h)[0]


def seconds(term: Callable[[Tensor, Tensor], Tensor], features: Tensor, labels: Tensor) -> float:
    """One forward and backward."""
    began = time.perf_counter()
    term(features, labels).backward()  # type: ignore[no-untyped-call]
    if features.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    device = given.device
    torch.set_num_threads(given.threads)
    for batch, width in ((128, 512), (128, 100), (32, 100)):
        torch.manual_seed(0)
        labels = torch.arange(batch, device=device) % CLASSES
        features = torch.randn(batch, width, device=device) + 3 * torch.randn(CLASSES, width, device=device)[labels]
        features = features.double().float().requires_grad_()
        taken: dict[str, list[float]] = {"ours": [], "literal": []}
        for turn in range(TURNS + 3):
            for term in (ours, literal):
                once = seconds(term, features, labels)
                if turn >= 3:
                    taken[term.__name__].append(once)
        a, b = (statistics.median(taken[name]) for name in ("ours", "literal"))
        relative = float((ours(features, labels) / literal(features.double(), labels) - 1).detach().abs())
        print(f"{batch:4} x {width}: {a * 1e3:6.2f} ms, literal {b * 1e3:6.1f} ms: {b / a:5.1f} times; "
              f"values differ by {relative:.0e}")  # fmt: skip


if __name__ == "__main__":
    main()
