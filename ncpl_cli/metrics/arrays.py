"""Arrays of anybody's framework as the metrics take them, or a sentence that says what to write instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.errors import InputError
from ncpl_cli.metrics.moments import Array

RENUMBER = "labels = np.unique(labels, return_inverse=True)[1]"


def finite(x: NDArray[Any]) -> bool:
    """Whether every feature is a finite number."""
    # one fast sum tells; where it overflows, every number is looked at
    total = torch.from_numpy(x).sum() if x.flags.writeable else x.sum()  # torch warns of memory it may not write
    return math.isfinite(float(total)) or bool(np.isfinite(x).all())


def checked(
    features: Any, labels: Any, weight: Any, bias: Any
) -> tuple[NDArray[Any], NDArray[np.int64], Array | None, Array | None]:
    """Features as float32 or float64 (N, d), labels as int64 (N,), the classifier as float64; else InputError.

    Nothing is copied that need not be; what comes back is only read.
    """
    x = _features(features)
    y = _labels(labels, len(x))
    w = None if weight is None else _array(weight, "weight").astype(np.float64)
    b = None if bias is None else _array(bias, "bias").astype(np.float64)
    if w is not None and (w.ndim != 2 or w.shape[1] != x.shape[1] or len(w) <= y.max(initial=-1)):
        most, hint = y.max(initial=-1), None
        if w.ndim == 2 and w.shape[1] == x.shape[1] and most == len(w) and y.min(initial=most) > 0:
            hint = "labels that count from 1: labels = labels - 1"
        elif w.ndim == 2 and w.shape[0] == x.shape[1] and w.shape[1] > most:
            hint = "a kernel of d x C, as Keras and JAX have it: weight = weight.T"
        raise InputError(
            f"weight must be (classes, {x.shape[1]}) with a row for each label to {most}, not {w.shape}.", hint
        )
    if b is not None and (w is None or b.shape != (len(w),)):
        flat = w is not None and b.size == len(w)
        raise InputError(
            f"bias must have one value for each row of weight, not {b.shape}.",
            "bias = bias.reshape(-1)" if flat else None,
        )
    return _readable(np.ascontiguousarray(x)), y, w, b


def _features(value: Any) -> NDArray[Any]:
    x = _array(value, "features")
    if x.ndim != 2 or x.shape[1] == 0:
        hint = None
        if x.ndim == 1:
            hint = "one feature a sample: features = features[:, None]"
        elif x.ndim > 2:
            mean = f"features.mean({tuple(range(2, x.ndim))})"
            hint = (
                f"features = features.reshape(len(features), -1), or {mean} where a network takes the mean over places"
            )
        raise InputError(f"features must be a matrix (N, d), not {x.shape}.", hint)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    return x


def _labels(value: Any, count: int) -> NDArray[np.int64]:
    words = np.asarray(value) if not hasattr(value, "detach") else None
    if words is not None and words.dtype.kind in "US":
        raise InputError(f"labels must be an array of numbers, not of words ({words.dtype}).", RENUMBER)
    y = _array(value, "labels")
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels must be {count} integers, not {y.dtype} {y.shape}.", _instead(y, count))
    least, most = y.min(initial=0), y.max(initial=0)
    if least < 0:
        raise InputError(
            f"labels must count from 0; there is a negative one, {least}.",
            "samples that a loss ignores are left out: keep = labels >= 0; features[keep], labels[keep]",
        )
    if most > np.iinfo(np.int64).max:
        raise InputError(f"labels must be below 2^63; there is {most}.", RENUMBER)
    return y.astype(np.int64)


def _instead(y: NDArray[Any], count: int) -> str | None:
    """What to write for labels that are none."""
    if y.shape == (count, 1):
        return "labels = labels[:, 0]" + ("" if np.issubdtype(y.dtype, np.integer) else ".astype(int)")
    if y.ndim == 2 and len(y) == count:
        return "scores or one-hot rows: labels = labels.argmax(1)"
    if y.shape == (count,):
        whole = y.dtype == bool or bool(np.all(np.isfinite(y)) and np.all(y == np.floor(y)))
        return "labels = labels.astype(int)" if whole else "they must name classes; numbers to be predicted do not"
    return None


def _array(value: Any, name: str) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            f"{name} are a masked array, and what is masked would be measured.",
            f"keep = ~np.ma.getmaskarray(features).any(1); {name}.data[keep]",
        )
    if hasattr(value, "detach"):  # a torch tensor, wherever it is; NumPy knows no bfloat16 and no float8
        value = value.detach()
        value = (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).cpu().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be an array of numbers ({error}).", f"np.array({name}) must work") from error
    if array.dtype.kind == "V" and array.dtype.names is None:
        array = _without_name(array, name)
    if array.dtype == object or array.dtype.kind not in "biuf":
        hints = {
            "c": f"{name} = {name}.real, or np.abs({name})",
            "O": f"{name} = np.array({name}.tolist(), dtype=float)",
        }
        sparse = hasattr(value, "toarray")
        raise InputError(
            f"{name} must be an array of numbers, not of {array.dtype}.",
            f"a sparse matrix: {name} = {name}.toarray()" if sparse else hints.get(array.dtype.kind),
        )
    return array


def _without_name(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Types that NumPy has no name for: bfloat16, of which its files keep only that it has two bytes, and float8."""
    if array.dtype.itemsize == 2 and array.dtype.name in ("bfloat16", "void16"):
        bits = np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    if array.dtype.name.startswith("void"):
        raise InputError(
            f"{name} are of {array.dtype.itemsize} bytes without a type ({array.dtype}).",
            f"save them as {name}.astype(np.float32)",
        )
    return array.astype(np.float32)


def _readable(x: NDArray[Any]) -> NDArray[Any]:
    """The same memory, said to be writable: torch warns of what is read-only, and loops would be compiled once more."""
    if x.flags.writeable:
        return x
    return np.asarray(_Lent(x))


class _Lent:
    """Memory of an array that nobody writes to."""

    def __init__(self, x: NDArray[Any]) -> None:
        self.x = x
        self.__array_interface__ = {**x.__array_interface__, "data": (x.__array_interface__["data"][0], False)}
