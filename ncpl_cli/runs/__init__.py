"""The hall: the one room that knows both wings. `life` reads top to bottom; beside it one file a word.

What trains loads when it is asked for: who plans, lists and watches runs needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ncpl_cli.runs.branches import epochs_of, harvest, probe_specs
from ncpl_cli.runs.describe import describe, lacking, longest
from ncpl_cli.runs.observer import Observer
from ncpl_cli.signals import Stopper

if TYPE_CHECKING:
    from ncpl_cli.runs.life import probe, run, said, train_claimed
    from ncpl_cli.runs.replay import kept_epochs, state_after

_TRAINS = {"probe": "life", "run": "life", "said": "life", "train_claimed": "life",
           "kept_epochs": "replay", "state_after": "replay"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _TRAINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TRAINS[name]}"), name)


__all__ = [
    "Observer", "Stopper", "describe", "epochs_of", "harvest", "kept_epochs", "lacking", "longest", "probe",
    "probe_specs", "run", "said", "state_after", "train_claimed",
]  # fmt: skip
