"""The store as a queue: claims by 64 processes at once, the bookkeeping of 2 000 runs, throughput and overhead.

python benchmarks/sweep_costs.py [claims] [bookkeeping] [throughput]
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, Queue, open_store

NCPL = [sys.executable, "-m", "ncpl_cli"]
FACTS = {"online": {"ncpl": "benchmark"}}


def filled(path: str, count: int) -> list[str]:
    """A sweep of so many runs that were not begun; their ids."""
    infos = [RunInfo(f"{n:012x}", "{}", "permuted-digits", n, {"lr": n}, {"tasks": 140}, 140) for n in range(count)]
    with open_store(path) as store:
        store.register_all([(info, ["s"]) for info in infos])
        Queue(store).add("s", {"max_attempts": 5}, [("online", [info.id]) for info in infos])
    return [info.id for info in infos]


def claim(path: str, barrier: Any, answers: Any, seconds: float) -> None:
    """Take runs until none is left, saving five epochs of each within some seconds; how long each claim took."""
    record = EpochRecord(0, 0, 0, 0, 0.0, 0.0, {Address("online_accuracy"): 0.5})
    waits, errors = [], []
    with open_store(path) as store:
        queue, me = Queue(store), Owner.current()
        queue.settings("s")  # connected
        barrier.wait()
        while True:
            began = time.perf_counter()
            try:
                unit = queue.take("s", me, FACTS)
            except Exception as error:  # counted, and reported by the parent
                errors.append(str(error))
                continue
            if unit is None:
                break
            waits.append(time.perf_counter() - began)
            (run,) = unit.ids
            for epoch in range(5 if seconds else 0):
                store.save([(run, unit.attempts[run], replace(record, epoch=epoch))])
                time.sleep(seconds / 5)
            if seconds:
                store.finish(run, unit.attempts[run], "finished")
    answers.put((waits, errors))


def claims(processes: int = 64, each: int = 10) -> None:
    """Claims one after another as fast as they come, and claims between which runs of two seconds are saved."""
    for seconds in (0.0, 2.0):
        context = multiprocessing.get_context("spawn")
        path = str(Path(tempfile.mkdtemp()) / "claims.db")
        filled(path, processes * each)
        barrier, answers = context.Barrier(processes), context.Queue()
        workers = [context.Process(target=claim, args=(path, barrier, answers, seconds)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        found = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
        waits = sorted(wait for of, _ in found for wait in of)
        errors = [error for _, of in found for error in of]
        with open_store(path) as store:
            once = {row.attempt for row in store.runs()} == {1}
        quantiles = [1e3 * q for q in statistics.quantiles(waits, n=100)]
        print(
            f"{processes} processes, runs of {seconds:g} s, {len(waits)} claims: median {quantiles[49]:.1f} ms, p99 "
            f"{quantiles[98]:.1f} ms, most {1e3 * waits[-1]:.1f} ms; {len(errors)} errors; once each: {once}"
        )


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a command, Python's start included."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def bookkeeping(count: int = 2000) -> None:
    """What a sweep of so many runs costs when there is nothing to train: list, status, the same command again."""
    folder = Path(tempfile.mkdtemp())
    grid = ["--grid", "lr=" + ",".join(f"{0.001 + 0.0001 * n:.4f}" for n in range(count // 5)), "--seeds", "0-4"]
    sweep = [*NCPL, "sweep", "permuted-digits", *grid, "--name", "s", "--quiet"]
    code = (
        "import sys, time; from pathlib import Path; from ncpl_cli.commands import _grid\n"
        "from ncpl_cli.scenarios import PermutedDigits; from ncpl_cli.store import open_store, Queue\n"
        "from ncpl_cli.sweep import Options, enlist, outcome\n"
        "values = sys.argv[1]; began = time.perf_counter()\n"
        "study = _grid.from_options(PermutedDigits, {}, '0-4', [values], [], 's')\n"
        "arms, _ = _grid.arms_of(study, None); specs = time.perf_counter() - began\n"
        "with open_store('ncpl.db') as store:\n"
        "    began = time.perf_counter(); ids, before = enlist(arms, store, 's', Options(threads=1))\n"
        "    enlisted = time.perf_counter() - began; began = time.perf_counter()\n"
        "    found = outcome(Queue(store).overview('s'), ids, before); seen = time.perf_counter() - began\n"
        "    began = time.perf_counter(); store.runs(); listed = time.perf_counter() - began\n"
        "print(specs, enlisted, seen, listed, found.total)\n"
    )
    for what in ("first", "again"):
        done = subprocess.run(
            [sys.executable, "-c", code, grid[1]], cwd=folder, check=True, capture_output=True, text=True
        )
        specs, enlisted, seen, listed, total = map(float, done.stdout.split())
        print(
            f"{total:.0f} runs, {what}: specs {specs:.2f} s, register and plan {enlisted:.2f} s, status {seen:.3f} s, "
            f"list {listed:.3f} s"
        )
    with open_store(folder / "ncpl.db") as store, store.writing() as connection:  # as if all had been trained
        connection.exec_driver_sql("UPDATE runs SET status = 'finished', attempt = 1, seconds = 1.3")
        connection.exec_driver_sql(
            "WITH RECURSIVE e(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM e WHERE n < 140) INSERT INTO epochs "
            "(run, epoch, task, task_epoch, samples_seen, seconds, measure_seconds) "
            "SELECT pk, n, n, 1, n, 0.01, 0.001 FROM runs, e"
        )
    nothing = min(timed([*NCPL, "--version"], folder) for _ in range(3))
    imports = min(timed([sys.executable, "-c", "import ncpl_cli.sweep"], folder) for _ in range(3))
    for name, command in {
        "runs list": [*NCPL, "runs", "list"], "sweep status": [*NCPL, "sweep", "status", "s"], "sweep again": sweep,
    }.items():  # fmt: skip
        print(f"{name}: {min(timed(command, folder) for _ in range(3)):.2f} s wall")
    print(f"(Python's start {nothing:.2f} s, importing torch and the rest {imports:.2f} s of that)")


def throughput(runs: int = 40) -> None:
    """One worker of one thread against two, and what is neither training nor measuring: in a worker, and in all."""
    folder = Path(tempfile.mkdtemp())
    line = [*NCPL, "sweep", "permuted-digits", "--seeds", f"0-{runs - 1}", "--name", "s", "--quiet", "--threads", "1"]
    wall, cpu = {}, {}
    for jobs in (1, 2):
        before = _children()
        wall[jobs] = timed([*line, "--jobs", str(jobs), "--db", f"{jobs}.db"], folder)
        cpu[jobs] = _children() - before
    print(f"{runs} runs: one worker {wall[1]:.1f} s, two {wall[2]:.1f} s: {wall[2] / wall[1]:.2f} of the time")
    inside, _ = overhead(folder / "1.db")
    print(f"queue, store and checkpoints in a worker: {100 * inside:.1f} % of training and measuring (bar 20)")
    for jobs, seconds in cpu.items():
        _, useful = overhead(folder / f"{jobs}.db")
        print(
            f"CPU of the whole command with {jobs} of them, starts and imports too: {seconds:.1f} s, "
            f"{100 * (seconds / useful - 1):.0f} % more than training and measuring by the clock (bar 20, when quiet)"
        )


def _children() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def overhead(db: Path) -> tuple[float, float]:
    """Time of one worker, first claim to last finish, beyond training and measuring, as a share of both; and both."""
    with open_store(db) as store:
        rows = store.runs()
        began = min(attempt["started"] for row in rows for attempt in store.attempts(row.id))
        ended = max(row.finished or 0.0 for row in rows)
        with store.reading() as connection:
            both = connection.exec_driver_sql("SELECT sum(seconds) + sum(measure_seconds) FROM epochs").scalar()
    assert both is not None
    return float((ended - began) / both - 1), float(both)


WHAT: dict[str, Callable[[], None]] = {"claims": claims, "bookkeeping": bookkeeping, "throughput": throughput}


def main() -> None:
    """Run what is named, or all."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    for name in sys.argv[1:] or WHAT:
        WHAT[name]()
    print(json.dumps({"load": os.getloadavg()}))


if __name__ == "__main__":
    main()
