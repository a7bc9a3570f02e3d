"""Who holds a run: a process on a host since a boot, and whether it still lives."""

from __future__ import annotations

import functools
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Owner:
    """A process: its host, the host's boot, its number and its start time."""

    host: str
    boot: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return cls(platform.node(), _boot(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def read(cls, text: str) -> Owner:
        """An owner as the store keeps it; raises ValueError where that is none."""
        found = json.loads(text)
        if not isinstance(found, dict) or found.keys() != {"host", "boot", "pid", "started"}:
            raise ValueError(f"{text[:40]} is no process")
        if not isinstance(found["pid"], int) or not 0 < found["pid"] < 2**31:
            raise ValueError(f"{found['pid']} is no number of a process")
        return cls(str(found["host"]), str(found["boot"]), found["pid"], float(found["started"]))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def dead(self) -> bool:
        """Whether the process is known to have ended: only decidable on its own host."""
        if self.host != platform.node():
            return False
        if self.boot != _boot():
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
