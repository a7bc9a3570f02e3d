"""A storm over a sweep: workers and parents killed, workers stalled for longer than their lease; nothing may differ.

    python benchmarks/storm.py [RUNS] [KILLS] [STALLS]

Trains the same sweep twice, once undisturbed with one worker, once with four while `kill -9` hits workers and the
parent and SIGSTOP stalls workers for longer than the lease. Every run must be finished exactly once, every epoch stored
exactly once, every metric equal bit for bit, and the store sound; exits 1 otherwise.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from ncpl_cli.errors import NcplError
from ncpl_cli.store import Queue, open_store
from tests.test_train import NCPL, contents

LEASE = 2.0
SHAPE = ["--train-samples", "300", "--width", "16", "--depth", "2", "--task-accuracy", "current"]


def sweep_line(seeds: int, tasks: int, db: str, jobs: int) -> list[str]:
    """The command line of the sweep: two arms on two engines, one run and a cohort of `seeds` runs at a time."""
    options = ["--name", "storm", "--jobs", str(jobs), "--threads", "1", "--lease", str(LEASE), "--quiet"]
    grid = ["--seeds", f"0-{seeds - 1}", "--grid", "batch_size=1,32", "--tasks", str(tasks)]
    return [*NCPL, "sweep", "permuted-digits", *SHAPE, *grid, *options, "--db", db]


def holding(db: Path) -> list[psutil.Process]:
    """The living workers that are training now, stalled ones left out."""
    found = []
    with contextlib.suppress(NcplError), open_store(db, readonly=True) as store:
        for one in Queue(store).overview("storm").working:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(one.owner.pid)
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                    found.append(process)
    return found


def begun(line: list[str], folder: Path) -> Any:
    """The sweep as a process."""
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL)


def storm(
    folder: Path, line: list[str], kills: int, stalls: int, seed: int = 0, start: Callable[..., Any] = begun
) -> dict[str, int]:
    """Run the sweep, as `start` starts it, through the storm to its end; what hit it.

    Each blow falls a random while after the last on a worker that is training, every sixth kill on the parent.
    """
    draw = random.Random(seed)
    parents = kills // 6
    blows = ["workers killed"] * (kills - parents) + ["parents killed"] * parents + ["stalls"] * stalls
    draw.shuffle(blows)
    stalled: list[tuple[float, psutil.Process]] = []
    hit = {"workers killed": 0, "parents killed": 0, "stalls": 0, "starts": 0}
    parent: Any = None
    next_blow = 0.0
    while True:
        code = None if parent is None else parent.poll()
        if code is not None and code >= 0:
            break
        if parent is None or code is not None:
            parent = start(line, folder)
            hit["starts"] += 1
        for due in [one for one in stalled if time.monotonic() > one[0]]:
            with contextlib.suppress(psutil.Error):
                due[1].resume()
            stalled.remove(due)
        if blows and time.monotonic() > next_blow and (workers := holding(folder / "storm.db")):
            one = draw.choice(workers)
            with contextlib.suppress(psutil.Error):
                if blows[-1] == "workers killed":
                    one.kill()
                elif blows[-1] == "parents killed":
                    parent.kill()
                    parent.wait()
                else:
                    one.suspend()
                    stalled.append((time.monotonic() + LEASE * draw.uniform(1.5, 2.5), one))
                hit[blows.pop()] += 1
            next_blow = time.monotonic() + draw.uniform(0.1, 1.5)
        time.sleep(0.05)
    for _, one in stalled:
        with contextlib.suppress(psutil.Error):
            one.resume()
    return hit


def compare(calm: Path, stormy: Path) -> list[str]:
    """What is wrong with the store of the storm, against the undisturbed one."""
    one, other = contents(calm), contents(stormy)
    wrong = [f"run {run} differs" for run in one.keys() | other.keys() if one.get(run) != other.get(run)]
    with open_store(stormy) as store:
        wrong += store.check()
        overview = Queue(store).overview("storm")
        for row in store.runs():
            epochs = [int(found["epoch"]) for found in store.rows(row.id)]
            if row.status != "finished" or epochs != list(range((row.total_epochs or 0) + 1)):
                wrong.append(f"run {row.id} is {row.status} with epochs {epochs[:3]} ... {epochs[-1:]}")
            outcomes = [attempt["outcome"] for attempt in store.attempts(row.id)]
            if outcomes.count("finished") != 1:
                wrong.append(f"run {row.id} was finished {outcomes.count('finished')} times")
        if overview.units_left:
            wrong.append(f"{overview.units_left} units are left")
    return wrong


def main() -> None:
    """Run both and compare."""
    count, kills, stalls = (int(text) for text in (*sys.argv[1:], *("60", "30", "15")[len(sys.argv) - 1 :]))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    folder = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    line = sweep_line(count // 2, 200, "calm.db", 1)
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    calm = time.perf_counter() - began
    began = time.perf_counter()
    hit = storm(folder, sweep_line(count // 2, 200, "storm.db", 4), kills, stalls)
    stormy = time.perf_counter() - began
    last = subprocess.run(sweep_line(count // 2, 200, "storm.db", 4), cwd=folder, capture_output=True, check=False)
    wrong = compare(folder / "calm.db", folder / "storm.db")
    with open_store(folder / "storm.db") as store:
        attempts = sum(row.attempt for row in store.runs())
        rows = store.info()["rows"]["epochs"]
    said = ", ".join(f"{number} {what}" for what, number in hit.items())
    print(f"{count} runs, {rows} epochs; {said}; {attempts} attempts; calm {calm:.0f} s, storm {stormy:.0f} s")
    print("equal bit for bit, each run finished once, store sound" if not wrong else "\n".join(wrong[:20]))
    sys.exit(1 if wrong or last.returncode else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
