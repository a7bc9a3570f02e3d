"""A probe of a live module of anybody's own loop: copies are trained, the module and its random streams are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ncpl_cli import objectives, probes, rng
from ncpl_cli.errors import InputError
from ncpl_cli.probes.offset import Offset
from ncpl_cli.probes.probe import EPOCHS
from ncpl_cli.spec import OPTIMIZER_LR


def probe(
    kind: str, module: nn.Module, fresh: Callable[[], nn.Module], images: Tensor, labels: Tensor, *, seed: int,
    batch_size: int,
) -> dict[str, float]:  # fmt: skip
    """What a copy of the module, and beside it a fresh one, reach on the same data in the same order: probe_*.

    kind  as `--probe` takes it; `full-data` and `next-task` learn the labels that are given
    """
    wanted = probes.parse(kind)
    if len(images) != len(labels) or not len(images) or batch_size < 1:
        raise InputError(f"{len(images)} images and {len(labels)} labels in batches of {batch_size} are no data.")
    if not isinstance(module, nn.Module):
        raise InputError(f"run.probe trains a copy of a torch module, not of {type(module).__name__}.")
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        own, other = copy.deepcopy(module), copy.deepcopy(fresh())
        with torch.no_grad():
            outputs = copy.deepcopy(module).eval()(images[:1]).shape[-1]
        asked = _asked(wanted, labels, outputs, seed).to(images.device)
        mine, theirs = (_train(network, wanted, images, asked, seed, batch_size) for network in (own, other))
    numbers = asked.is_floating_point()
    key = "probe_train_loss" if numbers else "probe_train_accuracy"
    return mine | {"probe_gap": mine[key] - theirs[key] if numbers else theirs[key] - mine[key]}


def _asked(kind: probes.Probe, labels: Tensor, outputs: int, seed: int) -> Tensor:
    """Labels, or numbers (N, outputs)."""
    if isinstance(kind, Offset):
        drawn = rng.stream(seed, "probe targets", "train").standard_normal((len(labels), outputs))
        return torch.from_numpy(kind.offset + drawn).float()
    if kind.id == "labels":
        return torch.from_numpy(rng.stream(seed, "probe labels", "train").integers(0, outputs, len(labels)))
    return labels.long()


def _train(
    network: nn.Module, kind: probes.Probe, images: Tensor, asked: Tensor, seed: int, batch_size: int
) -> dict[str, float]:  # fmt: skip
    """Train for the budget with a new optimiser; means over its epochs, and what is left after them in eval mode."""
    name = "sgd" if kind.optimizer == "own" else kind.optimizer
    make: Any = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = make(network.parameters(), lr=kind.lr or OPTIMIZER_LR[name])
    numbers, total, epochs = asked.is_floating_point(), len(images), kind.epochs or EPOCHS
    seen = lost = 0.0
    torch.manual_seed(seed)
    network.train()
    for epoch in range(1, epochs + 1):
        order = torch.from_numpy(rng.stream(seed, "probe order", epoch).permutation(total)).to(images.device)
        for index in torch.split(order, batch_size):
            out = network(images[index])
            loss = _loss(out, asked[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            lost += float(loss.detach()) * len(index)
            seen += 0.0 if numbers else float((out.argmax(1) == asked[index]).sum())
    network.eval()
    with torch.no_grad():
        out = torch.cat([network(part) for part in torch.split(images, 1024)])
    found = {"probe_online_loss": lost / (total * epochs), "probe_train_loss": float(_loss(out, asked))}
    if not numbers:
        right = float((out.argmax(1) == asked).double().mean())
        found |= {"probe_online_accuracy": seen / (total * epochs), "probe_train_accuracy": right}
    return found


def _loss(out: Tensor, asked: Tensor) -> Tensor:
    return (objectives.MSE() if asked.is_floating_point() else objectives.CrossEntropy()).losses(out, asked).mean()
