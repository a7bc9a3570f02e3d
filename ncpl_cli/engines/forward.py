"""The forward pass of R stacked networks, for autograd: batched matrices for an MLP, else any module under vmap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ncpl_cli.engines.stack import Stack, layout
from ncpl_cli.networks import ACTIVATIONS, MLP
from ncpl_cli.networks.hidden_units import UnitLayer, watching


class _Classifying(nn.Module):
    """A network whose forward gives what `classify` gives, for `functional_call`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits, activations, preactivations."""
        found: tuple[Tensor, list[Tensor], list[Tensor]] = self.network.classify(x)  # type: ignore[operator]
        return found


def _mean_absolute(h: Tensor) -> Tensor:
    return h.abs().mean(0, dtype=torch.promote_types(h.dtype, torch.float32))


class StackedForward:
    """Outputs and activations of all runs at once, of their stacked parameters.

    watched  hidden units of networks that are no MLPs, whose readers' mean absolute inputs (R, inputs) are then `seen`
    """

    def __init__(self, stack: Stack, networks: Sequence[nn.Module], device: str, precision: str) -> None:
        self._stack, self._networks, self._first = stack, networks, networks[0]
        self._device, self._precision = device, precision
        self._dtype = next(self._first.parameters()).dtype
        self._uncounted: frozenset[str] = frozenset()
        self.watched: Sequence[UnitLayer] = ()
        self.seen: dict[str, Tensor] = {}

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (R, B, C) and the activations of the hidden layers, each (R, B, ...), the features last."""
        if not isinstance(self._first, MLP):
            return self._forward_modules(x)
        activation = ACTIVATIONS[self._first.activation]
        *hidden, last = self._stack.tensors[: len(self._stack.linears)]
        h, activations = x, []  # R x B x (D + 1)
        for layer, weight in enumerate(hidden):
            activations.append(activation(self._normalised(layer, torch.bmm(h, weight))))  # R x B x width
            h = F.pad(activations[-1], (0, 1), value=1.0)
        return torch.bmm(h, last), activations

    @contextlib.contextmanager
    def counted(self, steps: int) -> Iterator[None]:
        """Train `steps` steps: batch norms count them at the end, not with a launch each that nobody reads.

        Norms without a momentum average over all steps so far, and need the count at each.
        """
        norms = {
            f"{name}.num_batches_tracked": module
            for name, module in self._first.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.num_batches_tracked is not None and module.momentum is not None
        }  # fmt: skip
        counts = {name: module.num_batches_tracked for name, module in norms.items()}
        self._uncounted = frozenset(norms)
        for module in norms.values():
            module.num_batches_tracked = None
        try:
            yield
        finally:
            for name, module in norms.items():
                module.num_batches_tracked = counts[name]
            self._uncounted = frozenset()
        for name in norms:
            self._stack.buffers[name].add_(steps)

    def _normalised(self, layer: int, z: Tensor) -> Tensor:
        """Preactivations z (R, B, width) through the layer's norm, as torch computes it in training mode."""
        norm = cast(MLP, self._first).norms[layer]
        if not isinstance(norm, nn.LayerNorm | nn.BatchNorm1d):
            return z
        named = dict(zip(self._stack.others, self._stack.tensors[len(self._stack.linears) :], strict=True))
        gain, shift = named[f"norms.{layer}.weight"][:, None], named[f"norms.{layer}.bias"][:, None]  # R x 1 x width
        if isinstance(norm, nn.LayerNorm):
            return F.layer_norm(z, z.shape[-1:], eps=norm.eps) * gain + shift
        variance, mean = torch.var_mean(z, 1, correction=0, keepdim=True)  # R x 1 x width
        momentum, batch = cast(float, norm.momentum), z.shape[1]
        held = {name: self._stack.buffers[f"norms.{layer}.{name}"] for name, _ in norm.named_buffers()}
        with torch.no_grad():
            held["running_mean"].lerp_(mean[:, 0], momentum)
            held["running_var"].lerp_(variance[:, 0] * (batch / (batch - 1)), momentum)
        return (z - mean) * torch.rsqrt(variance + norm.eps) * gain + shift

    def _forward_modules(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Any network on x (R, B, channels, height, width): itself where it is alone, else mapped over the runs."""
        named = dict(zip(self._stack.others, self._stack.tensors, strict=True))
        buffers = {name: held for name, held in self._stack.buffers.items() if name not in self._uncounted}

        def one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor
        ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            held = {f"network.{name}": tensor for name, tensor in (parameters | buffers).items()}
            with self._arithmetic(), watching(self._first, self.watched, _mean_absolute) as seen:
                logits, activations, _ = functional_call(self._classifying, held, (x,))
            return logits.to(self._dtype), activations[-1].to(self._dtype), seen

        if len(self._networks) == 1:
            squeezed = [{name: tensor.squeeze(0) for name, tensor in of.items()} for of in (named, buffers)]
            shown = x[0].contiguous(memory_format=layout(self._device, self._precision))
            logits, features, seen = one(squeezed[0], squeezed[1], shown)
            self.seen = {name: tensor[None] for name, tensor in seen.items()}
            return logits[None], [features[None]]
        logits, features, self.seen = torch.vmap(one, randomness="different")(named, buffers, x)
        return logits, [features]

    @cached_property
    def _classifying(self) -> nn.Module:
        return _Classifying(self._first)

    def _arithmetic(self) -> contextlib.AbstractContextManager[object]:
        if self._precision == "bf16":
            return torch.autocast(torch.device(self._device).type, torch.bfloat16)
        return contextlib.nullcontext()
