"""A result carries its cause: versions, commit, device, engine, host, threads."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from ncpl_cli import __version__
from ncpl_cli.errors import without_passwords

LIBRARIES = ("torch", "torchvision", "numba", "numpy", "scipy", "sqlalchemy", "pandas", "scikit-learn")

NUMERICS = {"online": 2, "stacked": 2}
"""By engine, how often its results have come to round differently (1 where it is not named); to be raised with them.

online   2: sums of rows held in vector registers, updates of hidden rows in float32 throughout
stacked  2: convolutions laid out as they are used
"""


def numerics_of(engine: str) -> int:
    """The version of an engine's numerics: equal versions on one machine give equal bits."""
    return NUMERICS.get(engine, 1)


def provenance(device: str, engine: str) -> dict[str, object]:
    """What decides a result besides its settings, as plain values for the store."""
    import torch

    named = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return surroundings() | {
        "device": device,
        "device_name": named,
        "engine": engine,
        "numerics": numerics_of(engine),
        "threads": torch.get_num_threads(),
        "command": without_passwords(" ".join(["ncpl", *sys.argv[1:]])),
    }


def surroundings() -> dict[str, object]:
    """Versions, commit and machine: what holds for any program, without loading a numerical library."""
    return {
        "ncpl": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


@functools.cache
def commit() -> str | None:
    """The commit of a checkout (with `+` when it has changes), None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()[:12] + ("+" if dirty.stdout.strip() else "")


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
