"""Epochs that wait to be stored together: a transaction costs as much as a short epoch takes.

Epochs of 50 ms or more are stored at once: a transaction is 1.1 ms of CPU time beside .35 ms for the rows of an epoch,
so that one of 20 ms would pay 6 % for it and one of 50 ms pays 2 %. Shorter ones wait for each other, at most half a
second from the first on, so that a kill loses less than a second of them; whatever ends, pauses or is checkpointed is
stored before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ncpl_cli.records import EpochRecord
from ncpl_cli.runs.observer import Observer
from ncpl_cli.store import Store

SHORT_SECONDS, WAIT_SECONDS = 0.05, 0.5


class Batch:
    """Epochs of all cohorts of a session, in the order in which they ended; the observer hears of what is stored."""

    def __init__(self, store: Store, observer: Observer) -> None:
        self._store, self._observer = store, observer
        self._waiting: list[tuple[str, int, EpochRecord]] = []
        self._since = 0.0

    def add(self, rows: Sequence[tuple[str, int, EpochRecord]], *, durable: bool = False) -> None:
        """Store an epoch of every run of a cohort (run, attempt, record): now, or with others that follow soon.

        `durable` is now, and the disk confirms it.
        """
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += rows
        if durable or sum(record.seconds + record.measure_seconds for _, _, record in rows) >= SHORT_SECONDS:
            self.flush(durable=durable)
        self.flush_old()

    def flush_old(self) -> None:
        """Store what has waited long enough."""
        if self._waiting and time.monotonic() - self._since >= WAIT_SECONDS:
            self.flush()

    def flush(self, *, durable: bool = False) -> None:
        """Store all that waits in one transaction; `durable` has the disk confirm it."""
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        self._store.save(rows, durable=durable)
        for run, _, record in rows:
            self._observer.epoch(run, record)
