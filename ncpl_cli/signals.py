"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP, in one place: everywhere an exception, in training a wish to stop.

    arrive                 everywhere: Interrupted is raised where the program is, and `finally` cleans up
    Stopper                while it is entered: a flag; the epoch in flight is finished and saved first
    a second within 1 s    says nothing new (a terminal and a parent may both send one): it changes nothing
    held                   while it is entered: what leaves files behind half-way is done to its end first
    lost in a callback     Python prints and forgets exceptions there (__del__, ctypes, codecs): it is sent again

Standard library only, so that it holds from the first moment on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from ncpl_cli.errors import Stopped

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))

PATIENCE = 1.0
"""Seconds within which a second signal is a repetition of the first."""


class Interrupted(KeyboardInterrupt):
    """A signal has arrived."""


class _Standing:
    """What has arrived: the first signal, when it was last acted on, and who asked to be told instead of stopped; how
    many ask to be let be for a moment, what arrived meanwhile and when."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.acted = -1e9
        self.lost = False
        self.patient: Stopper | None = None
        self.holding = 0
        self.held: tuple[int, float] | None = None


_standing = _Standing()


def received() -> int | None:
    """The first signal that has arrived; None: none has."""
    return _standing.first


def install() -> None:
    """Act on signals from here on, in this process; what its parent has it ignore (nohup, &) stays ignored."""
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _arrive)
    sys.unraisablehook = _send_again


def done() -> None:
    """Ignore signals from here on: the command is over; saying how it ended and ending Python is all that is left.

    In a process where `install` was not called (a test, a notebook) nothing changes.
    """
    for number in NUMBERS:
        if signal.getsignal(number) == _arrive:
            signal.signal(number, signal.SIG_IGN)


def stopped(number: int, what: str = "nothing is left half-written.") -> Stopped:
    """The error that says so, with the exit code of the signal: 130 for Ctrl-C, else 75."""
    return Stopped(
        f"stopped by {signal.Signals(number).name}; {what}", "the same command goes on where it stopped",
        exit_code=130 if number == signal.SIGINT else 75,
    )  # fmt: skip


def _arrive(number: int, _: FrameType | None) -> None:
    standing = _standing
    now = time.monotonic()
    if standing.holding and (standing.held is None or now - standing.held[1] < PATIENCE):
        standing.held = standing.held or (number, now)
        return
    patient, repeated = standing.patient, now - standing.acted < PATIENCE and not standing.lost
    if standing.first is None:
        standing.first = number
    if repeated:
        return
    standing.acted, standing.lost = now, False
    if patient is not None and patient.signal is None:
        patient.signal = number
        return
    raise Interrupted


def _send_again(lost: Any) -> None:
    """Python's hook for exceptions that nobody can catch: a signal among them comes again a moment later."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    _standing.lost = True
    again = threading.Timer(0.02, os.kill, (os.getpid(), _standing.first or signal.SIGINT))
    again.daemon = True
    again.start()


class held:
    """While it is entered a signal waits, where half of something would be left behind; one that comes again after a
    second does not."""

    def __enter__(self) -> None:
        self._here = threading.current_thread() is threading.main_thread()  # where signals are acted on
        _standing.holding += self._here

    def __exit__(self, *_: object) -> None:
        _standing.holding -= self._here
        if self._here and not _standing.holding and (arrived := _standing.held) is not None:
            _standing.held = None
            _arrive(arrived[0], None)


class Stopper:
    """Turns signals into a wish to stop after the epoch in flight; a later one acts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._outer: Stopper | None = None

    def __enter__(self) -> Stopper:
        if threading.current_thread() is threading.main_thread():
            self._outer, _standing.patient = _standing.patient, self
            for number in NUMBERS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, _arrive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            _standing.patient = self._outer
            if not any(handler == _arrive for handler in self._before.values()):  # nobody above us asks what arrived
                _standing.first, _standing.acted = None, -1e9

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a signal."""
        end = time.monotonic() + seconds
        while not self.signal and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def stop(self) -> None:
        """Stop as after SIGTERM."""
        self.signal = self.signal or signal.SIGTERM

    def stopped(self) -> Stopped:
        """The error to raise once everything is saved."""
        return stopped(self.signal or signal.SIGTERM, "everything up to the last epoch is saved.")
