"""How right a dry run is, and what it costs: its time for an epoch beside what epochs then take, by kind of run.

    python benchmarks/dry_run.py [DATA_DIR]

A line a kind: seconds an epoch as a dry run says them without a store (the kernel and the arithmetic of a look), as the
engine with a real look, and as ten epochs of training then take (all of one thread; medians); their ratios; and the CPU
seconds of the whole command, which are to be at most 2. With DATA_DIR also of MNIST.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ncpl_cli import settings, timing
from ncpl_cli.data import load
from ncpl_cli.plan import plan
from ncpl_cli.scenarios import PermutedDigits, PermutedMNIST
from ncpl_cli.trainer import train

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (PermutedDigits, {}), (PermutedDigits, {"width": 20}), (PermutedDigits, {"width": 256}),
    (PermutedDigits, {"batch_size": 16, "depth": 2}), (PermutedMNIST, {}), (PermutedMNIST, {"width": 256}),
    (PermutedMNIST, {"train_samples": 10000, "depth": 2}),
]  # fmt: skip


def command_seconds(scenario: Any, given: dict[str, Any], data_dir: Path) -> float:
    """CPU seconds of the command line, without a store; the less of two."""
    options = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    line = [sys.executable, "-m", "ncpl_cli", "train", scenario.id, *options, "--data-dir", str(data_dir), "--dry-run"]
    found = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True, cwd=tempfile.gettempdir())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    """Print a line a kind."""
    torch.set_num_threads(1)
    data_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for scenario, given in KINDS:
        if scenario is PermutedMNIST and data_dir is None:
            continue
        asked = settings.asked(scenario, {**given, "tasks": 10})
        data = load(asked.dataset, data_dir)
        (cohort,) = plan(settings.on(asked, data, [0]), "cpu")
        said, engine = timing.seconds_per_epoch(cohort, data), timing.by_engine(cohort, data)
        records = [record for epoch in train(cohort, data) for record in epoch.records if record is not None]
        took = statistics.median(record.seconds + record.measure_seconds for record in records[2:])
        print(
            f"{scenario.id} {given}: dry run {1e3 * said:.1f} ms, engine {1e3 * engine:.1f} ms, epochs "
            f"{1e3 * took:.1f} ms: {said / took:.2f} and {engine / took:.2f} of it; "
            f"command {command_seconds(scenario, given, data_dir or Path()):.2f} CPU s",
            flush=True,
        )


if __name__ == "__main__":
    main()
