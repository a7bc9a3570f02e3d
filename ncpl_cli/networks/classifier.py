"""Which layer of a module is the classifier: the linear layer whose output is the logits, found by a forward pass.

What a layer is called, when it was registered and how wide it is say nothing: auxiliary, distillation and projection
heads are as wide, and a head may be registered first or be used twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ncpl_cli.errors import InputError

HINT = "let it return the output of its last nn.Linear: logits (N, classes), with no softmax and no scale behind it"


@dataclass(frozen=True)
class Call:
    """One use of a linear layer: which, for the how manyth time, on what, and what came out."""

    name: str
    time: int
    features: Tensor
    output: Tensor


def logits_of(output: Any, dimensions: int = 2) -> Tensor:
    """The logits (N, C) of what a module returns: a tensor, `logits` of an object or dictionary, a tuple's first.

    dimensions  3 for logits (N, T, C) of every token
    """
    found = output
    if not isinstance(found, Tensor):
        found = found.get("logits") if isinstance(found, dict) else getattr(found, "logits", found)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != dimensions:
        shape = f" {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        wanted = "(N, classes)" if dimensions == 2 else "(N, tokens, classes)"
        raise InputError(f"it returns a {type(output).__name__}{shape}, and no logits {wanted}.", HINT)
    return found


@contextlib.contextmanager
def calls_of(linears: dict[str, nn.Linear]) -> Iterator[list[Call]]:
    """Every use of the named linear layers inside the block."""
    calls: list[Call] = []

    def hook(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            features = args[0] if args else kwargs["input"]
            calls.append(Call(name, sum(one.name == name for one in calls), features, output))

        return seen

    hooks = [linear.register_forward_hook(hook(name), with_kwargs=True) for name, linear in linears.items()]
    try:
        yield calls
    finally:
        for one in hooks:
            one.remove()


def find_classifier(
    body: nn.Module, forward: Callable[[], Any], logits_of: Callable[[Any], Tensor] = logits_of
) -> tuple[str, int]:
    """The name of the linear layer whose output is the logits of `forward()`, and for the how manyth time it is used.

    Looked for in eval mode. Where no output is the logits themselves, numbers are compared with all parameters moved at
    random, so that heads that begin as zeros or as copies of each other differ; body is left as it was. Raises
    InputError where there is none, and says what is nearest.
    """
    linears = {name: module for name, module in body.named_modules() if isinstance(module, nn.Linear)}
    if not linears:
        raise InputError("it has no linear layer, and the classifier must be one.", HINT)
    training = {module: module.training for module in body.modules()}
    body.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept: dict[str, Tensor] = {}
        try:
            with calls_of(linears) as calls:
                logits = logits_of(forward())  # lazy layers learn their sizes
            if found := [call for call in calls if _is(call.output, logits)]:
                return found[-1].name, found[-1].time
            kept = {name: p.detach().clone() for name, p in body.named_parameters()}
            for parameter in body.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=0.01 + 0.1 * float(parameter.abs().mean()))
            with calls_of(linears) as calls:
                logits = logits_of(forward())
        finally:
            for name, parameter in body.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])
            for module, mode in training.items():
                module.training = mode
    if found := [call for call in calls if _is(call.output, logits) or _equals(call.output, logits)]:
        return found[-1].name, found[-1].time
    raise InputError(_why(calls, logits), HINT)


def _is(output: Tensor, logits: Tensor) -> bool:
    """Whether two tensors are one, or two views of all of the same memory."""
    return output is logits or (output.numel() == logits.numel() and output.data_ptr() == logits.data_ptr())


def _equals(output: Tensor, logits: Tensor) -> bool:
    """Whether a tensor holds the logits' numbers: copied, brought to another type, scaled by 1."""
    return output.numel() == logits.numel() and torch.equal(output.reshape(logits.shape).to(logits.dtype), logits)


def _why(calls: list[Call], logits: Tensor) -> str:
    """Why no linear layer is the classifier, by what the logits are instead."""
    wide, found = logits.double(), "none of its linear layers gives its logits"
    for call in calls:
        if call.output.numel() != logits.numel():
            continue
        output = call.output.reshape(logits.shape).double()
        scale = float((output * wide).sum() / (output * output).sum().clamp_min(1e-300))
        for what, value in (
            ("the softmax", output.softmax(-1)), ("the log-softmax", output.log_softmax(-1)),
            (f"{scale:.4g} times", scale * output), ("what an activation makes", output.clamp_min(0)),
        ):  # fmt: skip
            if torch.allclose(value, wide, rtol=1e-4, atol=1e-6 * float(wide.abs().max())):
                return f"{found}: it returns {what} of what `{call.name}` gives."
    used = list(dict.fromkeys(call.name for call in calls if call.output.shape[-1] == logits.shape[-1]))
    if len(used) > 1:
        return f"{found}: it returns something made of {' and '.join(f'`{name}`' for name in used)}."
    if used:
        return f"{found}: something stands between `{used[0]}` and what it returns."
    wide_as = logits.shape[-1]
    return f"{found}: no linear layer that is used has {wide_as} outputs (a convolution's are none of a layer)."
