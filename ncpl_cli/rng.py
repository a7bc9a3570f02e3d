"""Randomness is an argument: every random thing draws from a stream of its own, named by what it is for.

A stream depends on nothing but the run's seed and its name, so adding a metric, a task or another seed
beside a run changes no number in it.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """The generator for one purpose, e.g. `stream(seed, "data order", task, epoch)`."""
    text = "\0".join([str(int(seed)), *(str(part) for part in name)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))
