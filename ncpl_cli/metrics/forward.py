"""What a network does to a split: features of every layer and logits, in eval mode, in fixed blocks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.resident import shown
from ncpl_cli.data.sparse import active_rows_times_matrix, padded, rows_times_matrix, sparse
from ncpl_cli.metrics.accumulator import CollapseAccumulator
from ncpl_cli.networks import MLP, Network
from ncpl_cli.objectives import CROSS_ENTROPY, CrossEntropy, Objective
from ncpl_cli.scenarios.task import Task

BLOCK = 1024
"""Samples of a block: what the layers need for one stays in the second-level cache."""

WHOLE = 2048
"""A split of so many samples is one block: what its layers give is kept as it is, and nothing is copied."""

MOST_KEPT = 1 << 30
"""Bytes of a layer's activations that are kept at most; a larger one is streamed."""

FEW_ROWS = 2000
"""Samples of a streamed layer that are kept, drawn over the whole split."""

NARROW = 1 << 16
"""Bytes of a layer's matrix that stay in the first-level cache for the most part: there skipping the zeros that ReLU
leaves pays, in a trained network two of three."""

IMAGE_BLOCK = {"cpu": 500, "mps": 500, "cuda": 2000}
"""Images of a block of a convolutional network: its activations are many times larger than its images. On a GPU a block
of 500 is over before the next one's launches are; 2 000 take half a gigabyte a layer of a ResNet-18."""


@dataclass
class View:
    """What a network gives on one split: logits (n, C), activations by layer (n, width), labels (n,).

    split     the images it was shown
    streamed  layers whose activations take more than `MOST_KEPT`: only the `drawn` rows are in `layers`
    drawn     some of the samples that stand for all, (m,): `Split.draw`
    targets   of regression: the numbers asked, (n, K)
    among     outputs that a prediction is looked for among, None = all
    squares   Gram matrices (width, width) of layers, in float64, where measuring collapse has come by them
    inside    preactivations and activations (m, width) of the drawn rows by layer, of all layers, where asked for
    """

    split: Split
    labels: NDArray[np.int64]
    logits: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)
    inside: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    streamed: frozenset[str] = frozenset()
    drawn: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    targets: NDArray[Any] | None = None
    squares: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    among: tuple[int, int] | None = None

    def few(self, layer: str) -> tuple[Tensor, NDArray[np.int64]]:
        """Activations of a layer (m, width) and labels of the drawn samples."""
        kept = self.layers[layer]
        whole = layer in self.streamed or len(self.drawn) == len(kept)
        return kept if whole else kept[torch.from_numpy(self.drawn).to(kept.device)], self.labels[self.drawn]

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is their label's."""
        return float((self.predicted == self.labels).mean())

    @functools.cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class of the largest logit, (n,)."""
        first, last = self.among or (0, self.logits.shape[1])
        found: NDArray[np.int64] = self.logits[:, first:last].argmax(1).cpu().numpy() + first
        return found

    def loss(self, objective: Objective = CROSS_ENTROPY) -> float:
        """Mean loss: each sample's in the network's precision, their mean in float64."""
        asked = torch.from_numpy(self.labels if self.targets is None else self.targets).to(self.logits.device)
        if isinstance(objective, CrossEntropy) and not asked.is_floating_point():  # the same bits, in half the time
            return float(objective.losses(self.logits.T.contiguous(), asked, 0).mean(dtype=torch.float64))
        asked = asked.to(self.logits.dtype) if asked.is_floating_point() else asked
        return float(objective.losses(self.logits, asked).mean(dtype=torch.float64))

    def unexplained(self, objective: Objective) -> float | None:
        """Mean squared error of the numbers predicted over the variance of those asked; None where these are one."""
        assert self.targets is not None
        asked = torch.from_numpy(self.targets).to(self.logits.device, torch.float64)
        known = ~asked.isnan()
        numbers, predicted = asked[known], objective.value(self.logits).double()[known]
        spread = float(numbers.var(correction=0)) if len(numbers) else 0.0
        return float((predicted - numbers).square().mean()) / spread if spread > 0 else None


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each module's mode is put back, so that measuring leaves no trace."""
    before = network.training
    kept = [module for module in network.modules() if not module.training] if before else []  # such as a frozen norm
    if before:  # it walks over all modules
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if before:
            network.train()
            for module in kept:
                module.training = False


