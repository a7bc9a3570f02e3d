"""Workers as processes of this machine, spawned, that end with their parent."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, ClassVar

from ncpl_cli.executors.executor import Place, Places, thread_limits
from ncpl_cli.values import count

STOP_SECONDS = 120.0
"""How long a worker may take for its epoch in flight and the checkpoint."""


@dataclass
class _Slot:
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    said: IO[bytes]
    place: Place


class Local:
    """Processes of this machine."""

    id: ClassVar[str] = "local"
    options: ClassVar[tuple[str, ...]] = ()
    on_this_machine: ClassVar[bool] = True
    stays: ClassVar[bool] = True

    def __init__(self) -> None:
        self.most: int | None = None
        self.failures: list[str] = []
        self._slots: list[_Slot] = []
        self._command: list[str] = []

    def start(self, command: Sequence[str], environment: Mapping[str, str], places: Places) -> str:
        """Start the workers: each with its share of the cores, and on one GPU where there are some."""
        self._command = [*command, "--parent", str(os.getpid())]
        for number in range(places.workers):
            own = {**os.environ, **environment, **thread_limits(places.threads), "NCPL_QUIET": "1"}
            if places.gpus:
                own["CUDA_VISIBLE_DEVICES"] = places.gpus[number % len(places.gpus)]
            said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
            self._slots.append(_Slot(self._spawn(own, said), own, said, Place()))
        gpus = f" on GPU {', '.join(places.gpus)}" if places.gpus else ""
        return f"{count(places.workers, 'worker')} of {count(places.threads, 'thread')}{gpus}"

    def _spawn(self, environment: dict[str, str], said: IO[bytes]) -> subprocess.Popen[bytes]:
        # a session of its own: Ctrl-C reaches the parent only, which asks each worker once
        return subprocess.Popen(
            self._command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            start_new_session=True,
        )  # fmt: skip

    def tend(self, progress: int) -> int:
        """Replace workers that were killed; how many live."""
        for slot in list(self._slots):
            code = slot.process.poll()
            if code is None:
                continue
            slot.said.seek(0)
            said = slot.said.read().decode(errors="replace")
            if slot.place.again(code, said, progress, self.failures):
                slot.process = self._spawn(slot.environment, slot.said)
            else:
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
