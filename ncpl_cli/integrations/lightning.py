"""Runs of Lightning's Trainer in the store, an epoch a row.

from ncpl_cli.integrations.lightning import Recording
Trainer(max_epochs=10, callbacks=[Recording("ncpl.db", "my-scenario", measure=loader)])
"""

from __future__ import annotations

import os
from typing import Any

from ncpl_cli.errors import InputError
from ncpl_cli.integrations.recording import Recorded

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise InputError("lightning is not installed.", "pip install 'ncpl[lightning]'") from error


class Recording(Recorded, Callback):  # type: ignore[misc]
    """A callback whose options are those of `Recorded`; an exception fails the run, Ctrl-C leaves it interrupted."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Claim the run."""
        if trainer.is_global_zero:
            self.begin(int(os.environ.get("PL_GLOBAL_SEED", 0)), pl_module.hparams)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Store what was logged, validation too, and measured."""
        if trainer.is_global_zero:
            self.record(trainer.current_epoch + 1, trainer.callback_metrics, self.measured(pl_module))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the run."""
        self.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Say what became of it."""
        self.end(exception)
