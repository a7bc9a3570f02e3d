"""Networks. The dictionary below is the registry: a new network is one file and one name here.

A network is an `nn.Module` with `layer_names`, `classify(x)` and `initialise(rng)`, as in `mlp.py`, and a
linear `classifier`.
"""

from __future__ import annotations

import torch

from ncpl_cli import rng
from ncpl_cli.networks.mlp import ACTIVATIONS, EXACT_ZEROS, MLP, NORMS

Network = MLP

NETWORKS: dict[str, type[Network]] = {"mlp": MLP}


def build(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    *,
    precision: str = "float32",
    stream: str = "initialisation",
    width: int = 100,
    depth: int = 3,
    activation: str = "relu",
    norm: str = "none",
) -> Network:
    """The named network for images of `shape` (channels, height, width), initialised from the run's own stream."""
    channels, height, breadth = shape
    network = NETWORKS[name](
        channels * height * breadth, classes, width=width, depth=depth, activation=activation, norm=norm
    )
    network.to(getattr(torch, precision))
    network.initialise(rng.stream(seed, stream))
    return network


__all__ = ["ACTIVATIONS", "EXACT_ZEROS", "MLP", "NETWORKS", "NORMS", "Network", "build"]
