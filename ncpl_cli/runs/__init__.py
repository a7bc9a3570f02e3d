"""The hall: the one room that knows both wings. `life` reads top to bottom; beside it one file a word."""

from __future__ import annotations

from ncpl_cli.runs.branches import epochs_of, harvest, probe_specs
from ncpl_cli.runs.describe import describe, longest
from ncpl_cli.runs.life import probe, run, said, train_claimed
from ncpl_cli.runs.observer import Observer
from ncpl_cli.runs.replay import kept_epochs, lacking, state_after
from ncpl_cli.signals import Stopper

__all__ = [
    "Observer", "Stopper", "describe", "epochs_of", "harvest", "kept_epochs", "lacking", "longest", "probe",
    "probe_specs", "run", "said", "state_after", "train_claimed",
]  # fmt: skip