def view(
    network: Network, data: Dataset, split: Split, labels: NDArray[np.int64], pixel_order: NDArray[np.int64] | None,
    *, device: str, samples: int | None = None, layers: Sequence[str] = ("last",), inside: bool = False,
    among: tuple[int, int] | None = None,
) -> View:  # fmt: skip
    """Run a network over a split (`samples` drawn of it), keeping the named layers, of large ones a few rows.

    `inside` keeps of a few rows what every layer gives before and after its activation, of networks that show it.

    A pixel order is put into an MLP's first layer: x[:, p] @ W == x @ V with V[p] = W.
    """
    split, labels = _limited(split, labels, samples)
    n, drawn = len(split), split.draw(FEW_ROWS)
    if rectified(network, device) and 0 < n <= MOST_KEPT // (8 * network.classifier.in_features):
        if n == len(drawn) <= WHOLE:
            return _view_at_once(network, data, split, labels, pixel_order, layers, inside, among)
        if n > WHOLE:
            return _view_in_place(network, data, split, labels, pixel_order, layers, inside, among)
    places = np.full(n, -1)
    places[drawn] = np.arange(len(drawn))
    names = network.layer_names
    logits: Tensor | None = None
    kept: dict[str, Tensor] = {}
    within: dict[str, tuple[Tensor, Tensor]] = {}
    streamed: set[str] = set()
    with evaluating(network):
        for start, (block, activations, z) in classified(network, data, split, n, pixel_order, device):
            if logits is None:  # whole tensors at once: pieces to be joined would be copied a second time
                widths = {name: a.shape[1] for name, a in zip(names, activations, strict=True) if name in layers}
                streamed = {name for name, width in widths.items() if n * width * block.element_size() > MOST_KEPT}
                if len(block) == len(drawn) == n and not streamed:
                    logits = block
                    kept = {name: a for name, a in zip(names, activations, strict=True) if name in layers}
                    if inside:
                        within = {name: (p, a) for name, a, p in zip(names, activations, z, strict=False)}
                    break
                logits = block.new_empty(n, block.shape[1])
                kept = {
                    name: block.new_empty(len(drawn) if name in streamed else n, width)
                    for name, width in widths.items()
                }
                if inside:  # a network need not show its preactivations
                    within = {
                        name: (block.new_empty(len(drawn), p.shape[1]), block.new_empty(len(drawn), a.shape[1]))
                        for name, a, p in zip(names, activations, z, strict=False)
                    }
            rows = slice(start, start + len(block))
            logits[rows] = block
            here: slice | Tensor = slice(None)
            to: slice | Tensor = rows
            if len(drawn) < n:
                here = torch.from_numpy(np.flatnonzero(places[rows] >= 0) if streamed or within else places[:0])
                here, to = here.to(device), torch.from_numpy(places[rows])[here].to(device)
            for name, a in zip(names, activations, strict=True):
                if name in streamed:
                    kept[name][to] = a[here]
                elif name in kept:
                    kept[name][rows] = a
            for own, *shown in zip(within.values(), z, activations, strict=False):
                for wanted, given in zip(own, shown, strict=True):
                    wanted[to] = given[here]
    assert logits is not None
    return View(split, labels, logits, kept, within, frozenset(streamed), drawn, among=among)


def rectified(network: nn.Module, device: str) -> TypeGuard[MLP]:
    """Whether a network is an MLP of plain layers with ReLU, on the CPU."""
    return isinstance(network, MLP) and network.activation == "relu" and network.norm == "none" and device == "cpu"


class LaterLayers:
    """The layers of a plain MLP after the first, in the same memory for every block of at most so many samples.

    Rows are full vectors, which is a third faster; and what a block needs stays in the second-level cache.
    """

    def __init__(self, network: MLP, most: int) -> None:
        linears: list[Any] = [*network.hidden[1:], network.classifier]
        self._layers = []
        for linear in linears:
            weight, bias = padded_weights(linear)
            memory = weight.new_empty(most, len(bias))
            narrow = linear is not network.classifier and is_narrow(weight)
            self._layers.append((weight, bias, memory, active_rows_times_matrix(len(bias), True) if narrow else None))

    def __call__(
        self, z: Tensor, look: Callable[[int, Tensor], None] | None = None, keep: bool = False
    ) -> Tensor:  # fmt: skip
        """Padded logits from the first layer's padded output (n, ...), which is overwritten unless all is to be kept.

        `look` sees each layer twice: before its activation, and after it.
        """
        for layer, (weight, bias, memory, product) in enumerate(self._layers):
            h, z = z, memory[: len(z)]
            if look is not None:
                look(layer, h)
                h = h.relu() if keep else h.relu_()
                look(layer, h)
            if product is not None:
                product(h.numpy(), weight.numpy(), bias.numpy(), z.numpy())
            else:
                torch.addmm(bias, h if look is not None else h.relu_(), weight, out=z)
        return z

    def preactivations(self, z: Tensor) -> list[Tensor]:
        """What every layer gives before its activation (n, ...), from the first's: that is kept, and no logits made."""
        found = [z]
        for weight, bias, memory, product in self._layers[:-1]:
            out = memory[: len(z)]
            if product is not None:
                product(z.numpy(), weight.numpy(), bias.numpy(), out.numpy())
            else:
                torch.addmm(bias, z.relu(), weight, out=out)
            found.append(z := out)
        return found


