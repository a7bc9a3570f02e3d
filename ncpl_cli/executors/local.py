"""Workers as processes of this machine, spawned, that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, ClassVar

from ncpl_cli.executors.executor import Places

DEATHS = 5
"""A worker that is killed so often in a row, while the sweep gets no further, is not started again."""

STOP_SECONDS = 120.0
"""How long a worker may take for its epoch in flight and the checkpoint."""


@dataclass
class _Slot:
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    said: IO[bytes]
    deaths: int = 0
    progress: int = -1


class Local:
    """Processes on this machine."""

    id: ClassVar[str] = "local"

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._slots: list[_Slot] = []
        self._command: list[str] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> None:
        """Start the workers: each with its share of the cores, and on one GPU where there are some."""
        self._command = [*command, "--parent", str(os.getpid())]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(places.threads))
        for number in range(places.workers):
            own = {**os.environ, **environment, **threads, "OMP_WAIT_POLICY": "passive", "NCPL_QUIET": "1"}
            if places.gpus:
                own["CUDA_VISIBLE_DEVICES"] = places.gpus[number % len(places.gpus)]
            said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
            self._slots.append(_Slot(self._spawn(own, said), own, said))

    def _spawn(self, environment: dict[str, str], said: IO[bytes]) -> subprocess.Popen[bytes]:
        # a session of its own: Ctrl-C reaches the parent only, which asks each worker once
        return subprocess.Popen(
            self._command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        )  # fmt: skip

    @property
    def pids(self) -> list[int]:
        """The living workers' process ids."""
        return [slot.process.pid for slot in self._slots if slot.process.poll() is None]

    def tend(self, progress: int) -> int:
        """Replace workers that were killed; how many live."""
        for slot in list(self._slots):
            code = slot.process.poll()
            if code is None:
                continue
            if code < 0:
                slot.deaths = 1 if progress > slot.progress else slot.deaths + 1
                slot.progress = progress
                if slot.deaths < DEATHS:
                    slot.process = self._spawn(slot.environment, slot.said)
                    continue
                self.failures.append(f"a worker was killed by {signal.Signals(-code).name} {DEATHS} times in a row")
            elif code not in (0, os.EX_TEMPFAIL):
                slot.said.seek(0)
                lines = slot.said.read().decode(errors="replace").strip().splitlines()
                self.failures.append("\n".join(lines[-2:]) or f"a worker ended with exit code {code}")
            slot.said.close()
            self._slots.remove(slot)
        return len(self._slots)

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL to who has not ended after STOP_SECONDS."""
        for slot in self._slots:
            if slot.process.poll() is None:
                slot.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for slot in self._slots:
            try:
                slot.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            slot.said.close()
        self._slots.clear()
