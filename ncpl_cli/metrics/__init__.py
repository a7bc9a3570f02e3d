"""Metrics: what is measured. `catalogue.METRICS` is the registry; `collapse` is for anybody's arrays and tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncpl_cli.metrics.accumulator import CollapseAccumulator
    from ncpl_cli.metrics.measured import Measured
    from ncpl_cli.metrics.neural_collapse import CollapseResult, collapse
    from ncpl_cli.metrics.snapshot import Snapshot, measure
    from ncpl_cli.metrics.torchmetric import NeuralCollapse

_LAZY = {
    "CollapseAccumulator": "accumulator", "collapse": "neural_collapse", "CollapseResult": "neural_collapse",
    "measure": "snapshot", "Measured": "measured", "Snapshot": "snapshot", "NeuralCollapse": "torchmetric",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load torch only for what needs it: the catalogue of names does not."""
    if name not in _LAZY:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"ncpl_cli.metrics.{_LAZY[name]}"), name)


__all__ = ["CollapseAccumulator", "CollapseResult", "Measured", "NeuralCollapse", "Snapshot", "collapse", "measure"]
