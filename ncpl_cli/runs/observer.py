"""Who watches runs: the terminal, or nobody."""

from __future__ import annotations

from typing import Protocol

from ncpl_cli.records import EpochRecord


class Observer(Protocol):
    """What a watcher is told; one that has `follow(probes)` also how many probes will branch off the next runs."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def expect(self, runs: int) -> None:
        """So many runs will begin."""

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None:
        """A run starts, or goes on after `done` epochs; it has `total` epochs, at most where that is not exact."""

    def epoch(self, run: str, record: EpochRecord) -> None:
        """A run has finished an epoch, and it is saved."""

    def end(self, run: str, status: str) -> None:
        """A run has ended."""
