"""A GPU that is not there: numbers on the CPU, storages tagged as if they lay on `cuda:0`.

Shows without a GPU what would go wrong on one: operations on tensors of both kinds, arrays made of device tensors,
every point where the host would wait for the device, and how many kernels are launched (about one an operation that is
no view). What only a CUDA library does (its own errors, its speed) does not show.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

DEVICE = "cuda:0"

FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "alias", "lift_fresh"}
"""Operations that launch nothing, besides views."""

ASKING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
"""Operations whose result the host has to know."""

CHECKING = {"_linalg_eigh", "_linalg_svd", "linalg_inv", "linalg_cholesky", "_linalg_solve_ex", "linalg_eigvals"}
"""Operations after which the host looks whether they succeeded."""


_TAGS: dict[int, StorageWeakRef] = {}
"""Storages on the device; what the package keeps on it (images, constants) stays there from one use to the next."""


@dataclass
class Seen:
    """What happened on the device. Places are the innermost line of the package."""

    mixed: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    kernels: int = 0

    def tag(self, tensor: Tensor) -> None:
        """From now on a tensor lies on the device."""
        storage = tensor.untyped_storage()
        _TAGS[storage._cdata] = StorageWeakRef(storage)

    def there(self, tensor: Any) -> bool:
        """Whether a tensor lies on the device."""
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return False
        tag = _TAGS.get(tensor.untyped_storage()._cdata)
        return tag is not None and not tag.expired()


def _place(what: str) -> str:
    frames = [frame for frame in traceback.extract_stack() if "/ncpl_cli/" in frame.filename]
    return f"{what} {frames[-1].filename.rpartition('/ncpl_cli/')[2]}:{frames[-1].lineno}" if frames else what


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


class _Operations(TorchDispatchMode):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen, given = self.seen, _tensors((args, kwargs or {}))
        here = [tensor for tensor in given if seen.there(tensor)]
        found = func(*args, **(kwargs or {}))
        if here:
            name = str(func).split(".")[1]
            # a number in a tensor of the CPU goes along with a launch; a copy may have a foot on either side
            others = [t for t in given if not seen.there(t) and t.dim() and t.numel()]
            if others and name not in ("copy_", "_to_copy"):
                seen.mixed.append(_place(name))
            if name in ASKING or name in CHECKING:
                seen.waits.append(_place(name))
            if name not in FREE and name != "_local_scalar_dense" and not func.is_view:
                seen.kernels += 1
            for tensor in _tensors(found):
                seen.tag(tensor)
        return found


def _on_device(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).startswith("cuda")


class _Functions(TorchFunctionMode):
    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen, kwargs, name = self.seen, dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args else None
        if name == "__get__" and getattr(func, "__self__", None) in (Tensor.device, Tensor.is_cuda):
            there = seen.there(first)
            return (torch.device(DEVICE) if there else func(*args)) if func.__self__ is Tensor.device else there
        if name == "_parse_to":
            return func(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and seen.there(first):
            seen.arrays.append(_place(name))
        if func is F.one_hot:  # looks at its range on the CPU only
            with _disable_current_modes():
                found = func(*args, **kwargs)
            if seen.there(first):
                seen.tag(found)
                seen.kernels += 1
            return found
        to_cpu = func is Tensor.cpu or (
            func is Tensor.to and any(str(v) == "cpu" for v in (*args[1:], kwargs.get("device")))
        )
        if seen.there(first) and (to_cpu or func is Tensor.tolist):
            seen.waits.append(_place(name))
            with _disable_current_modes():
                found = func(*args, **kwargs)
                return found.clone() if isinstance(found, Tensor) else found
        like = [value for value in args[1:] if func is Tensor.to and seen.there(value)]
        wanted = [_on_device(value) for value in args]
        asked = any(wanted) or _on_device(kwargs.get("device")) or bool(like)
        if not asked:
            return func(*args, **kwargs)
        args = tuple(torch.device("cpu") if there else value for there, value in zip(wanted, args, strict=True))
        if _on_device(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        found = func(*args, **kwargs)
        for tensor in _tensors(found):
            if isinstance(first, Tensor) and not seen.there(tensor):
                storage = tensor.untyped_storage()._cdata
                if storage == first.untyped_storage()._cdata:  # what was to be copied was not
                    with torch.no_grad():
                        copy = tensor.detach().clone(memory_format=torch.preserve_format)
                    seen.tag(copy)
                    return copy.requires_grad_(tensor.requires_grad) if tensor.is_leaf else copy
            seen.tag(tensor)
        return found


@contextlib.contextmanager
def pseudo_device() -> Iterator[Seen]:
    """For as long as it lasts `cuda:0` is a device."""
    seen = Seen()
    with _Operations(seen), _Functions(seen):
        yield seen
