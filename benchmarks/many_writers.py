"""Many processes on one store: how long a claim and the saving of an epoch take when all want to write.

    python benchmarks/many_writers.py [--processes 64] [--epochs 20] [--pace 0.1] [--new] [--without-turns]

All processes are started and have imported everything before any begins; each then claims a run of its own, saves its
epochs at the given pace (0: as fast as it can), and finishes. Times in ms; the load of the machine stands beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ncpl_cli.errors import NcplError
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import Owner, open_store
from ncpl_cli.store.schema import WIDE


def _record(epoch: int) -> EpochRecord:
    values = {Address(name): 0.1 + epoch for name in WIDE} | {Address(name, "test"): 0.5 for name in WIDE[8:13]}
    return EpochRecord(epoch, epoch, 1, epoch, 0.1, 0.01, values, {Address("plasticity_loss"): "first task"})


def _id(number: int) -> str:
    return f"{number:012x}"


def _write(url: str, number: int, epochs: int, pace: float, turns: bool, ready: Any, results: Any) -> None:
    if not turns:
        from ncpl_cli.store import turns as module

        module.Turns.taken = lambda self: contextlib.nullcontext()  # type: ignore[method-assign,assignment,return-value]
    found: dict[str, Any] = {"claim": [], "save": [], "finish": [], "errors": []}
    with open_store(url) as store:
        store.run(_id(number))
        ready.wait()
        if pace:
            time.sleep(random.random() * pace)

        def timed(kind: str, work: Any) -> Any:
            since = time.perf_counter()
            try:
                return work()
            except NcplError as error:
                found["errors"].append(str(error))
                return None
            finally:
                found[kind].append(time.perf_counter() - since)

        claimed = timed("claim", lambda: store.claim([_id(number)], Owner.current(), {"ncpl": "benchmark"})) or {}
        attempt, since = claimed.get(_id(number), 0), time.perf_counter()
        for epoch in range(epochs):
            if pace:  # an epoch is trained before it is saved
                time.sleep(max(0.0, since + (epoch + 1) * pace - time.perf_counter()))
            timed("save", lambda epoch=epoch: store.save([(_id(number), attempt, _record(epoch))]))
        timed("finish", lambda: store.finish(_id(number), attempt, "finished"))
    results.put(found)


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pace", type=float, default=0.1)
    parser.add_argument("--without-turns", action="store_true")
    parser.add_argument("--new", action="store_true", help="a store in which no metric is known yet")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "a.db")
        with open_store(url) as store:
            infos = [
                RunInfo(_id(n), str(n), "permuted-digits", n, {}, {}, given.epochs) for n in range(given.processes)
            ]
            store.register_all([(info, []) for info in infos])
            if not given.new:  # a store in use knows its metrics; the first that stores one makes views anew
                attempt = store.claim([_id(0)], Owner.current(), {})[_id(0)]
                store.save([(_id(0), attempt, _record(0))])
                store.truncate(_id(0), attempt, -1)
                store.release(_id(0), attempt)
        context = multiprocessing.get_context("fork")
        ready, results = context.Barrier(given.processes + 1), context.Queue()
        workers = [
            context.Process(
                target=_write, args=(url, n, given.epochs, given.pace, not given.without_turns, ready, results)
            )
            for n in range(given.processes)
        ]
        load = os.getloadavg()[0]
        for worker in workers:
            worker.start()
        ready.wait()
        since = time.perf_counter()
        found = [results.get() for _ in workers]
        seconds = time.perf_counter() - since
        for worker in workers:
            worker.join()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        with open_store(url) as store:
            assert store.check() == [] and store.info()["runs"] == {"finished": given.processes}
            assert store.info()["rows"]["epochs"] == given.processes * given.epochs
        left = sorted(path.name for path in Path(folder).iterdir())
    print(
        f"{given.processes} processes, {given.epochs} epochs, pace {given.pace} s, load before {load:.1f}: "
        f"{seconds:.1f} s, {cpu:.1f} s of CPU time"
    )
    print(f"errors\t{sum(len(one['errors']) for one in found)}\tleft\t{', '.join(left)}")
    print("ms\tp50\tp99\tmax")
    for kind in ("claim", "save", "finish"):
        times = 1000 * np.array([value for one in found for value in one[kind]])
        print(f"{kind}\t{np.percentile(times, 50):.1f}\t{np.percentile(times, 99):.1f}\t{times.max():.1f}")


if __name__ == "__main__":
    main()
