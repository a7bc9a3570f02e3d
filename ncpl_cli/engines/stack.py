"""R networks of one shape in stacked tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncpl_cli.networks import MLP


def layout(device: str, precision: str) -> torch.memory_format:
    """How images and convolutions lie: channels last on CPUs and tensor cores; plain float32 on CUDA gains nothing."""
    last = device == "cpu" or precision in ("tf32", "bf16")
    return torch.channels_last if last else torch.contiguous_format


class Stack:
    """The parameters and buffers of R networks in stacked tensors; the networks' own become views of them.

    A linear layer of an MLP is one tensor (R, in + 1, out), its bias the last row: with a column of ones beside its
    input, bias and weight are one matrix. Everything else is stacked as it is; the convolutions of a network that is
    alone lie as they are used, else each step would lay them out anew, and their gradients back.
    """

    def __init__(
        self, networks: Sequence[nn.Module], layout: torch.memory_format = torch.contiguous_format
    ) -> None:  # fmt: skip
        parameters = [dict(net.named_parameters()) for net in networks]
        buffers = [dict(net.named_buffers()) for net in networks]
        first = networks[0]
        hidden = len(first.hidden) if isinstance(first, MLP) else 0
        self.linears = [*(f"hidden.{i}" for i in range(hidden)), *(["classifier"] if isinstance(first, MLP) else [])]
        folded = {f"{linear}.{part}" for linear in self.linears for part in ("weight", "bias")}
        self.others = [name for name in parameters[0] if name not in folded]
        self.tensors = [
            torch.stack([torch.cat([p[f"{name}.weight"].detach().t(), p[f"{name}.bias"].detach()[None]])
                         for p in parameters])
            for name in self.linears
        ] + [torch.stack([p[name].detach() for p in parameters]) for name in self.others]  # fmt: skip
        if len(networks) == 1:
            self.tensors = [
                t[0].contiguous(memory_format=layout)[None] if t.dim() == 5 else t for t in self.tensors
            ]  # fmt: skip
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}
        for run, own in enumerate(parameters):
            for name, view in self.views(self.tensors, run).items():
                own[name].data = view
            for name, stacked in self.buffers.items():
                buffers[run][name].data = stacked[run]

    def places(self) -> list[tuple[int, str]]:
        """(number of the stacked tensor, parameter) for every parameter."""
        return [(i, f"{name}.{part}") for i, name in enumerate(self.linears) for part in ("weight", "bias")] + [
            (i, name) for i, name in enumerate(self.others, len(self.linears))
        ]

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """`tensors` (parameters, or moments of their shapes) by name with a leading R, as views with gradients."""
        found = {}
        for name, tensor in zip(self.linears, tensors[: len(self.linears)], strict=True):
            found[f"{name}.weight"], found[f"{name}.bias"] = tensor[:, :-1].mT, tensor[:, -1]
        return found | dict(zip(self.others, tensors[len(self.linears) :], strict=True))

    def views(self, tensors: Sequence[Tensor], run: int) -> dict[str, Tensor]:
        """One run's part of `tensors` (parameters, or moments of their shapes), named as in its network."""
        found = {}
        for name, tensor in zip(self.linears, tensors[: len(self.linears)], strict=True):
            matrix = tensor[run].detach()  # in + 1 x out
            found[f"{name}.weight"], found[f"{name}.bias"] = matrix[:-1].t(), matrix[-1]
        for name, tensor in zip(self.others, tensors[len(self.linears) :], strict=True):
            found[name] = tensor[run].detach()
        return found
