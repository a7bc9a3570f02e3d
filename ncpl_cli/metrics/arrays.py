"""Arrays of anybody's framework as the metrics take them, or a sentence that says what to write instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.errors import InputError
from ncpl_cli.metrics.moments import Array


def finite(x: NDArray[Any]) -> bool:
    """Whether every feature is a finite number."""
    # one fast sum tells; where it overflows, every number is looked at
    return math.isfinite(float(torch.from_numpy(x).sum())) or bool(np.isfinite(x).all())


def checked(
    features: Any, labels: Any, weight: Any, bias: Any
) -> tuple[NDArray[Any], NDArray[np.int64], Array | None, Array | None]:
    """Features as float32 or float64 (N, d), labels as int64 (N,), the classifier as float64; else InputError."""
    x, y = _array(features, "features"), _array(labels, "labels")
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"features must be a matrix (N, d), not {x.shape}.")
    if x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"labels must be {len(x)} integers, not {y.dtype} {y.shape}.")
    if y.min(initial=0) < 0:
        raise InputError("labels must count from 0; there is a negative one.")
    w = None if weight is None else _array(weight, "weight").astype(np.float64)
    b = None if bias is None else _array(bias, "bias").astype(np.float64)
    if w is not None and (w.ndim != 2 or w.shape[1] != x.shape[1] or len(w) <= y.max(initial=-1)):
        raise InputError(
            f"weight must be (classes, {x.shape[1]}) with a row for each label to {y.max(initial=-1)}, not {w.shape}."
        )
    if b is not None and (w is None or b.shape != (len(w),)):
        raise InputError(f"bias must have one value for each row of weight, not {b.shape}.")
    return np.ascontiguousarray(x), y.astype(np.int64), w, b


def _array(value: Any, name: str) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor, wherever it is; NumPy knows no bfloat16 and no float8
        value = value.detach()
        value = (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be an array of numbers, not of {array.dtype}.")
    return array
