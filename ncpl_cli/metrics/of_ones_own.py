"""Metrics of somebody's own: numbers of features and labels that a function of theirs gives."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from ncpl_cli.metrics.catalogue import METRICS

FAMILY = "own"


def own_metrics(
    wanted: Collection[str], features: Any, labels: Any, weight: Any = None, bias: Any = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by id, and why one is undefined: a fault in a metric must not end a run."""
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    arrays = [_copied(one) for one in (features, labels, weight, bias)]
    for name in wanted:
        metric = METRICS[name]
        if metric.family != FAMILY or metric.compute is None:
            continue
        try:
            value = metric.compute(*arrays)
            values[name] = float("nan") if value is None else float(value)
        except Exception as error:
            undefined[name] = f"{type(error).__name__}: {error}"
    return values, undefined


def _copied(values: Any) -> np.ndarray[Any, Any] | None:
    """An array that may be written to."""
    if values is None:
        return None
    return np.array(values.detach().cpu().numpy() if hasattr(values, "detach") else values)
