"""What all executors have: they start workers of a sweep and look after them, nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

DEATHS = 5
"""A worker that is killed so often in a row, while the sweep gets no further, is not started again."""


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

    options   what its constructor takes from the command line, by name
    on_this_machine  whether this machine's devices and cores are those that the workers get
    stays     whether the workers need this process to look after them
    most      workers where nobody says how many; None: as many as this machine has room for
    failures  what workers said that ended with an error, for the user
    """

    id: ClassVar[str]
    options: ClassVar[tuple[str, ...]]
    on_this_machine: ClassVar[bool]
    stays: ClassVar[bool]
    most: int | None
    failures: list[str]

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> str:
        """Start the workers, `environment` added to theirs; a line that says where they are."""

    def tend(self, progress: int) -> int:
        """Look after them, replacing those that were killed; how many live.

        `progress` grows while the sweep gets on: workers that die without any are not replaced for ever.
        """

    def stop(self) -> None:
        """Have all workers checkpoint and end; returns when they have."""


@dataclass
class Place:
    """One of the places, and the fate of the workers in it."""

    deaths: int = 0
    progress: int = -1

    def again(self, code: int, said: str, progress: int, failures: list[str]) -> bool:
        """Whether a worker that ended with this exit code is to be replaced; puts errors into `failures`."""
        if code < 0:  # by a signal that it could not answer
            self.deaths = 1 if progress > self.progress else self.deaths + 1
            self.progress = progress
            if self.deaths < DEATHS:
                return True
            failures.append(f"a worker was killed by signal {-code} {DEATHS} times in a row")
        elif code not in (0, os.EX_TEMPFAIL):
            failures.append(" ".join(said.strip().splitlines()[-2:]) or f"a worker ended with exit code {code}")
        return False


def thread_limits(threads: int) -> dict[str, str]:
    """Environment that keeps every library of a worker to its share of the cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "OMP_WAIT_POLICY": "passive"}
