"""What an epoch of permuted digits costs, all in: training, every default family, the forgetting matrix, the store.

    python benchmarks/digits_epoch.py [TASKS]

CPU milliseconds of this process (1 437 steps of 3x100 an epoch), by family, and how the cost grows with the tasks: a
run of six times as many against one of TASKS (default 80), where a cost that is linear in them gives 6.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from ncpl_cli import runs, settings
from ncpl_cli.data import load
from ncpl_cli.metrics.measured import Measured
from ncpl_cli.records import EpochRecord
from ncpl_cli.scenarios import PermutedDigits
from ncpl_cli.store import open_store

CPU: Counter[str] = Counter()


@contextlib.contextmanager
def timed(self: Measured, family: str) -> Iterator[None]:
    """In place of the wall clock: this thread's CPU time."""
    began = time.thread_time()
    yield
    CPU[family] += time.thread_time() - began
    self.seconds[family] = 0.0


class Nobody:
    """An observer."""

    def note(self, text: str) -> None: ...

    def expect(self, runs: int) -> None: ...

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None: ...

    def epoch(self, run: str, record: EpochRecord) -> None: ...

    def end(self, run: str, status: str) -> None: ...


def cost(tasks: int) -> float:
    """CPU seconds of a run."""
    options = {"tasks": tasks}
    dataset = settings.dataset_spec(PermutedDigits, options)
    data = load(dataset)
    specs = settings.specs(PermutedDigits, options, data, dataset, [0])
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "a.db") as store:
        began = time.process_time()
        runs.run(specs, store, data, device="cpu", observer=Nobody())
        return time.process_time() - began


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    Measured.timed = timed  # type: ignore[assignment]
    cost(3)
    CPU.clear()
    short = cost(tasks)
    parts = ", ".join(f"{name} {1e3 * taken / tasks:.1f}" for name, taken in CPU.most_common())
    print(f"an epoch of {tasks} tasks: {1e3 * short / tasks:.1f} CPU ms all in (bar 20), of them {parts}")
    many = cost(6 * tasks)
    print(f"{6 * tasks} tasks cost {many / short:.1f} times {tasks} (bar 7.5)")


if __name__ == "__main__":
    main()
