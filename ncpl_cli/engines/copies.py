"""Copies of many tensors at once: what lies on a device is copied there as one tensor, and comes to the host as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, where they lie: what is done to the originals later does not reach them."""
    return _as_one(tensors, lambda flat: flat)


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; those that lie there are the same ones. One wait for each precision.

    On a stream of its own: what is being trained meanwhile is not waited for.
    """
    if all(_here(value) for value in tensors.values()):
        return dict(tensors)
    with _beside(tensors):
        return _as_one(tensors, _fetched, cpu=lambda value: value)


def _here(value: Tensor) -> bool:
    return value.device.type == "cpu"


def _as_one(
    tensors: Mapping[str, Tensor], brought: Callable[[Tensor], Tensor],
    cpu: Callable[[Tensor], Tensor] = lambda value: value.clone(memory_format=torch.contiguous_format),
) -> dict[str, Tensor]:  # fmt: skip
    found = {name: cpu(value.detach()) for name, value in tensors.items() if _here(value)}
    there = {name: value.detach() for name, value in tensors.items() if not _here(value)}
    for kind in dict.fromkeys(value.dtype for value in there.values()):
        some = {name: value for name, value in there.items() if value.dtype == kind}
        flat = brought(torch.cat([value.reshape(-1) for value in some.values()]))
        parts = torch.split(flat, [value.numel() for value in some.values()])
        found |= {name: part.view(value.shape) for (name, value), part in zip(some.items(), parts, strict=True)}
    if there and torch.cuda.is_available():  # from now on any stream may read it
        torch.cuda.current_stream(next(iter(there.values())).device).synchronize()
    return {name: found[name] for name in tensors}


def _fetched(flat: Tensor) -> Tensor:
    """A copy on the CPU; a CUDA device writes it into pinned memory by itself, and whoever asks waits for that."""
    if not torch.cuda.is_available():
        return flat.cpu()
    return torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True).copy_(flat, non_blocking=True)


def _beside(tensors: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[object]:
    if not torch.cuda.is_available():
        return contextlib.nullcontext()
    device = next(value.device for value in tensors.values() if not _here(value))
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
