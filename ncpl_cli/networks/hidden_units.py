"""The hidden units of a network: who writes a unit, who reads it. What recycling of units goes by.

A unit of an MLP is a neuron, of a convolution a channel with all its positions. A residual stage has two kinds: the
channels between the two convolutions of a block, and those of the stream that the blocks add to and the next ones read,
which are one unit a channel for the whole stage: to recycle it is to renew all that write it, and to silence all that
read it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ncpl_cli.errors import InputError
from ncpl_cli.networks.convnet import ConvNet
from ncpl_cli.networks.mlp import MLP
from ncpl_cli.networks.own import OwnNetwork
from ncpl_cli.networks.resnet import ResNet18
from ncpl_cli.networks.wide_resnet import WideResNet

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

SILENT = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.SiLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.Identity,
)  # fmt: skip
"""What may stand between who writes a unit and who reads it: it keeps channels apart."""


@dataclass(frozen=True)
class UnitLayer:
    """Units that are recycled by themselves.

    writers  names of the modules whose parameters and buffers have a unit on their first axis: linear layers,
             convolutions, and the norms behind them
    readers  names of the linear layers and convolutions whose input they are
    units    how many; a reader sees each of them `inputs / units` times
    blocks   whether it sees all units and then all again (crelu's positive and negative parts), else each unit's
             positions together, as flattening a convolution leaves them
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    units: int
    blocks: bool = False

    def inputs(self, units: Tensor, inputs: int) -> Tensor:
        """The places of some units among a reader's inputs."""
        times = torch.arange(inputs // self.units, device=units.device)
        if self.blocks:
            return (times[:, None] * self.units + units).flatten()
        return (units[:, None] * len(times) + times).flatten()

    def by_unit(self, of_inputs: Tensor) -> Tensor:
        """What stands at a reader's inputs (..., inputs), summed over each unit's, (..., units)."""
        before = of_inputs.shape[:-1]
        if self.blocks:
            return of_inputs.reshape(*before, -1, self.units).sum(-2)
        return of_inputs.reshape(*before, self.units, -1).sum(-1)


def unit_layers(network: nn.Module) -> list[UnitLayer]:
    """The hidden units of a network, from the input on; raises InputError where they are not known."""
    if isinstance(network, MLP):
        names = [f"hidden.{i}" for i in range(len(network.hidden))]
        return [
            UnitLayer((name, f"norms.{i}"), (after,), network.hidden[i].out_features, blocks=True)  # type: ignore[arg-type]
            for i, (name, after) in enumerate(zip(names, [*names[1:], "classifier"], strict=True))
        ]
    if isinstance(network, ResNet18):
        return _of_resnet(network)
    if isinstance(network, ConvNet):
        blocks = [f"blocks.{i}" for i in range(len(network.blocks))]
        after = [*(f"{block}.0" for block in blocks[1:]), "classifier"]
        return [
            UnitLayer((f"{block}.0", f"{block}.1"), (reader,), _outputs(network, f"{block}.0"))
            for block, reader in zip(blocks, after, strict=True)
        ]
    if isinstance(network, WideResNet):
        return _of_wide_resnet(network)
    if isinstance(network, OwnNetwork) and isinstance(network.body, nn.Sequential):
        return _of_chain("body", network.body)
    raise InputError(
        "the units of this network are not known: those of networks of ncpl's and of a torch.nn.Sequential are.",
        "leave out --intervention redo and continual_backprop, or give the network as nn.Sequential",
    )


def _of_resnet(network: ResNet18) -> list[UnitLayer]:
    found = []
    for s, stage in enumerate(network.stages):
        blocks = [f"stages.{s}.{b}" for b in range(len(stage))]  # type: ignore[arg-type]
        begin = ("stem.0", "stem.1") if s == 0 else (f"{blocks[0]}.downsample.0", f"{blocks[0]}.downsample.1")
        later = blocks if s == 0 else blocks[1:]
        reading = [f"{block}.conv1" for block in later]
        after = f"stages.{s + 1}.0"
        reading += [f"{after}.conv1", f"{after}.downsample.0"] if s + 1 < len(network.stages) else ["classifier"]
        writing = [f"{block}.{part}" for block in blocks for part in ("conv2", "bn2")]
        inner = [
            UnitLayer((f"{block}.conv1", f"{block}.bn1"), (f"{block}.conv2",), _outputs(network, f"{block}.conv1"))
            for block in blocks
        ]
        found += [*inner, UnitLayer((*begin, *writing), tuple(reading), _outputs(network, begin[0]))]
    return found


def _of_wide_resnet(network: WideResNet) -> list[UnitLayer]:
    """Norms stand where the stream is read: they belong to its channels as much as what writes them."""
    found = []
    writers, readers = ["stem"], list[str]()  # of the stream at hand
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage):  # type: ignore[arg-type, var-annotated]
            name = f"stages.{s}.{b}"
            writers.append(f"{name}.norm1")
            readers.append(f"{name}.conv1")
            found.append(UnitLayer((f"{name}.conv1", f"{name}.norm2"), (f"{name}.conv2",), block.conv1.out_channels))
            if block.shortcut is not None:  # another stream begins
                found.append(UnitLayer((*writers,), (*readers, f"{name}.shortcut"), block.shortcut.in_channels))
                writers, readers = [f"{name}.shortcut"], []
            writers.append(f"{name}.conv2")
    return [*found, UnitLayer((*writers, "last_norm"), (*readers, "classifier"), network.classifier.in_features)]


def _of_chain(prefix: str, body: nn.Sequential) -> list[UnitLayer]:
    """Of linear layers and convolutions one after another, with norms, activations and pooling between them."""
    chain = list(_leaves(prefix, body))
    layers = [i for i, (_, module) in enumerate(chain) if isinstance(module, nn.Linear | nn.Conv2d)]
    found = []
    for i, j in itertools.pairwise(layers):
        (name, writer), (reader, after) = chain[i], chain[j]
        between = chain[i + 1 : j]
        units = len(writer.weight)  # type: ignore[arg-type]
        norms = [n for n, m in between if isinstance(m, NORMS) and all(len(p) == units for p in m.parameters())]
        odd = [type(m).__name__ for n, m in between if not isinstance(m, SILENT) and n not in norms]
        if odd or any(getattr(m, "groups", 1) != 1 for m in (writer, after)):
            raise InputError(
                f"the units of this network are not known: {odd[0] if odd else 'a grouped convolution'} stands "
                f"between `{name}` and `{reader}`.",
                "leave out --intervention redo and continual_backprop",
            )
        found.append(UnitLayer((name, *norms), (reader,), units))
    return found


def _leaves(prefix: str, body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in body.named_children():
        if isinstance(module, nn.Sequential):
            yield from _leaves(f"{prefix}.{name}", module)
        else:
            yield f"{prefix}.{name}", module


def _outputs(network: nn.Module, name: str) -> int:
    module = network.get_submodule(name)
    assert isinstance(module, nn.Conv2d)
    return module.out_channels


def fan_out(weight: Tensor) -> Tensor:
    """Sum of absolute weights that leave each input, over outputs and kernel positions: (R, out, in, ..) -> (R, in)."""
    return weight.abs().sum([1, *range(3, weight.dim())])


@contextlib.contextmanager
def watching(
    network: nn.Module, layers: Sequence[UnitLayer], look: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """During a forward pass, what `look` makes of every reader's input (rows, inputs), by the reader's name.

    The positions of a convolution's input are rows.
    """
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            h = given[0].detach()
            found[name] = look(h.movedim(1, -1).flatten(0, -2) if h.dim() > 2 else h)

        return see

    handles = [
        network.get_submodule(name).register_forward_pre_hook(hook(name))
        for name in dict.fromkeys(name for layer in layers for name in layer.readers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
