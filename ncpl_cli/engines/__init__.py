"""Engines: how parameters change. ENGINES is the registry, fastest first on a CPU.

An engine loads when it is asked for: a dry run times the online engine's kernel, which needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncpl_cli.engines.captured import CapturedEngine
    from ncpl_cli.engines.engine import Engine, Progress
    from ncpl_cli.engines.online import OnlineEngine
    from ncpl_cli.engines.stacked import StackedEngine

    ENGINES: dict[str, type[OnlineEngine] | type[StackedEngine]]

_ENGINES = {"online": "OnlineEngine", "stacked": "StackedEngine", "captured": "CapturedEngine"}
_PLACES = {name: file for file, name in _ENGINES.items()} | {"Engine": "engine", "Progress": "engine"}


def __getattr__(name: str) -> Any:
    if name == "ENGINES":
        found: Any = {engine: __getattr__(kind) for engine, kind in _ENGINES.items()}
    elif name in _PLACES:
        found = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


__all__ = ["ENGINES", "CapturedEngine", "Engine", "OnlineEngine", "Progress", "StackedEngine"]
