"""Engines: how parameters change. The dictionary below is the registry, fastest first on a CPU."""

from __future__ import annotations

from ncpl_cli.engines.captured import CapturedEngine
from ncpl_cli.engines.engine import Engine, Progress
from ncpl_cli.engines.online import OnlineEngine
from ncpl_cli.engines.stacked import StackedEngine

ENGINES: dict[str, type[OnlineEngine] | type[StackedEngine]] = {
    "online": OnlineEngine, "stacked": StackedEngine, "captured": CapturedEngine,
}  # fmt: skip

__all__ = ["ENGINES", "CapturedEngine", "Engine", "OnlineEngine", "Progress", "StackedEngine"]
