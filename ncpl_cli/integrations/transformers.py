"""Runs of transformers' Trainer in the store, an epoch a row.

from ncpl_cli.integrations.transformers import Recording
Trainer(model, arguments, train_dataset=..., callbacks=[Recording("ncpl.db", "my-scenario", measure=loader)])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ncpl_cli.errors import InputError
from ncpl_cli.integrations.recording import Recorded

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise InputError("transformers is not installed.", "pip install 'ncpl[hf]'") from error


class Recording(Recorded, TrainerCallback):  # type: ignore[misc]
    """A callback whose options are those of `Recorded`. The Trainer tells it of no exception: the run is then freed
    when the process ends or trains again."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Claim the run."""
        self._epoch, self._logged, self._shown = 0, dict[str, Any](), dict[str, Any]()
        if state.is_world_process_zero:
            self.begin(args.seed, {"lr": args.learning_rate, "batch_size": args.per_device_train_batch_size})

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Keep what is logged: an epoch is evaluated after its end."""
        self._logged |= {name: value for name, value in (logs or {}).items() if name != "epoch"}

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure the epoch, which is stored when the next begins or all have ended."""
        self._epoch, self._shown = round(state.epoch), self.measured(model)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Store the epoch before."""
        if self._epoch:
            self.record(self._epoch, self._logged, self._shown)
        self._epoch, self._logged = 0, {}

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Store the last epoch, and finish the run."""
        self.on_epoch_begin(args, state, control)
        self.end()
