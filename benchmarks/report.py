"""A report of 200 runs x 200 epochs: at most 40 s on two cores, and a page of at most 4 MB.

The store holds what such runs record: 15 metrics in wide rows, 12 in long ones, accuracy on ten earlier tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store

RUNS, EPOCHS, SEEDS = 200, 200, 5
WIDE = (
    "online_accuracy", "train_accuracy", "test_accuracy", "train_loss", "nc1", "nc2", "nc3", "nc4", "cdnv",
    "dead_units", "dormant_units", "effective_rank", "stable_rank", "weight_norm", "feature_norm",
)  # fmt: skip
LONG = ("bias_collapse", "nc1@test", "nc4@test", "equinorm_means", "srank", "vci", "distance_from_init",
        "spectral_norm", "cdnv@test", "nc2@test", "nc3@test", "vci@test")  # fmt: skip


def fill(url: str) -> None:
    draw = np.random.default_rng(0)
    with open_store(url) as store:
        for number in range(RUNS):
            arm, seed = divmod(number, SEEDS)
            settings = {"lr": 0.001 * (arm + 1), "dataset": "digits", "network": "mlp", "interventions": []}
            info = RunInfo(
                f"{number:012x}", json.dumps(number), "permuted-digits", seed, settings, {"tasks": EPOCHS}, EPOCHS,
                {"metrics": ["default"], "layers": "last", "every": 1},
            )  # fmt: skip
            store.register(info)
            attempt = store.claim([info.id], Owner.current(), {"ncpl": "benchmark"})[info.id]
            drift = np.cumsum(draw.normal(0, 0.001, EPOCHS))
            noise = draw.normal(0.5, 0.02, (EPOCHS, len(WIDE) + len(LONG)))
            rows = []
            for task in range(EPOCHS):
                values = {Address(m): float(abs(v + drift[task])) for m, v in zip(WIDE, noise[task], strict=False)}
                values |= {Address.parse(m): float(v) for m, v in zip(LONG, noise[task, len(WIDE) :], strict=True)}
                if task:
                    values[Address("plasticity_loss")] = values[Address("plasticity_loss_b24")] = float(drift[task])
                seen = {t: 0.9 ** (task - t) for t in range(max(0, task - 10), task + 1)}
                rows.append((info.id, attempt, EpochRecord(task + 1, task, 1, 0, 0.1, 0.0, values, {}, seen)))
            store.save(rows)
            store.finish(info.id, attempt, "finished")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url, page = f"{folder}/a.db", Path(folder) / "report.html"
        fill(url)
        began = time.perf_counter()
        command = [sys.executable, "-m", "ncpl_cli", "--quiet", "report", "--db", url, "-o", str(page)]
        subprocess.run(command, check=True)
        seconds, size = time.perf_counter() - began, page.stat().st_size / 1e6
    print(f"{RUNS} runs x {EPOCHS} epochs: {seconds:.1f} s (at most 40), {size:.1f} MB (at most 4)")
    if size > 4 or seconds > 40:
        sys.exit(1)


if __name__ == "__main__":
    main()
