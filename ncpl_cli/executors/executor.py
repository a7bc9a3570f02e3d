"""What all executors have: they start workers of a sweep and look after them, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Places:
    """Where workers run.

    workers  how many at the same time
    threads  of each
    gpus     the devices they share, in turn (as CUDA_VISIBLE_DEVICES names them); none for CPU workers
    per_gpu  workers on each of them
    """

    workers: int
    threads: int = 1
    gpus: tuple[str, ...] = ()
    per_gpu: int = 1


class Executor(Protocol):
    """Starts `command` (an `ncpl sweep worker` line) in as many places as are asked for.

    failures  what workers said that ended with an error, for the user
    """

    id: ClassVar[str]
    failures: list[str]

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        """Start the workers, `environment` added to theirs."""

    def tend(self, progress: int) -> int:
        """Look after them, replacing those that were killed; how many live.

        `progress` grows while the sweep gets on: workers that die without any are not replaced for ever.
        """

    def stop(self) -> None:
        """Have all workers checkpoint and end; returns when they have."""
