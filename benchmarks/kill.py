"""Fifty `kill -9` at random instants during one study: the finished store must equal that of an undisturbed one.

    python benchmarks/kill.py [KILLS]

Compares every stored metric bit for bit, and the epochs one by one; exits 1 when anything differs.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.test_train import NCPL, contents

STUDY = ["train", "permuted-digits", "--seeds", "0-1", "--tasks", "1000", "--task-accuracy", "current", "--quiet"]


def main() -> None:
    """Run both studies and compare their stores."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    folder = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    subprocess.run([*NCPL, *STUDY, "--db", "calm.db"], cwd=folder, check=True, capture_output=True)
    calm = time.perf_counter() - began
    draw = random.Random(0)
    killed_early = 0
    for _ in range(kills):
        child = subprocess.Popen([*NCPL, *STUDY, "--db", "storm.db"], cwd=folder, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(1.0, 6.0))  # from before the store is open to well into training
        killed_early += child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    last = subprocess.run([*NCPL, *STUDY, "--db", "storm.db"], cwd=folder, check=False, capture_output=True, text=True)
    one, other = contents(folder / "calm.db"), contents(folder / "storm.db")
    rows = sum(map(len, one.values()))
    same = one == other
    print(
        f"{kills} kills ({killed_early} before the study was done), undisturbed {calm:.0f} s: {rows} rows "
        f"{'equal bit for bit' if same else 'DIFFER'}; exit code of the last run {last.returncode}"
    )
    sys.exit(0 if same and last.returncode == 0 else 1)


if __name__ == "__main__":
    main()
