"""Networks. The dictionary below is the registry: a new network is one file and one name here.

A network is an `nn.Module` with `layer_names`, `classify(x) -> (logits, activations, preactivations)`,
`initialise(rng)`, `activation`, `norm` and a linear `classifier`, as in `mlp.py`. `preactivations` may be empty.
`module:callable` names one that is not here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli import rng
from ncpl_cli.networks.classifier import find_classifier
from ncpl_cli.networks.convnet import ConvNet
from ncpl_cli.networks.convolutional import NORMS, Convolutional
from ncpl_cli.networks.mlp import ACTIVATIONS, EXACT_ZEROS, MLP
from ncpl_cli.networks.own import OwnNetwork
from ncpl_cli.networks.resnet import ResNet18
from ncpl_cli.networks.wide_resnet import WideResNet

Network = MLP | ResNet18 | ConvNet | WideResNet | OwnNetwork

NETWORKS: dict[str, type[Network]] = {"mlp": MLP, "resnet18": ResNet18, "convnet": ConvNet, "wide_resnet": WideResNet}


def build(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    seed: int,
    *,
    statistics: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    precision: str = "float32",
    stream: str = "initialisation",
    width: int = 100,
    depth: int = 3,
    activation: str = "relu",
    norm: str = "none",
    init: str = "kaiming",
) -> Network:
    """The named network for images of `shape` (channels, height, width), initialised from the run's own stream.

    statistics  mean and deviation of each channel, by which networks other than the MLP standardise their input;
                the MLP takes images as they are, mostly zeros, which its engines and metrics make use of
    """
    channels, height, breadth = shape
    mean, std = statistics or (np.zeros(channels), np.ones(channels))
    moments = {"mean": torch.from_numpy(mean), "std": torch.from_numpy(np.where(std > 0, std, 1.0))}
    network: Network
    kind: Any = NETWORKS.get(name)
    convolutional = isinstance(kind, type) and issubclass(kind, Convolutional)
    if name == "mlp":
        network = MLP(channels * height * breadth, classes, width=width, depth=depth, activation=activation, norm=norm)
        network.init = init
    elif convolutional:
        deep = {"depth": depth} if name == "wide_resnet" else {}
        network = kind(channels, classes, width=width, norm=norm, **deep, **moments)
        network.init = init
    else:
        network = OwnNetwork(name, shape, classes, **moments)
    network.to(torch.float64 if precision == "float64" else torch.float32)
    network.initialise(rng.stream(seed, stream))
    return network


__all__ = [
    "ACTIVATIONS", "EXACT_ZEROS", "MLP", "NETWORKS", "NORMS", "Network", "OwnNetwork", "ResNet18",
    "build", "find_classifier",
]  # fmt: skip
