"""A wish to stop: a signal, or somebody who cancels."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from ncpl_cli.errors import Stopped


class Stopper:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a wish to stop after the epoch in flight; a second one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a signal."""
        end = time.monotonic() + seconds
        while not self.signal and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def stop(self) -> None:
        """Stop as after SIGTERM."""
        self.signal = self.signal or signal.SIGTERM

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def stopped(self) -> Stopped:
        """The error to raise once everything is saved."""
        interrupted = self.signal == signal.SIGINT
        return Stopped(
            f"stopped by {signal.Signals(self.signal or 0).name}; everything up to the last epoch is saved.",
            "the same command goes on where it stopped",
            exit_code=130 if interrupted else 75,
        )