def is_narrow(weight: Tensor) -> bool:
    """Whether skipping zeros pays before this matrix."""
    return weight.numel() * weight.element_size() <= NARROW


def padded_weights(linear: Any) -> tuple[Tensor, Tensor]:
    """A layer's weights (padded inputs, padded outputs) and biases: rows are full vectors."""
    outputs, inputs = linear.weight.shape
    weight = linear.weight.new_zeros(padded(inputs), padded(outputs))
    weight[:inputs, :outputs] = linear.weight.detach().t()
    bias = linear.bias.new_zeros(padded(outputs))
    bias[:outputs] = linear.bias.detach()
    return weight, bias


def _view_in_place(
    network: MLP, data: Dataset, split: Split, labels: NDArray[np.int64], pixel_order: NDArray[np.int64] | None,
    layers: Sequence[str], inside: bool, among: tuple[int, int] | None,
) -> View:  # fmt: skip
    """`view` where activations overwrite preactivations: a third faster for a split of many blocks."""
    n, drawn, names, like = len(split), split.draw(FEW_ROWS), network.layer_names, network.classifier.weight
    width = network.classifier.in_features
    logits = like.new_empty(n, network.classifier.out_features)
    kept = {name: like.new_empty(n, width) for name in names if name in layers}
    with evaluating(network):
        later = LaterLayers(network, BLOCK)
        for start, z in _first_layer(network, data, split, n, pixel_order, "cpu"):
            rows, seen = slice(start, start + len(z)), [False] * len(names)

            def look(layer: int, x: Tensor, rows: slice = rows, seen: list[bool] = seen) -> None:
                if seen[layer] and names[layer] in kept:
                    kept[names[layer]][rows] = x[:, :width]
                seen[layer] = True

            logits[rows] = later(z, look)[:, : logits.shape[1]]
    within = {}
    if inside:  # the few by themselves: a pass over them takes a fifth of the time that looking into every block does
        few = _view_at_once(network, data, split.drawn(FEW_ROWS), labels[drawn], pixel_order, (), True, among)
        here = torch.from_numpy(drawn)
        within = {name: (p, kept[name][here] if name in kept else a) for name, (p, a) in few.inside.items()}
    return View(split, labels, logits, kept, within, frozenset(), drawn, among=among)


def _view_at_once(
    network: MLP, data: Dataset, split: Split, labels: NDArray[np.int64], pixel_order: NDArray[np.int64] | None,
    layers: Sequence[str], inside: bool, among: tuple[int, int] | None,
) -> View:  # fmt: skip
    """`view` of a split that is one block and is drawn whole: what its layers give is kept as it is."""
    n, names, width = len(split), network.layer_names, network.classifier.in_features
    seen: list[Tensor] = []
    with evaluating(network):
        ((_, first),) = _first_layer(network, data, split, n, pixel_order, "cpu", step=n)
        logits = LaterLayers(network, n)(first, lambda _, x: seen.append(x[:, :width]), keep=inside)
    kept = {name: h.contiguous() for name, h in zip(names, seen[1::2], strict=True) if name in layers}
    within = dict(zip(names, zip(seen[::2], seen[1::2], strict=True), strict=True)) if inside else {}
    logits = logits[:, : network.classifier.out_features]
    return View(split, labels, logits, kept, within, frozenset(), split.draw(FEW_ROWS), among=among)


def preactivations(
    network: Network, data: Dataset, split: Split, pixel_order: NDArray[np.int64] | None, device: str
) -> dict[str, Tensor]:
    """What each layer gives before its activation on a small split, by its name; nothing where a network hides it."""
    if rectified(network, device) and 0 < len(split) <= WHOLE:
        with evaluating(network):
            ((_, first),) = _first_layer(network, data, split, len(split), pixel_order, "cpu")
            found = LaterLayers(network, len(split)).preactivations(first)
        width = network.classifier.in_features
        return {name: z[:, :width] for name, z in zip(network.layer_names, found, strict=True)}
    seen = view(network, data, split, split.labels, pixel_order, device=device, layers=(), inside=True)
    return {name: z for name, (z, _) in seen.inside.items()}


def predictions(network: Network, data: Dataset, task: Task, device: str) -> NDArray[np.float64]:
    """The numbers that a network predicts of the training split as a task shows it, (N, targets)."""
    seen = view(network, data, data.train, data.train.labels, task.pixel_order, device=device, layers=())
    found: NDArray[np.float64] = task.objective.value(seen.logits).double().cpu().numpy()
    return found


def _limited(split: Split, labels: NDArray[np.int64], samples: int | None) -> tuple[Split, NDArray[np.int64]]:
    """A split and its labels, of at most `samples` samples."""
    if samples is None or samples >= len(split):
        return split, labels[: len(split)]
    return split.drawn(samples), labels[split.draw(samples)]


def accumulate(
    network: Network, data: Dataset, split: Split, labels: NDArray[np.int64], pixel_order: NDArray[np.int64] | None,
    *, device: str, samples: int | None, layers: Collection[str], classes: int,
    metrics: Collection[str] | None = None,
) -> dict[str, CollapseAccumulator]:  # fmt: skip
    """Both passes of an accumulator over the named layers of a split: block by block, keeping none."""
    split, labels = _limited(split, labels, samples)
    found = {layer: CollapseAccumulator(classes, metrics) for layer in layers}
    with evaluating(network):
        for again in (False, True):
            for start, (block, activations, _) in classified(network, data, split, len(split), pixel_order, device):
                own = labels[start : start + len(block)]
                for name, a in zip(network.layer_names, activations, strict=True):
                    if name not in found:
                        continue
                    if not again:
                        found[name].update(a, own)
                    elif name == "last":
                        found[name].revisit(a, own, network.classifier.weight, network.classifier.bias)
                    else:
                        found[name].revisit(a, own)
    return found


Classified = tuple[Tensor, list[Tensor], list[Tensor]]


def classified(
    network: Network, data: Dataset, split: Split, n: int, pixel_order: NDArray[np.int64] | None, device: str
) -> Iterator[tuple[int, Classified]]:
    """Logits, activations and preactivations, block by block."""
    if isinstance(network, MLP):
        width = first_weights(network)[2]
        for start, first in _first_layer(network, data, split, n, pixel_order, device):
            yield start, network.classify_from(first[:, :width])
        return
    dtype = network.classifier.weight.dtype
    step = IMAGE_BLOCK[device.partition(":")[0]]
    for start in range(0, n, step):
        pixels = shown(split, start, min(n, start + step), device)
        if pixel_order is not None:
            pixels = pixels.flatten(1)[:, torch.from_numpy(pixel_order).to(device)].view(pixels.shape)
        yield start, network.classify(pixels.to(dtype) / data.scale)


def first_weights(network: MLP) -> tuple[Tensor, Tensor, int]:
    """The first layer's weights (D, padded width) and biases, its rows full vectors; and its width."""
    linear: Any = network.hidden[0]
    weight, bias = padded_weights(linear)
    return weight[: linear.in_features], bias, linear.out_features


def _first_layer(
    network: MLP, data: Dataset, split: Split, n: int, pixel_order: NDArray[np.int64] | None, device: str,
    step: int | None = None,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """The first linear layer's padded output, block by block: sparse on the CPU, where most pixels are 0."""
    weight, bias, _ = first_weights(network)
    if pixel_order is not None:
        rows = torch.from_numpy(pixel_order).to(device)
        weight = torch.empty_like(weight).index_copy_(0, rows, weight)
    images = sparse(split, data.scale, str(weight.dtype).removeprefix("torch.")) if device == "cpu" else None
    step = step or (n if n <= WHOLE else BLOCK)
    for start in range(0, n, step):
        size = min(step, n - start)
        if images is not None:
            out = torch.empty(size, len(bias), dtype=weight.dtype)
            rows_times_matrix(len(bias))(
                images.starts, images.pixels, images.values, start, weight.numpy(), bias.numpy(), out.numpy()
            )
            yield start, out
        else:
            x = shown(split, start, start + size, device).flatten(1).to(weight.dtype) / data.scale
            yield start, torch.addmm(bias, x, weight)
